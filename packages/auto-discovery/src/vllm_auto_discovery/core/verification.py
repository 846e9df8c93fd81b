"""What a check of cached files found, and which checksum a blob's name is. Pure.

huggingface_hub names a blob after the ETag of the file: the SHA-256 of its content for files that Git LFS or Xet hold,
else the name that git gives it: SHA-1 of `blob <size>`, a zero byte, and the content.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vllm_mcp_protocol.hf.inventory import UnfinishedBlob
from vllm_mcp_protocol.units import format_bytes

Status = Literal["ok", "unchecked", "corrupt", "missing", "unreadable"]
"""`unchecked`: it is there, and nothing says what its content should be."""
Algorithm = Literal["sha256", "git-sha1"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ExpectedFile:
    """What the Hub says of a file."""

    size_bytes: int | None = None
    sha256: str | None = None
    """None for small files that git itself holds."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of the revision."""

    name: str
    status: Status
    size_bytes: int = 0
    expected: str | None = None
    """Checksum, or size in words, that it should have."""
    actual: str | None = None
    detail: str = ""
    """In words, for all but `ok`."""


@dataclass(frozen=True, slots=True)
class Verification:
    """One revision of a repository, checked."""

    repo_id: str
    commit: str
    files: tuple[FileCheck, ...]
    """By name."""
    unfinished: tuple[UnfinishedBlob, ...]
    """Downloads in the repository that have not ended."""
    read_bytes: int
    cancelled: bool
    """It was stopped: files that are not listed were not looked at."""

    def with_status(self, *wanted: Status) -> tuple[FileCheck, ...]:
        """The files of which that was found."""
        return tuple(check for check in self.files if check.status in wanted)

    @property
    def sound(self) -> bool:
        """Was everything looked at, and nothing found wrong?"""
        return not self.cancelled and not self.with_status("corrupt", "missing", "unreadable")


def algorithm_of(checksum: str) -> Algorithm | None:
    """Which checksum a blob's name is; None when it is none."""
    if _SHA256.fullmatch(checksum):
        return "sha256"
    return "git-sha1" if _GIT_SHA1.fullmatch(checksum) else None


def expected_checksum(blob: str | None, told: ExpectedFile | None) -> str | None:
    """What the content must hash to: the Hub's word, where there is one, before the name of the blob."""
    if told is not None and told.sha256:
        return told.sha256.lower()
    return blob if blob is not None and algorithm_of(blob) else None


def judge_size(name: str, size_bytes: int, told: ExpectedFile | None) -> FileCheck | None:
    """A file of the wrong size is corrupt, and need not be read."""
    if told is None or told.size_bytes in (None, size_bytes):
        return None
    wanted, have = f"{told.size_bytes} bytes", f"{size_bytes} bytes"
    shown = f"it has {format_bytes(size_bytes)} of {format_bytes(told.size_bytes or 0)}"
    return FileCheck(name, "corrupt", size_bytes, wanted, have, shown)


def judge_checksum(name: str, size_bytes: int, expected: str, actual: str) -> FileCheck:
    """Whether the content is what it should be."""
    if actual == expected:
        return FileCheck(name, "ok", size_bytes, expected, actual)
    return FileCheck(name, "corrupt", size_bytes, expected, actual, "its content does not have its checksum")


def missing_files(broken_links: tuple[str, ...], here: set[str], told: Mapping[str, ExpectedFile]) -> list[FileCheck]:
    """Files that should be there: links whose blob is gone, and what the Hub lists beyond the snapshot."""
    gone = {name: "the Hub lists it, the snapshot does not" for name in told if name not in here}
    gone |= dict.fromkeys(broken_links, "its blob is not there")
    return [FileCheck(name, "missing", expected=_size(told.get(name)), detail=why) for name, why in gone.items()]


def _size(told: ExpectedFile | None) -> str | None:
    return None if told is None or told.size_bytes is None else f"{told.size_bytes} bytes"
