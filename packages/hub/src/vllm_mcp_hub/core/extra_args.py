"""Reading `extra_args`: only flags that are known to be harmless, by their exact names. Pure.

argparse takes any unambiguous prefix of a flag, and vLLM also underscores for dashes, short forms, and keys of a
JSON flag one by one. None of these is accepted here: what is checked must be what vLLM will read.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_mcp_hub.core import flag_table as table
from vllm_mcp_hub.core.flag_table import Kind
from vllm_mcp_protocol.errors import BadInput, ConflictingFlags, FlagNotAllowed, FlagNotSupported

FlagValue = bool | str | tuple[str, ...] | Mapping[str, Any]
Extras = Mapping[str, FlagValue]
"""What `extra_args` say: flag → value; a switch is True, its `--no-` form False under the positive name."""

MAX_ARGUMENT_CHARS = 20_000
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which no command line and no log can carry."""

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def check_extra_args(extra_args: Sequence[str], supported: frozenset[str]) -> Extras:
    """What `extra_args` say, when all of it is allowed; `supported` are vLLM's flags, empty when not known.

    Raises FlagNotAllowed, FlagNotSupported, ConflictingFlags, or BadInput for a value the flag cannot take.
    """
    found: dict[str, FlagValue] = {}
    for name, base, kind, texts in _items(extra_args, supported):
        if base in found:
            raise ConflictingFlags(
                f"extra_args give {base} twice.",
                suggestion=f"Give {base} once.",
                flag=base,
                parameter="extra_args",
            )
        found[base] = base == name if kind is Kind.SWITCH and not texts else _value(base, kind, texts)
    return found


def _items(extra_args: Sequence[str], supported: frozenset[str]) -> Iterator[tuple[str, str, Kind, list[str]]]:
    """Each flag as it was written, its positive name, its kind, and the texts that belong to it."""
    rest = list(extra_args)
    _check_characters(rest)
    while rest:
        name, equals, inline = rest.pop(0).partition("=")
        base, kind = _allowed_kind(name, supported)
        yield name, base, kind, [inline] if equals else _take_values(rest, kind)


def written_flags(extra_args: Sequence[str]) -> tuple[str, ...]:
    """`extra_args`, checked, as they go on vLLM's command line: each value in one word with its flag.

    vLLM's parser takes a word such as -1.5 for a flag with a dotted key, and swallows the word after it. Several
    values follow their flag as words of their own: none of them begins with a dash. Raises as `check_extra_args`.
    """
    words: list[str] = []
    for name, _, _, texts in _items(extra_args, frozenset()):
        words += [f"{name}={texts[0]}"] if len(texts) == 1 else [name, *texts]
    return tuple(words)


