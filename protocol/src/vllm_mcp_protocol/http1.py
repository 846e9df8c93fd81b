"""HTTP/1.1 answers out of bytes that come cut anywhere: the head, and the body in each of its three framings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

MAX_LINE_BYTES = 4096
_HEX = frozenset(b"0123456789abcdefABCDEF")


class BadHttp(Exception):
    """Not HTTP/1.x as any server sends it."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers, these by lower-case name."""

    status: int
    reason: str
    headers: Mapping[str, str]
    version: str

    @property
    def keeps_alive(self) -> bool:
        wish = self.headers.get("connection", "").lower()
        return "close" not in wish and (self.version != "HTTP/1.0" or "keep-alive" in wish)


def parse_head(data: bytes) -> Head:
    """The bytes up to the empty line. Raises BadHttp."""
    first, *lines = data.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or len(status) != 3 or not (status.isascii() and status.isdigit()):
        raise BadHttp(f"the answer begins with {first[:60]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if line and not colon:
            raise BadHttp(f"a header is {line[:60]!r}")
        if line:
            headers[name.strip().lower()] = value.strip()
    return Head(int(status), reason.strip()[:200], headers, version)


class Body(Protocol):
    """Takes what arrives after the head."""

    done: bool

    def feed(self, part: bytes) -> bytes:
        """The body's bytes in it. Raises BadHttp."""
        ...

    def end(self) -> bool:
        """The connection ended: was the body whole?"""
        ...


def body_of(head: Head) -> Body:
    """How the body of this answer is framed, which is none to HEAD. Raises BadHttp."""
    if head.status in (204, 304):
        return LengthBody(0)
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        return ChunkedBody()
    length = head.headers.get("content-length")
    if length is None:
        return OpenBody()
    if not (length.isascii() and length.isdigit()):
        raise BadHttp(f"content-length is {length[:30]!r}")
    return LengthBody(int(length))


class LengthBody:
    """So many bytes."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, part: bytes) -> bytes:
        taken = part[: self._left]
        self._left -= len(taken)
        self.done = self._left == 0
        return taken

    def end(self) -> bool:
        return self.done


class OpenBody:
    """Up to the end of the connection."""

    done = False

    def feed(self, part: bytes) -> bytes:
        return part

    def end(self) -> bool:
        self.done = True
        return True


class ChunkedBody:
    """Chunks, each with its length before it, and one of length 0 at the end."""

    def __init__(self) -> None:
        self.done = False
        self._rest = b""
        self._left = 0
        """Bytes that are missing of the chunk under way, with the line end after it."""
        self._trailers = False

    def feed(self, part: bytes) -> bytes:
        data = self._rest + part if self._rest else part
        out: list[bytes] = []
        at = 0
        while not self.done:
            if self._left:
                taken = data[at : at + self._left]
                out.append(taken[: max(0, self._left - 2)])
                at += len(taken)
                self._left -= len(taken)
                if self._left:
                    break
                continue
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                if len(data) - at > MAX_LINE_BYTES:
                    raise BadHttp("the length of a chunk is no line")
                break
            self._take_line(data[at:line_end])
            at = line_end + 2
        self._rest = b"" if self._left else data[at:]
        return b"".join(out)

    def _take_line(self, line: bytes) -> None:
        if self._trailers:
            self.done = not line
            return
        size = line.partition(b";")[0].strip()
        if not size or len(size) > 15 or not set(size) <= _HEX:
            raise BadHttp(f"the length of a chunk is {line[:30]!r}")
        length = int(size, 16)
        if length:
            self._left = length + 2
        else:
            self._trailers = True

    def end(self) -> bool:
        return self.done
