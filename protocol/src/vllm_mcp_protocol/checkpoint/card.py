"""License, tags and languages from the front matter of a model's README.md. Pure, and never raises.

The front matter is YAML; what the Hub writes of it is a small part: `key: value`, `key: [a, b]`, and lists of `- item`
lines. Only that is read. Nested objects, anchors and block texts (`|`, `>`) count as absent; a comma within quotes
separates like any other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

FRONT_MATTER_LIMIT_CHARS = 65_536
"""The longest cards list some hundred languages and data sets: 20 KB. A card that measures itself (`model-index`) can
have more; the keys that are read stand before it."""
_MOST_ITEMS = 200
_ITEM_LIMIT_CHARS = 200
_QUOTES = "\"'"
_NOT_PLAIN = "[{|>&*!"
"""How a value begins that is not a plain text."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the card says; None or empty where it does not."""

    license: str | None = None
    """Identifier such as `apache-2.0`; `license_name` where that is only `other`."""
    license_link: str | None = None
    base_models: tuple[str, ...] = ()
    """Repositories that it was made from."""
    base_model_relation: str | None = None
    """`adapter`, `finetune`, `merge` or `quantized`."""
    pipeline_tag: str | None = None
    """The Hub's name of the task: `text-generation`, `feature-extraction`, …"""
    library_name: str | None = None
    tags: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    gated_prompt: bool = False
    """The card asks for consent (`extra_gated_…`): the repository may be gated."""


def read_model_card(text: str) -> ModelCard:
    """The facts of a README.md, which may be cut after its front matter; an empty card where there is none."""
    found = dict(_entries(_front_matter(text)))
    named = _one(found, "license")
    return ModelCard(
        license=_one(found, "license_name") or named if named in (None, "other") else named,
        license_link=_one(found, "license_link"),
        base_models=_several(found, "base_model"),
        base_model_relation=_one(found, "base_model_relation"),
        pipeline_tag=_one(found, "pipeline_tag"),
        library_name=_one(found, "library_name"),
        tags=_several(found, "tags"),
        languages=_several(found, "language"),
        gated_prompt=any(key.startswith("extra_gated_") for key in found),
    )


def _front_matter(text: str) -> list[str]:
    """Lines between the first two lines of `---`; none without the second one."""
    lines = text.removeprefix("\ufeff")[:FRONT_MATTER_LIMIT_CHARS].splitlines()
    if not lines or lines[0].rstrip() != "---":
        return []
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    return lines[1:end] if end or len(text) > FRONT_MATTER_LIMIT_CHARS else []


def _entries(lines: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Keys at the left margin and their values; of a key that comes twice, the caller keeps the last."""
    for number, line in enumerate(lines):
        key, colon, rest = line.partition(":")
        if not colon or not key or key != key.strip() or key[0] in "-#" or (rest and rest[0] not in " \t"):
            continue
        value = _without_comment(rest.strip())
        if value.startswith("[") and value.endswith("]"):
            yield key, _items(value[1:-1].split(","))
        elif not value:
            yield key, _items(_listed(lines[number + 1 : number + 1 + _MOST_ITEMS]))
        else:
            yield key, _items([value]) if value[0] not in _NOT_PLAIN else ()


def _listed(lines: Sequence[str]) -> Iterator[str]:
    """Items of a list that begins on the next line, indented or not."""
    for line in lines:
        stripped = line.strip()
        if not stripped.startswith("-") and stripped and stripped[0] != "#":
            return
        item = stripped.removeprefix("-").strip()
        if stripped.startswith("- ") and item[0] not in _NOT_PLAIN:
            yield item


def _items(found: Sequence[str] | Iterator[str]) -> tuple[str, ...]:
    texts = (_plain(item) for item in found)
    kept = (text for text in texts if text)
    return tuple(islice(kept, _MOST_ITEMS))


def _plain(item: str) -> str | None:
    """A scalar without quotes and comment; None for one that is empty, null or long."""
    value = _without_comment(item.strip())
    if value and value[0] in _QUOTES:
        value, _, _ = value[1:].partition(value[0])
    usable = 0 < len(value) <= _ITEM_LIMIT_CHARS and value not in ("null", "~")
    return value.encode(errors="replace").decode() if usable else None


def _without_comment(value: str) -> str:
    if value and value[0] in _QUOTES:
        return value
    return "" if value.startswith("#") else value.partition(" #")[0].rstrip()


def _one(found: dict[str, tuple[str, ...]], key: str) -> str | None:
    return next(iter(found.get(key, ())), None)


def _several(found: dict[str, tuple[str, ...]], key: str) -> tuple[str, ...]:
    return found.get(key, ())