def parse_flags(flags: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Flag → values of a command line that was built here (of a start record, say); switches have none."""
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for token in flags:
        if token.startswith("--"):
            name, equals, inline = token.partition("=")
            found[name] = (inline,) if equals else ()
        elif name:
            found[name] = (*found[name], token)
    return found


def human_int(text: str) -> int:
    """A whole number as vLLM reads it: 16, 8k (8,000), 8K (8,192), 16M (16 MiB). Raises ValueError."""
    match = re.fullmatch(r"(-?[0-9]{1,18})(\.[0-9]{1,9})?([kKmMgGtT]?)", text)
    if match is None or (match[2] and match[3] not in _DECIMAL):
        raise ValueError(f"{text!r} is not {Kind.INT.value}")
    factor = _DECIMAL.get(match[3]) or _BINARY[match[3]]
    return round(float(match[1] + match[2]) * factor) if match[2] else int(match[1]) * factor


def extra_int(extras: Extras, flag: str, default: int) -> int:
    """The number that `extra_args` give for a flag of kind INT."""
    value = extras.get(flag)
    return human_int(value) if isinstance(value, str) else default


def _allowed_kind(name: str, supported: frozenset[str]) -> tuple[str, Kind]:
    _check_spelling(name)
    base = name if name in table.ALLOWED else re.sub(r"^--no-", "--", name)
    if base in table.REFUSED or name in table.REFUSED:
        why, instead = table.REFUSED[base if base in table.REFUSED else name]
        raise _not_allowed(name, f"it {why}", f"Use {instead}." if instead else "")
    if name in table.REMOVED and name not in supported:
        successor = table.REMOVED[name]
        raise FlagNotSupported(
            f"extra_args: {name} is of an older vLLM and no longer exists.",
            suggestion=f"Use {successor}.",
            flag=name,
            successor=successor,
            parameter="extra_args",
        )
    kind = table.ALLOWED.get(base)
    if kind is None or (base != name and kind is not Kind.SWITCH):
        raise _unknown(name, supported)
    if supported and name not in supported:
        raise _unknown(name, supported)
    return base, kind


def _check_characters(tokens: Sequence[str]) -> None:
    for index, token in enumerate(tokens):
        if _SURROGATE.search(token):
            raise BadInput(
                f"extra_args: number {index + 1} of them is not text that UTF-8 can hold.",
                suggestion="Write it again by hand.",
                parameter="extra_args",
            )


def _check_spelling(name: str) -> None:
    if not name.startswith("-") or name in ("-", "--"):
        raise BadInput(
            f"extra_args: {name[:80]!r} is a value without a flag.",
            suggestion="Give flags by their full names, each value right after its flag.",
            parameter="extra_args",
            value=name[:80],
        )
    if not name.startswith("--"):
        letters = re.sub(r"[.\d].*$", "", name)
        full = table.SHORT_FORMS.get(letters, "its full name")
        raise _not_allowed(name, "short forms are not read", f"Write {full}.")
    if "." in name or name.endswith("+"):
        whole = name.partition(".")[0]
        raise _not_allowed(name, "keys are not read one by one", f"Write {whole} with one JSON object.")
    if "_" in name:
        raise _not_allowed(name, "vLLM spells flags with dashes", f"Write {name.replace('_', '-')}.")


def _not_allowed(name: str, why: str, instead: str) -> FlagNotAllowed:
    return FlagNotAllowed(
        f"extra_args: {name[:80]} is not allowed: {why}.",
        suggestion=instead or f"Leave {name[:80]} out.",
        flag=name[:80],
        why=why,
        parameter="extra_args",
    )


def _unknown(name: str, supported: frozenset[str]) -> BadInput:
    if name in supported:
        return _not_allowed(name, "it is not on the list of flags that are known to be harmless", "")
    known = sorted(table.ALLOWED.keys() & supported if supported else table.ALLOWED.keys())
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    close = close or [flag for flag in known if flag.startswith(name)][:3]
    hint = f"Did you mean {' or '.join(close)}?" if close else "See `vllm serve --help=all` of the installed vLLM."
    return FlagNotSupported(
        f"extra_args: the installed vLLM has no flag {name[:80]}.",
        suggestion=hint,
        flag=name[:80],
        close_matches=close,
        parameter="extra_args",
    )


def _take_values(rest: list[str], kind: Kind) -> list[str]:
    texts: list[str] = []
    limit = {Kind.SWITCH: 0, Kind.NAMES: len(rest)}.get(kind, 1)
    while rest and len(texts) < limit and (not rest[0].startswith("-") or _is_number(rest[0], kind)):
        texts.append(rest.pop(0))
    return texts


def _is_number(text: str, kind: Kind) -> bool:
    return kind in (Kind.INT, Kind.FLOAT) and bool(table.VALUE_PATTERNS[kind].fullmatch(text))


def _value(flag: str, kind: Kind, texts: Sequence[str]) -> FlagValue:
    if kind is Kind.SWITCH or not texts:
        raise _bad_value(flag, kind, texts)
    for text in texts:
        _check_text(flag, kind, text)
    if kind is Kind.JSON:
        return _json_value(flag, texts[0])
    if kind in (Kind.INT, Kind.FLOAT):
        _check_number(flag, kind, texts[0])
    return tuple(texts) if kind is Kind.NAMES else texts[0]


def _check_number(flag: str, kind: Kind, text: str) -> None:
    number = human_int(text) if kind is Kind.INT else float(text)
    least = 1 if flag in table.POSITIVE else 0
    if number < least and flag not in table.SIGNED:
        raise BadInput(
            f"extra_args: {flag} must be {least} or more, not {text}.",
            suggestion=f"Give {flag} a larger number, or leave it out.",
            parameter="extra_args",
            flag=flag,
            value=text,
        )


def _check_text(flag: str, kind: Kind, text: str) -> None:
    if len(text) > MAX_ARGUMENT_CHARS or "\0" in text:
        raise _bad_value(flag, kind, [text])
    choices = table.CHOICES.get(flag)
    if choices is not None and text not in choices:
        raise _not_allowed(flag, f"here it may only be {', '.join(sorted(choices))}, not {text[:40]!r}", "")
    pattern = table.VALUE_PATTERNS.get(kind)
    if pattern is not None and not pattern.fullmatch(text):
        raise _bad_value(flag, kind, [text])
    if text in table.CODE_VALUES:
        raise _not_allowed(flag, f"{text} {table.CODE}", "")


def _bad_value(flag: str, kind: Kind, texts: Sequence[str]) -> BadInput:
    given = " ".join(texts)[:80]
    return BadInput(
        f"extra_args: {flag} takes {kind.value}, not {given!r}."
        if texts
        else f"extra_args: {flag} takes {kind.value}.",
        suggestion=f"Give {flag} with {kind.value}."
        if kind is not Kind.SWITCH
        else f"Write {flag}, or --no-{flag[2:]}.",
        parameter="extra_args",
        flag=flag,
        value=given,
    )


def _json_value(flag: str, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise _bad_value(flag, Kind.JSON, [text])
    allowed_keys = table.JSON_KEYS.get(flag)
    for key in value:
        if allowed_keys is not None and key not in allowed_keys:
            raise _not_allowed(f"{flag}.{key}", f"only {', '.join(sorted(allowed_keys))} are harmless", "")
    for key, leaf in _leaves(flag, value):
        _check_leaf(flag, key, leaf)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two equal keys one parser takes the first and another the last: what was checked must be what is read."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth; an item of a list goes by the list's key."""
    match value:
        case dict():
            for name, item in value.items():
                yield name, None
                yield from _leaves(name, item)
        case list():
            for item in value:
                yield from _leaves(key, item)
        case _:
            yield key, value


def _check_leaf(flag: str, key: str, leaf: Any) -> None:
    if not key.startswith("--") and table.FORBIDDEN_KEY.search(key):
        raise _not_allowed(f"{flag} with the key {key[:40]!r}", "such a key names code, a place or a secret", "")
    if not isinstance(leaf, str):
        return
    if leaf in table.CODE_VALUES or table.FORBIDDEN_TEXT.search(leaf):
        raise _not_allowed(f"{flag} with {leaf[:40]!r}", "the value names code, a file or an address", "")
    pattern = table.JSON_TEXTS.get(f"{flag}.{key}", table.JSON_TEXTS.get(flag))
    if pattern is not None and not pattern.fullmatch(leaf):
        raise _not_allowed(f"{flag}: {key[:40]} with {leaf[:40]!r}", "vLLM could take it for code or a file", "")
