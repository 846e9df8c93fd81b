"""What the Hub said of a model, how old that is, and when it is asked again. Pure."""

import re
from hashlib import sha256
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.units import format_seconds

NEGATIVE_TTL_S = 900.0
"""For "no such model" and "no access": somebody may be about to change that."""

_REMEMBERED = ("MODEL_NOT_FOUND", "REVISION_NOT_FOUND", "GATED_REPOSITORY", "HF_UNAUTHORIZED", "INVALID_ARGUMENT")
"""Refusals that say something of the model. The others say something of the network or of the moment."""


class Metadata(BaseModel):
    """What is worth knowing of a model that its files do not say."""

    model_config = ConfigDict(frozen=True)

    commit: str
    url: str
    gated: str | None = None
    private: bool = False
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    library: str | None = None
    license: str | None = None
    downloads: int | None = None
    likes: int | None = None
    last_modified: str | None = None
    size_bytes: int | None = None
    """Of all files at that commit."""


class Remembered(BaseModel):
    """An answer or a refusal of the Hub, as it lies on the disk."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    model_id: str
    site: str
    asked_s: float
    """Unix seconds."""
    answer: Metadata | None = None
    refusal: ErrorInfo | None = None

    def age_s(self, now_s: float) -> float:
        """A clock that was set back makes nothing younger than new."""
        return max(0.0, now_s - self.asked_s)


class Enriched(BaseModel):
    """What is known of a model from the Hub, and from when."""

    model_config = ConfigDict(frozen=True)

    model_id: str
    answer: Metadata | None = None
    age_s: float | None = None
    stale: bool = False
    """Older than METADATA_CACHE_TTL_HOURS: the Hub could not, or must not, be asked again."""
    reason: str | None = None
    """Why there is no answer, or only an old one."""
    refusal: ErrorInfo | None = None
    """The Hub's own: no such model, gated, no access."""


def file_name(model_id: str, site: str) -> str:
    """Where an answer is kept: one file for each model and site."""
    readable = re.sub(r"[^\w.-]", "-", model_id, flags=re.ASCII).strip(".-")[:60]
    return f"{readable}-{sha256(f'{site} {model_id}'.encode(errors='replace')).hexdigest()[:10]}.json"


def is_fresh(known: Remembered, now_s: float, ttl_s: float) -> bool:
    """Is it young enough that the Hub need not be asked again?"""
    limit_s = min(ttl_s, NEGATIVE_TTL_S) if known.refusal is not None else ttl_s
    return known.age_s(now_s) < limit_s


def is_remembered(refusal: ErrorInfo) -> bool:
    """Is a refusal worth keeping?"""
    return refusal.code in _REMEMBERED


def enriched(
    model_id: str, known: Remembered | None, now_s: float, ttl_s: float, why_not_asked: str | None = None
) -> Enriched:
    """What to tell: of `known`, and of the reason why the Hub was not asked or did not answer."""
    if known is None:
        return Enriched(model_id=model_id, reason=why_not_asked)
    age_s, fresh = known.age_s(now_s), is_fresh(known, now_s, ttl_s)
    refused = known.refusal.message if known.refusal is not None else None
    old = f"the answer is {format_seconds(age_s)} old" + (f": {why_not_asked}" if why_not_asked else "")
    return Enriched(
        model_id=model_id,
        answer=known.answer,
        age_s=age_s,
        stale=not fresh,
        reason=refused if fresh else (f"{refused} ({old})" if refused else old),
        refusal=known.refusal,
    )
