"""Formats that a chat template gives away by its own markers, and the parsers of vLLM that read them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_TEMPLATE = 1 << 20
"""Characters that are looked at; the longest template seen has some 30,000."""

Marker = str | tuple[str, ...]
"""A text that the template contains; of several, any one."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a family of models writes something, and who reads it."""

    parsers: tuple[str, ...]
    """vLLM's names, the best first; they read the same format. Empty: vLLM has none."""
    markers: tuple[Marker, ...]
    """All of them are in the template."""
    model_types: tuple[str, ...] = ()
    """How `model_type` of config.json begins, where the markers alone do not decide; empty: any."""


@dataclass(frozen=True, slots=True)
class Match:
    """A format that was recognised."""

    format: Format
    evidence: str
    """What was found where, for example ``chat_template.jinja: `[TOOL_CALLS]```."""


def recognise(formats: Iterable[Format], template: str, model_type: str, source: str) -> Match | None:
    """The first of `formats` that `template` shows, with its evidence; `source` is the template's file."""
    text = template[:LONGEST_TEMPLATE].replace('\\"', '"').replace("\\'", "'")
    for one in formats:
        found = [_found(marker, text) for marker in one.markers]
        begins = next((start for start in one.model_types if model_type.startswith(start)), None)
        if all(found) and (begins or not one.model_types):
            typed = f", config.json: model_type {model_type}" if begins else ""
            return Match(one, f"{source}: {' and '.join(f'`{marker}`' for marker in found)}{typed}")
    return None


def offered(match: Match, parsers: Iterable[str]) -> str | None:
    """The best parser of a format that is among `parsers`."""
    have = set(parsers)
    return next((name for name in match.format.parsers if name in have), None)


def _found(marker: Marker, text: str) -> str | None:
    alternatives = (marker,) if isinstance(marker, str) else marker
    return next((one for one in alternatives if one in text), None)
