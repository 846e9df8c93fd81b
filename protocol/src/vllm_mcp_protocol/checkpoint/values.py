"""Values out of JSON that somebody else wrote: of the wrong type, they count as absent. Pure."""

from collections.abc import Mapping
from typing import Any

LARGEST = 2**53
"""Beyond this a JSON number is not exact, and no model's."""


def whole(value: Any) -> int | None:
    """A positive whole number (`2048` or `2048.0`), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 1 <= value <= LARGEST and int(value) == value else None


def number(value: Any, least: float, most: float) -> float | None:
    """A number within bounds, else None; NaN is within none."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    return float(value) if usable else None


def short_text(value: Any) -> str | None:
    """A non-empty text of at most 200 characters that can be written as UTF-8, else None."""
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        return None
    return None if any("\ud800" <= char <= "\udfff" for char in value) else value


def first_whole(described: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """The value of the first key that has a positive whole number."""
    return next((value for key in keys if (value := whole(described.get(key)))), None)


def model_type(described: Mapping[str, Any]) -> str:
    """`model_type`; empty when there is none."""
    return short_text(described.get("model_type")) or ""


def part(described: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under `key`; empty when there is none."""
    found = described.get(key)
    return found if isinstance(found, dict) else {}
