"""What changed between two snapshots of a session: its messages and its engines, as data and in plain words. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.units import format_seconds
from vllm_state_persistence.core.engine_capture import (
    CapturedEngine,
    Change,
    EngineCapture,
    engine_changes,
    value_changes,
)
from vllm_state_persistence.core.manifest import Entry, Ref

MOST_SENTENCES = 40
"""A tool's answer has about 20 KB; a sentence has at most some 300 characters."""

_QUOTED_CHARS = 80
_VALUE_CHARS = 60
_SHOWN_MESSAGES = 3
"""Of each kind of change so many messages are quoted; the others are counted."""


Texts = Mapping[Ref, str]
"""What contents say, in short."""


@dataclass(frozen=True, slots=True)
class ChangedEntry:
    """A record that both snapshots have, with other content."""

    before: Entry
    after: Entry


@dataclass(frozen=True, slots=True)
class Records:
    """What became of the records, each in the order of its snapshot."""

    added: tuple[Entry, ...] = ()
    changed: tuple[ChangedEntry, ...] = ()
    removed: tuple[Entry, ...] = ()
    reordered: bool = False
    """Records that both have stand in another order."""


@dataclass(frozen=True, slots=True)
class Engines:
    """What became of the engines and the request defaults."""

    added: tuple[CapturedEngine, ...] = ()
    removed: tuple[CapturedEngine, ...] = ()
    changes: tuple[Change, ...] = ()
    remotes_added: tuple[str, ...] = ()
    remotes_removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """All that changed from one snapshot to another."""

    records: Records = Records()
    engines: Engines = Engines()

    @property
    def nothing(self) -> bool:
        return self == Difference()


def difference(
    before: Sequence[Entry],
    after: Sequence[Entry],
    engines_before: EngineCapture | None = None,
    engines_after: EngineCapture | None = None,
) -> Difference:
    """What changed from `before` to `after`. Engines are compared only where both snapshots captured them."""
    records = record_difference(before, after)
    if engines_before is None or engines_after is None:
        return Difference(records)
    return Difference(records, engine_difference(engines_before, engines_after))


def record_difference(before: Sequence[Entry], after: Sequence[Entry]) -> Records:
    """Records are the same by kind and key; a key that occurs twice is told apart by its turn."""
    old, new = dict(_named(before)), dict(_named(after))
    shared = [name for name in new if name in old]
    return Records(
        added=tuple(entry for name, entry in new.items() if name not in old),
        changed=tuple(ChangedEntry(old[name], new[name]) for name in shared if old[name].content != new[name].content),
        removed=tuple(entry for name, entry in old.items() if name not in new),
        reordered=shared != [name for name in old if name in new],
    )


def _named(entries: Iterable[Entry]) -> Iterator[tuple[tuple[str, str, int], Entry]]:
    seen: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        name = (entry.kind, entry.key)
        yield (*name, seen[name]), entry
        seen[name] += 1


def engine_difference(before: EngineCapture, after: EngineCapture) -> Engines:
    """Engines are the same by the name that they serve."""
    old = {engine.served_name: engine for engine in before.engines}
    new = {engine.served_name: engine for engine in after.engines}
    changes = [change for name in new if name in old for change in engine_changes(old[name], new[name])]
    for model in sorted(before.defaults.keys() | after.defaults.keys()):
        given, now = before.defaults.get(model, {}), after.defaults.get(model, {})
        changes += value_changes(model, "default", given, now)
    return Engines(
        added=tuple(engine for name, engine in new.items() if name not in old),
        removed=tuple(engine for name, engine in old.items() if name not in new),
        changes=tuple(changes),
        remotes_added=tuple(sorted(set(after.remotes) - set(before.remotes))),
        remotes_removed=tuple(sorted(set(before.remotes) - set(after.remotes))),
    )


def quoted(records: Records) -> tuple[list[Entry], list[Entry]]:
    """The entries that `in_words` quotes: of the first snapshot, and of the second."""
    changed = records.changed[:_SHOWN_MESSAGES]
    before = [*(pair.before for pair in changed), *records.removed[:_SHOWN_MESSAGES]]
    return before, [*(pair.after for pair in changed), *records.added[:_SHOWN_MESSAGES]]


def in_words(found: Difference, texts: Texts | None = None, limit: int = MOST_SENTENCES) -> tuple[str, ...]:
    """At most `limit` (two or more) sentences; the last says how many were left out. `texts`: of what is `quoted`."""
    if found.nothing:
        return ("Nothing changed.",)
    sentences = [*_record_sentences(found.records, texts or {}), *_engine_sentences(found.engines)]
    if len(sentences) <= limit:
        return tuple(sentences)
    return (*sentences[: limit - 1], f"And {len(sentences) - limit + 1} more changes.")


