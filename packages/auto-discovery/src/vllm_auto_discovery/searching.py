"""Searching the Hugging Face Hub for models by words in their names."""

from functools import partial
from typing import Any, NamedTuple

import anyio
from anyio import to_thread

from vllm_mcp_protocol.checkpoint.values import short_text
from vllm_mcp_protocol.hf import site as hf_hub
from vllm_mcp_protocol.hf.refusals import MISSHAPEN, explained, failures, unreachable
from vllm_mcp_protocol.model_names import MODEL_ID
from vllm_mcp_protocol.settings import Settings

SEARCH_LIMIT_S = 15.0


class FoundAtHub(NamedTuple):
    """A model that the Hub lists."""

    model_id: str
    url: str
    pipeline_tag: str | None
    gated: bool


async def search(settings: Settings, words: str, limit: int) -> list[FoundAtHub]:
    """The most downloaded models whose names hold `words`.

    Raises Offline, HuggingFaceRateLimited, HuggingFaceUnauthorized or HuggingFaceUnreachable.
    """
    try:
        with anyio.fail_after(SEARCH_LIMIT_S):
            return await to_thread.run_sync(partial(_search, settings, words, limit), abandon_on_cancel=True)
    except TimeoutError as error:
        raise unreachable(hf_hub.asked(settings, words), f"no answer within {SEARCH_LIMIT_S:.0f} s") from error


def _search(settings: Settings, words: str, limit: int) -> list[FoundAtHub]:
    if settings.hf_hub_offline:
        raise hf_hub.offline(settings, words)
    from huggingface_hub import HfApi

    endpoint, token = hf_hub.access(settings)
    api = HfApi(endpoint=endpoint, token=token, library_name="vllm-mcp")
    try:
        listed = list(api.list_models(search=words, sort="downloads", limit=limit, expand=["gated", "pipeline_tag"]))
        return [_found(hf_hub.site(settings), info) for info in listed if _is_name(info.id)]
    except failures() + MISSHAPEN as error:
        raise explained(error, hf_hub.asked(settings, words)) from error


def _is_name(value: Any) -> bool:
    """Is it one that could be downloaded? A mirror may list anything."""
    return bool((name := short_text(value)) and MODEL_ID.fullmatch(name) and ".." not in name)


def _found(site: str, info: Any) -> FoundAtHub:
    return FoundAtHub(info.id, f"{site}/{info.id}", short_text(info.pipeline_tag), bool(info.gated))
