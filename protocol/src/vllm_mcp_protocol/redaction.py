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
# Short ones too, of tests and of other makers. A name of vLLM's like `hf_overrides` is not one: lower case only.
_SECRET_VALUE = re.compile(r"\b(?:hf_(?=[\w-]*[A-Z0-9]|[a-z]{16})[\w-]{8,}|(?:sk-|gh[pousr]_)[\w-]{8,})")
_BEARER = re.compile(r"(?i)\b(bearer\s+['\"]?)[^\s'\"]+")
# `https://name:word@host`.
_USER_OF_URL = re.compile(r"(?<=://)[^/?#\s]*@")
# `'api_key': ['…']` in vLLM's log of its arguments, `HF_TOKEN=…`, `password: …`.
_NAMED = re.compile(
    r"(?i)((?:api[_-]?key|hf[_-]?token|(?:auth|access)[_-]?token|authorization|password|passphrase|passwd|secret)"
    r"['\"]?\s*[=:]\s*)(?:\[[^\]]{0,2000}\]|'[^']{0,2000}'|\"[^\"]{0,2000}\"|[^\s,})]+)"
)


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
    """`text` without tokens and keys that are recognizable by their form or by the name before them."""
    text = _USER_OF_URL.sub(f"{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", _SECRET_VALUE.sub(HIDDEN, text))
    return _NAMED.sub(rf"\1{HIDDEN}", text)
