"""Under which name each engine is watched: what it serves, so that its history goes on when it is started anew. Pure.

Two engines may serve the same, one of them elsewhere; added up they would be neither of them. So the second is watched
as `NAME (2)`, and an engine keeps its name for as long as it is there.
"""

from collections.abc import Collection, Iterator, Mapping
from itertools import count
from typing import NamedTuple


class Served(NamedTuple):
    """An engine, and what it serves; when it serves something else, it is another one."""

    id: str
    model: str


def told_apart(
    before: Mapping[Served, str], serving: Collection[Served], known: Collection[Served]
) -> dict[Served, str]:
    """Names of all that serve, and still of those that did and are `known`. A name is free again when its engine no
    longer serves."""
    names = {one: name for one, name in before.items() if one in known}
    taken = {names[one] for one in serving if one in names}
    for one in serving:
        if one not in names:
            names[one] = next(name for name in _names(one.model) if name not in taken)
            taken.add(names[one])
    return names


def _names(model: str) -> Iterator[str]:
    yield model
    for number in count(2):
        yield f"{model} ({number})"
