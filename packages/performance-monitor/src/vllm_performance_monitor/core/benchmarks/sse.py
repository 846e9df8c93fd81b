"""Server-sent events out of bytes that come cut anywhere, as the HTML standard reads them."""

import re
from dataclasses import dataclass, field

MAX_EVENT_BYTES = 8 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


class NotAnEventStream(Exception):
    """What comes is not a stream of events, or one event is larger than any of a model's."""


def _is_one_event(part: bytes) -> bool:
    """What vLLM sends at a time; worth a short cut, for a load generator must be quick."""
    return part[:6] == b"data: " and part.find(b"\n") == len(part) - 2 and part[-2:] == b"\n\n" and b"\r" not in part


@dataclass
class EventReader:
    """Feed it bytes; it gives the data of every event that is whole.

    Comments (keep-alives) and fields other than data are skipped, several data lines are joined by line breaks, lines
    end in LF, CR LF or CR. An event that no empty line ends is not given, unless `finish` is asked for it: some
    servers forget the line after the last.
    """

    _rest: bytes = b""
    _data: list[bytes] = field(default_factory=list)
    _size: int = 0
    _began: bool = False

    def feed(self, part: bytes) -> list[str]:
        """Raises NotAnEventStream for an event that is too large."""
        if not (self._rest or self._data) and self._began and _is_one_event(part):
            return [part[6:-2].decode(errors="replace")]
        events: list[str] = []
        text = self._rest + part if self._rest else part
        at = 0
        for end in _LINE_END.finditer(text):
            if end.group() == b"\r" and end.end() == len(text):
                break  # its LF may be still to come
            self._line(text[at : end.start()], events)
            at = end.end()
        self._rest = text[at:]
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise NotAnEventStream(f"one event is larger than {MAX_EVENT_BYTES >> 20} MiB")
        return events

    def finish(self) -> list[str]:
        """The event that nothing ended, when there is one."""
        events: list[str] = []
        if self._rest:
            self._line(self._rest.removesuffix(b"\r"), events)
            self._rest = b""
        self._line(b"", events)
        return events

    def _line(self, line: bytes, events: list[str]) -> None:
        if not self._began:
            self._began = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._data:
                events.append(b"\n".join(self._data).decode(errors="replace"))
                self._data, self._size = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(line)
