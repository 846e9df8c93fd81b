"""Secrets never reach a log, an error or the audit file; long values reach them cut. Pure."""

import re
from typing import Any

VALUE_LIMIT_CHARS = 200

HIDDEN = "(hidden)"

# Whole words between underscores: `hf_token` and `api_key` are secrets, `max_tokens` is not.
_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passphrase|passwd|key|authorization|credentials?|cookie)(?:$|[_-])",
    re.I,
)
_SECRET_VALUE = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")
_BEARER = re.compile(r"(?i)\b(bearer\s+)\S+")


def is_secret_name(name: str) -> bool:
    """Does a parameter or key of this name hold a secret?"""
    return bool(_SECRET_NAME.search(name))


def shown(name: str, value: Any) -> str:
    """`value` of parameter `name` for people: hidden when secret, cut when long."""
    if is_secret_name(name):
        return HIDDEN
    text = redact_text(repr(value))
    return text if len(text) <= VALUE_LIMIT_CHARS else f"{text[:VALUE_LIMIT_CHARS]}… ({len(text)} characters)"


def redacted(name: str, value: Any) -> Any:
    """`value` as JSON data for the audit log: the same shape, without secrets and without long texts."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if is_secret_name(name):
        return HIDDEN
    match value:
        case dict():
            return {str(key): redacted(str(key), item) for key, item in value.items()}
        case list() | tuple():
            kept = [redacted(name, item) for item in value[:20]]
            return [*kept, f"… ({len(value)} items)"] if len(value) > len(kept) else kept
        case _:
            text = redact_text(str(value))
            return text if len(text) <= VALUE_LIMIT_CHARS else f"{text[:VALUE_LIMIT_CHARS]}… ({len(text)} characters)"


def redact_text(text: str) -> str:
    """`text` without the tokens that are recognizable by their form."""
    return _BEARER.sub(rf"\1{HIDDEN}", _SECRET_VALUE.sub(HIDDEN, text))