def _record_sentences(records: Records, texts: Texts) -> Iterator[str]:
    if records.added:
        yield f"{_counted(records.added)} added{_quoted(records.added, texts)}"
    if records.changed:
        yield f"{_counted([pair.after for pair in records.changed])} changed{_changes_quoted(records.changed, texts)}"
    if records.removed:
        yield f"{_counted(records.removed)} removed{_quoted(records.removed, texts)}"
    if records.reordered:
        yield "Records that both have stand in another order."


def _counted(entries: Sequence[Entry]) -> str:
    """`3 records (2 user, 1 file) were`: by role, or by kind for what is no message."""
    names = Counter(entry.role or entry.kind for entry in entries)
    inner = ", ".join(f"{count:,} {_clean(name, 40)}" for name, count in names.most_common(5))
    more = f", {len(names) - 5} other kinds" if len(names) > 5 else ""
    return f"{len(entries):,} record{'s' if len(entries) > 1 else ''} ({inner}{more}) {_were(len(entries))}"


def _were(count: int) -> str:
    return "were" if count > 1 else "was"


def _quoted(entries: Sequence[Entry], texts: Texts) -> str:
    quotes = [quote for entry in entries[:_SHOWN_MESSAGES] if (quote := _quote(texts.get(entry.content, "")))]
    return _list_end(quotes, len(entries))


def _changes_quoted(pairs: Sequence[ChangedEntry], texts: Texts) -> str:
    quotes = [_before_after(pair, texts) for pair in pairs[:_SHOWN_MESSAGES]]
    return _list_end([quote for quote in quotes if quote], len(pairs))


def _before_after(pair: ChangedEntry, texts: Texts) -> str:
    before, after = _quote(texts.get(pair.before.content, "")), _quote(texts.get(pair.after.content, ""))
    if before == after:
        return f"{after} (beyond its beginning)" if after else ""
    return f"{before or 'nothing'} became {after or 'nothing'}"


def _list_end(texts: Sequence[str], count: int) -> str:
    more = " and others" if count > len(texts) else ""
    return f": {', '.join(texts)}{more}." if texts else "."


def _quote(text: str) -> str:
    cleaned = _clean(text, _QUOTED_CHARS)
    return f"“{cleaned}”" if cleaned else ""


def _clean(text: str, limit: int) -> str:
    """One line of printable characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _engine_sentences(engines: Engines) -> Iterator[str]:
    for engine in engines.added:
        yield f"Engine {_clean(engine.served_name, 200)} was added{_with(engine)}."
    for engine in engines.removed:
        yield f"Engine {_clean(engine.served_name, 200)} is gone{_with(engine)}."
    for change in engines.changes:
        yield change_in_words(change)
    for address in engines.remotes_added:
        yield f"The remote engine at {_clean(address, 200)} was attached."
    for address in engines.remotes_removed:
        yield f"The remote engine at {_clean(address, 200)} is not attached any more."


def _with(engine: CapturedEngine) -> str:
    """What is worth saying of an engine in half a line."""
    told = [f"{name}={_value(value)}" for name, value in engine.options.items() if name != "served_model_name"][:6]
    told += ["pinned"] if engine.pinned else []
    told += ["asleep"] if engine.asleep else []
    told += [f"adapter {_clean(lora.name, 40)}" for lora in engine.loras[:3]]
    return f" ({', '.join(told)})" if told else ""


def change_in_words(change: Change) -> str:
    """One sentence about one changed value."""
    model, before, after = _clean(change.model, 200), change.before, change.after
    match change.part:
        case "pin":
            return f"{model} is {'pinned now' if after else 'not pinned any more'}."
        case "asleep":
            return f"{model} {'sleeps now' if after else 'is awake now'}."
        case "idle limit":
            return f"{model}: its idle limit was {_seconds(before)}, is {_seconds(after)}."
        case "devices":
            return f"{model} was on {_places(before)}, is on {_places(after)}."
        case "files":
            return f"{model} ran revision {_value(before)} of its files, runs {_value(after)}."
        case "adapter":
            return _adapter_sentence(model, change)
        case _:
            owner = f"Request defaults of {model}" if change.part == "default" else model
            return f"{owner}: {_clean(change.name, 60)} was {_value(before)}, is {_value(after)}."


def _adapter_sentence(model: str, change: Change) -> str:
    name = _clean(change.name, 60)
    if change.before is None:
        return f"{model}: adapter {name} was loaded from {_clean(str(change.after), 200)}."
    if change.after is None:
        return f"{model}: adapter {name} is not loaded any more."
    return f"{model}: adapter {name} comes from {_clean(str(change.after), 200)} instead of another folder."


def _value(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return _clean(f"[{', '.join(map(str, value))}]", _VALUE_CHARS)
    return _clean(str(value), _VALUE_CHARS) or "empty"


def _seconds(value: float | None) -> str:
    return "not set" if value is None else format_seconds(value)


def _places(devices: Sequence[str]) -> str:
    return ", ".join("the CPU" if device == "cpu" else f"GPU {device}" for device in devices) or "no device"
