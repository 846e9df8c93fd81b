"""vLLM's log as plain text: without colours, progress bars and secrets, and its errors as a list. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.redaction import redact_text

LINE_LIMIT_CHARS = 8_000
"""Of a line that is read for an error. vLLM's longest has 3,498; patterns take quadratic time on a hostile one."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PREFIX = re.compile(
    r"^(?:\((?P<process>[\w.-]+)[^)]{0,60}\) )?"
    r"(?:(?:INFO|WARNING|ERROR|CRITICAL|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]+\] ?)?)?"
)
_ERROR = re.compile(
    r"^(?P<kind>(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|NotFound|Expired)): (?P<text>.*)"
    r"|^vllm(?: serve)?: error: (?P<usage>.*)"
    r"|^launch: (?P<launch>.*)"
)
_PYDANTIC_INPUT = re.compile(r"\s*\[type=\w+, input_value=.*$", re.DOTALL)


@dataclass(frozen=True)
class LoggedError:
    """One raised error: who logged it (`Worker`, `EngineCore`, `` for the server), its class and its words."""

    process: str
    kind: str
    text: str

    @property
    def words(self) -> str:
        """As vLLM wrote it: `ValueError: …`."""
        return f"{self.kind}: {self.text}" if self.kind else self.text


def plain_text(line: str) -> str:
    """A line for people: no colours, only the last state of a progress bar, no control characters, no secrets."""
    line = _ANSI.sub("", line.rstrip("\r\n")).rpartition("\r")[2]
    return redact_text(_UNPRINTABLE.sub("", line))


def logged_errors(log_text: str) -> list[LoggedError]:
    """The errors in the order in which they were logged."""
    lines = [_split(line) for line in log_text.splitlines()]
    return list(_errors(lines))


def _split(line: str) -> tuple[str, str]:
    text = plain_text(line[:LINE_LIMIT_CHARS])
    prefix = _PREFIX.match(text)
    if prefix is None:
        return "", text
    return prefix["process"] or "", text[prefix.end() :]


def _errors(lines: Sequence[tuple[str, str]]) -> Iterator[LoggedError]:
    for index, (process, text) in enumerate(lines):
        found = _ERROR.match(text)
        if found is None:
            continue
        if found["kind"] is None:
            yield LoggedError(process, "", found["usage"] or found["launch"] or "")
        else:
            kind = found["kind"].rpartition(".")[2]
            yield LoggedError(process, kind, _whole_text(kind, found["text"], process, lines[index + 1 :]))


def _whole_text(kind: str, first: str, process: str, following: Sequence[tuple[str, str]]) -> str:
    """The words of an error; pydantic's and some others' go on in the next lines."""
    if kind == "ValidationError":
        said = [part.strip() for _, part in _until_advice(following)]
        return _PYDANTIC_INPUT.sub("", " ".join(said).removeprefix("Value error, ")) or first
    rest = []
    if first.rstrip().endswith(":"):
        rest = [part.strip() for name, part in following[:4] if name == process and part.startswith(("(", "- ", "* "))]
    return " ".join([first.strip(), *rest])


def _until_advice(following: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    for index, (_, text) in enumerate(following[:15]):
        if "For further information visit" in text:
            return following[:index]
    return ()
