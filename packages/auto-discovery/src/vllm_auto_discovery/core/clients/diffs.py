"""Unified diffs of configurations that may be shown: bounded, and without secrets. Pure."""

import difflib
import re

from vllm_mcp_protocol.redaction import HIDDEN, is_secret_name, redact_text

LIMIT_BYTES = 12_000
"""A tool's answer has about 20 KB; the diff is one part of it."""
LINE_LIMIT_CHARS = 500
_BIG_CHARS = 400_000
"""Beyond this, difflib would take seconds."""

_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:\s*)"((?:[^"\\]|\\.)*)"')
_REFERENCE = re.compile(r"\{(?:env|file):[^{}]+\}|\$\{?\w+\}?|\$\(cat [^()]+\)|cat \S+|printenv \w+|none")
"""Values that say where a secret is, and hold none."""
_LOGIN = re.compile(r"(://)[^/@\s\"]+@")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def unified_diff(before: str, after: str, name: str) -> str:
    """What changes from `before` to `after`, three lines of context around it; empty for equal texts."""
    if before == after:
        return ""
    if len(before) + len(after) > _BIG_CHARS:
        return f"{name}: {len(before)} characters become {len(after)}; too long to show"
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{name} (now)", f"{name} (then)", lineterm=""
    )
    text = "\n".join(_cut(_redacted(line)) for line in lines)
    shown = text.encode(errors="replace")[:LIMIT_BYTES].decode(errors="ignore")
    return text if len(shown) == len(text) else f"{shown}\n… ({len(text)} characters)"


def _cut(line: str) -> str:
    return line if len(line) <= LINE_LIMIT_CHARS else f"{line[:LINE_LIMIT_CHARS]}… ({len(line)} characters)"


def _redacted(line: str) -> str:
    parts, at = [], 0
    for match in _PAIR.finditer(line):
        parts += [without_secrets(line[at : match.start()]), _redacted_pair(match)]
        at = match.end()
    return "".join([*parts, without_secrets(line[at:])])


def _redacted_pair(match: re.Match[str]) -> str:
    name, colon, value = match.groups()
    if _REFERENCE.fullmatch(value):
        return match[0]
    if is_secret_name(_CAMEL.sub("_", name)):
        return f'"{name}"{colon}"{HIDDEN}"'
    return without_secrets(match[0])


def without_secrets(text: str) -> str:
    """`text` without passwords of addresses and what looks like a key."""
    return redact_text(_LOGIN.sub(rf"\1{HIDDEN}@", text))
