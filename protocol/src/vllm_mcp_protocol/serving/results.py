"""What a tool answers: one object, as structure and as compact JSON text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, PrivateAttr

from vllm_mcp_protocol.errors import ErrorInfo

OUTPUT_LIMIT_BYTES = 20_000
"""Longer results fill a model's context for little; some clients cut them."""

_DETAIL_LIMIT_CHARS = 4000
"""Longest single text in an error's details: the last lines of a log, not the log."""


class Part(BaseModel):
    """Base of what results are made of."""

    # Validators are built at the first result instead of at import, where 12 tools cost about 60 ms.
    model_config = ConfigDict(defer_build=True)


class ToolResult(Part):
    """Base of every tool's result. `success` stays the first key on the wire."""

    success: Literal[True] = True
    _pictures: list[bytes] = PrivateAttr(default_factory=list)

    def show_png(self, picture: bytes) -> None:
        """Show a PNG beside the text, to clients that can."""
        self._pictures.append(picture)

    @property
    def pictures(self) -> Sequence[bytes]:
        return self._pictures


def compact_json(payload: Mapping[str, Any]) -> str:
    """`payload` as one line. Raises ValueError for NaN and infinities, which are not JSON."""
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def success_payload(result: ToolResult) -> dict[str, Any]:
    """The wire object of `result`; null fields stay, so that its shape never changes."""
    return result.model_dump(mode="json", by_alias=True)


def failure_payload(info: ErrorInfo) -> dict[str, Any]:
    """The wire object of an error; details that are not JSON are shown as text, long texts are cut."""
    details = pydantic_core.to_jsonable_python(info.details, fallback=str, inf_nan_mode="null")
    return {
        "success": False,
        "error": {"code": info.code, "message": _cut(info.message), "details": _cut_all(details)},
    }


def _cut_all(value: Any) -> Any:
    match value:
        case str():
            return _cut(value)
        case dict():
            return {key: _cut_all(item) for key, item in value.items()}
        case list():
            return [_cut_all(item) for item in value]
        case _:
            return value


def _cut(text: str) -> str:
    if len(text) <= _DETAIL_LIMIT_CHARS:
        return text
    return f"{text[:_DETAIL_LIMIT_CHARS]}… ({len(text)} characters)"
