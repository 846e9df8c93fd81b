"""The host's memory as /proc and the cgroups tell it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63."""

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def meminfo(proc: Path = PROC) -> dict[str, int]:
    """The sizes of /proc/meminfo in bytes."""
    lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    pairs = (line.split(":", 1) for line in lines if line.endswith("kB"))
    return {key: int(value.split()[0]) * 1024 for key, value in pairs}


def within_cgroup(info: dict[str, int], proc: Path = PROC, cgroup: Path = CGROUP) -> tuple[int, int]:
    """(total, available) bytes: those of `meminfo`, within the limits of this process's cgroup."""
    total_bytes, free_bytes = info["MemTotal"], info["MemAvailable"]
    for limit_bytes, used_bytes in _cgroup_limits(proc, cgroup):
        total_bytes = min(total_bytes, limit_bytes)
        free_bytes = min(free_bytes, max(0, limit_bytes - used_bytes))
    return total_bytes, free_bytes


def text_of(path: Path) -> str:
    """What a file of the kernel says; nothing where it does not exist or refuses."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _cgroup_limits(proc: Path, root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of this process's memory cgroup and of those above it that have a limit."""
    for line in text_of(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits_upwards(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _limits_upwards(root / "memory", path, *names)


def _limits_upwards(root: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    # Inside a container the path may be the host's and absent here; the root is then the container's own cgroup.
    relative = Path(path.lstrip("/"))
    for folder in (root / relative, *(root / parent for parent in relative.parents)):
        limit_bytes = _number(text_of(folder / limit))
        if limit_bytes is not None and limit_bytes < _UNLIMITED_BYTES:
            used_bytes = _number(text_of(folder / usage)) or 0
            yield limit_bytes, max(0, used_bytes - _stat_value(folder / "memory.stat", cache))


def _stat_value(path: Path, key: str) -> int:
    """File pages that the kernel drops when memory is wanted are counted as used by the cgroup, and are free."""
    for line in text_of(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
