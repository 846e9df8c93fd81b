"""Bytes and seconds, spoken the way people write them. Pure."""

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def to_mib(size_bytes: float) -> int:
    """Whole MiB, rounded up, so that a need is never shown smaller than it is."""
    return -int(-size_bytes // MIB)


def format_bytes(size_bytes: float) -> str:
    """A size for people: ``964 KiB``, ``1.6 GiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """A duration for people: ``0.4 s``, ``2 min 05 s``, ``3 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
