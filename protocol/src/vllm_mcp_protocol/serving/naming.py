"""Names that somebody may have meant. Pure."""

from collections.abc import Iterable


def closest(given: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The one of `known` that `given` is likely a misspelling of."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(given, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str | None) -> str:
    """A sentence with a space in front, to be put behind another; empty for None."""
    return f" Did you mean {name}?" if name else ""
