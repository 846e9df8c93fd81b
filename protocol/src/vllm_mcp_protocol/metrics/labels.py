"""Names, labels and numbers of a line of metrics, by the grammar of the Prometheus text format and OpenMetrics. Pure.

Most lines of an engine have the labels of another line, and nobody escapes anything. So there is a quick reader for
what is simple, which declines the rest, and a careful one that takes everything and says what is wrong. Their patterns
give nothing back (`*+`), so that no line takes more than linear time.
"""

import re
from typing import NamedTuple

from vllm_mcp_protocol.metrics.families import Malformed

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*+")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*+")
_QUOTED = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_EMPTY_VALUES = re.compile(r'(?!__)[a-zA-Z_][a-zA-Z0-9_]*+=""(?:,(?!__)[a-zA-Z_][a-zA-Z0-9_]*+="")*+')
_SPACES, _NOTHING = re.compile(r"[ \t]*+"), re.compile("")
_ESCAPE = re.compile(r'\\([\\n"])')


class Block(NamedTuple):
    """What stands between braces."""

    name: str
    """The metric's name, where it stands among the labels, in quotes (Prometheus 3); or empty."""
    labels: dict[str, str]
    end: int
    """Where the line goes on after the closing brace."""


class SimpleLabels:
    """Reads `a="b",c="d"` without escapes or spaces, and remembers the few sets of keys that a text has."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, ...], tuple[str, ...]] = {}

    def read(self, text: str) -> dict[str, str] | None:
        """None for everything that is not simple, right or wrong."""
        # Without escapes, what stands between quotes is a value and what stands around them is not.
        parts = text.split('"')
        around = tuple(parts[::2])
        keys = self._keys.get(around) or self._keys_in(around)
        # There are as many values; to have zip check it costs a tenth of all the time.
        return dict(zip(keys, parts[1::2])) if keys and "\\" not in text else None  # noqa: B905

    def _keys_in(self, around: tuple[str, ...]) -> tuple[str, ...]:
        keys = tuple(start.strip(",=") for start in around[:-1])
        if not _EMPTY_VALUES.fullmatch('""'.join(around)) or len(set(keys)) < len(keys):
            return ()
        self._keys[around] = keys
        return keys


def read_block(line: str, at: int, *, loose: bool) -> Block:
    """The labels that begin at `line[at]`, behind the opening brace.

    `loose` allows the spaces and the last comma of the Prometheus text format; OpenMetrics has neither.
    Raises Malformed.
    """
    spaces = _SPACES if loose else _NOTHING
    name, labels = "", dict[str, str]()
    at = _past(spaces, line, at)
    while not (line.startswith("}", at) and (loose or not (name or labels))):
        quoted = line.startswith('"', at)
        key, at = _quoted(line, at) if quoted else _plain(line, at)
        at = _past(spaces, line, at)
        if line.startswith("=", at):
            value, at = _quoted(line, _past(spaces, line, at + 1))
            if key == "__name__":
                key, value = value, ""
                quoted = True
            else:
                quoted = False
                _add(labels, key, value)
            at = _past(spaces, line, at)
        elif not quoted:
            raise Malformed(f"label {key[:40]} has no value")
        if quoted:
            if name or not key:
                raise Malformed("the metric has two names" if name else "the metric's name is empty")
            name = key
        if line.startswith("}", at):
            break
        if not line.startswith(",", at):
            raise Malformed(f"{line[at]!r} behind a label" if at < len(line) else "the labels are not closed")
        at = _past(spaces, line, at + 1)
    return Block(name, labels, at + 1)


def _past(spaces: re.Pattern[str], line: str, at: int) -> int:
    match = spaces.match(line, at)
    return match.end() if match else at


def _plain(line: str, at: int) -> tuple[str, int]:
    match = _LABEL_NAME.match(line, at)
    if match is None:
        raise Malformed(f"{line[at]!r} where a label begins" if at < len(line) else "the labels are not closed")
    return match[0], match.end()


def _quoted(line: str, at: int) -> tuple[str, int]:
    match = _QUOTED.match(line, at)
    if match is None:
        raise Malformed("quotes are not closed" if line.startswith('"', at) else "the value of a label has no quotes")
    return unescape(match[1]), match.end()


def _add(labels: dict[str, str], key: str, value: str) -> None:
    if key.startswith("__"):
        raise Malformed(f"label {key[:40]} is reserved")
    if key in labels:
        raise Malformed(f"label {key[:40]} is there twice")
    labels[key] = value


def unescape(text: str) -> str:
    r"""A value without its escapes `\\`, `\"`, `\n`; another backslash stands for itself."""
    return _ESCAPE.sub(_meant, text) if "\\" in text else text


def _meant(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def read_name(line: str, at: int) -> tuple[str, int]:
    """The metric's name that begins at `line[at]`, in metadata also in quotes, and where it ends. Raises Malformed."""
    if line.startswith('"', at):
        name, end = _quoted(line, at)
        if not name:
            raise Malformed("the metric's name is empty")
        return name, end
    match = _METRIC_NAME.match(line, at)
    if match is None:
        raise Malformed("a metric's name is missing")
    return match[0], match.end()


def plain_name(line: str, at: int = 0) -> str:
    """The metric's name that begins at `line[at]`, or nothing."""
    match = _METRIC_NAME.match(line, at)
    return match[0] if match else ""


def number(text: str) -> float:
    """A value: decimal, `NaN`, `Inf`, `+Inf`, `-Inf` (in any case). Raises Malformed."""
    value = plain_number(text)
    if value is None:
        raise Malformed(f"{text[:40]!r} is no number" if text else "there is no value")
    return value


def plain_number(text: str) -> float | None:
    """The same; None for everything else."""
    # Python's own reading is wider: digits of other scripts, underscores between digits, space around.
    if text.isascii() and "_" not in text and text.strip() == text:
        try:
            return float(text)
        except ValueError:
            pass
    return None
