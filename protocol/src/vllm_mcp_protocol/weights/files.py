"""Reads the headers of weight files, and never their tensors. The caller says which files: links are followed."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from vllm_mcp_protocol.reading import printable
from vllm_mcp_protocol.units import MIB, format_bytes
from vllm_mcp_protocol.weights.gguf import HEADER_LIMIT_BYTES, GgufHeader, NeedMore, parse_gguf
from vllm_mcp_protocol.weights.headers import LENGTH_BYTES, BadHeader, Tensor, json_size, parse_safetensors

_FIRST_READ_BYTES = 1 * MIB
"""Of a GGUF file: enough for a small tokenizer; then eight times as much each time, as the parser starts over."""
_GROWTH = 8


class Read(Protocol):
    """`size` bytes from `offset`; fewer at the end of the file."""

    def __call__(self, size: int, offset: int, /) -> bytes: ...


def read_safetensors(path: Path) -> tuple[Tensor, ...]:
    """The tensors of a safetensors file. Raises BadHeader, naming the file, and OSError."""
    with _opened(path) as (read, size_bytes):
        return safetensors_from(read, size_bytes)


def read_gguf(path: Path) -> GgufHeader:
    """The header of a GGUF file. Raises BadHeader, naming the file, and OSError."""
    with _opened(path) as (read, size_bytes):
        return gguf_from(read, size_bytes)


def safetensors_from(read: Read, size_bytes: int) -> tuple[Tensor, ...]:
    """The tensors of a safetensors file of `size_bytes`, in two reads. Raises BadHeader."""
    length = json_size(read(LENGTH_BYTES, 0), size_bytes)
    return parse_safetensors(read(length, LENGTH_BYTES), size_bytes)


def gguf_from(read: Read, size_bytes: int) -> GgufHeader:
    """The header of a GGUF file of `size_bytes`, in as few reads as its length needs. Raises BadHeader."""
    start, wanted = b"", _FIRST_READ_BYTES
    while True:
        start += read(min(wanted, size_bytes) - len(start), len(start))
        try:
            return parse_gguf(start, size_bytes)
        except NeedMore as more:
            if more.size_bytes > HEADER_LIMIT_BYTES:
                limit = format_bytes(HEADER_LIMIT_BYTES)
                raise BadHeader(f"the header has more than {limit}, which is all that is read") from None
            if len(start) < min(wanted, size_bytes):
                raise BadHeader("the file was cut while it was read") from None
            wanted = min(max(wanted * _GROWTH, more.size_bytes), HEADER_LIMIT_BYTES)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Read, int]]:
    """A regular file: a named pipe would block, a device never end."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BadHeader("not a regular file")
        yield partial(os.pread, handle), status.st_size
    except BadHeader as error:
        raise BadHeader(f"{printable(path.name)}: {error}") from None
    finally:
        os.close(handle)
