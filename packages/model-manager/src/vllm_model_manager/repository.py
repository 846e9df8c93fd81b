"""Where a model that is to be loaded comes from: a cache, a local folder, or a download that would work."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from vllm_mcp_protocol.checkpoint import config as checkpoint_config
from vllm_mcp_protocol.checkpoint.values import short_text
from vllm_mcp_protocol.errors import (
    BadCheckpoint,
    BadInput,
    DiskFull,
    HuggingFaceRateLimited,
    HuggingFaceUnreachable,
    ModelNotFound,
    Offline,
    RevisionNotFound,
)
from vllm_mcp_protocol.hf import cache as hf_cache
from vllm_mcp_protocol.hf import site as hf_hub
from vllm_mcp_protocol.model import ModelFacts
from vllm_mcp_protocol.model_names import check_model_id, closest, is_path
from vllm_mcp_protocol.paths import confine
from vllm_mcp_protocol.units import MIB, format_bytes
from vllm_model_manager.workplace import Workplace

_SPARE_BYTES = 512 * MIB
"""Left free beside a download: tokenizer, vLLM's compile cache, the log."""


async def locate(work: Workplace, model_id: str, revision: str | None) -> tuple[str, ModelFacts, tuple[str, ...]]:
    """The name to give to vLLM, what is known of the model, and sentences about where it comes from.

    Raises BadInput, PathNotAllowed, ModelNotFound, GatedRepository, HuggingFaceUnauthorized, BadCheckpoint or DiskFull:
    nothing was started.
    """
    check_model_id(model_id)
    if is_path(model_id):
        model_id = str(confine(model_id, work.allowed_folders, parameter="model_id"))
    facts = await work.find(model_id, revision)
    if facts is not None and facts.is_adapter:
        raise _adapter(model_id)
    if facts is not None and facts.complete:
        return model_id, facts, ()
    if is_path(model_id) or work.settings.hf_hub_offline:
        raise await _not_usable(work, model_id, revision, facts)
    return model_id, *await _downloadable(work, model_id, revision, facts)


def _adapter(model_id: str) -> BadInput:
    return BadInput(
        f"{model_id} is a LoRA adapter, not a model.",
        parameter="model_id",
        value=model_id,
        suggestion=f"load-model with its base model and enable_lora=true, then load-lora with lora_path={model_id}",
    )


async def _not_usable(
    work: Workplace, model_id: str, revision: str | None, facts: ModelFacts | None
) -> ModelNotFound | BadCheckpoint:
    """Why a model that cannot be downloaded cannot be loaded."""
    found = await work.scan()
    if facts is not None:
        said = [warning for warning in found.warnings if warning.startswith(f"{model_id}: ")]
        return BadCheckpoint(
            f"{model_id} is incomplete in {facts.path}: "
            + ("; ".join(w.removeprefix(f"{model_id}: ") for w in said) or "its config or weight files are missing")
            + (", and HF_HUB_OFFLINE is set." if work.settings.hf_hub_offline else "."),
            model_id=model_id,
            path=facts.path,
            missing=said,
            suggestion="unset HF_HUB_OFFLINE and call again: vLLM downloads what is missing",
        )
    names = [known.model_id for known in found.models if not known.is_adapter]
    return not_in_cache(work, model_id, revision, names, why="HF_HUB_OFFLINE is set")


def not_in_cache(work: Workplace, model_id: str, revision: str | None, names: list[str], *, why: str) -> ModelNotFound:
    """The error for a model that is not here and will not be fetched, with near misses of its name."""
    folders = [str(folder) for folder in work.cache_dirs]
    at = f" at revision {revision}" if revision else ""
    close = closest(model_id, names)
    next_step = f"load-model {close[0]}" if close else "correct the name"
    return ModelNotFound(
        f"{model_id}{at} is not in the cache ({', '.join(folders)}), and {why}."
        + (f" Similar names there: {', '.join(close)}." if close else ""),
        model_id=model_id,
        cache_dirs=folders,
        similar=close,
        suggestion=f"{next_step}; list-models shows what is there",
    )


async def _downloadable(
    work: Workplace, model_id: str, revision: str | None, partly: ModelFacts | None
) -> tuple[ModelFacts, tuple[str, ...]]:
    """What the Hub says of a model that vLLM will download.

    Raises BadInput, ModelNotFound, GatedRepository, HuggingFaceUnauthorized or DiskFull.
    """
    try:
        facts = _facts(await hf_hub.ask_within(work.settings, model_id, revision))
    except (HuggingFaceUnreachable, HuggingFaceRateLimited, Offline) as error:
        why = error.info.message.rstrip(".")
        if partly is not None:
            return partly, (f"the cache has only a part, and vLLM will try again to fetch the rest: {why}",)
        names = [known.model_id for known in (await work.scan()).models if not known.is_adapter]
        raise not_in_cache(work, model_id, revision, names, why=f"the Hub cannot be reached ({why})") from error
    except (ModelNotFound, RevisionNotFound) as error:
        raise _missing(work, model_id, revision) from error
    _check_disk(work, model_id, facts, partly)
    size = f", {format_bytes(facts.weights_bytes)} of weights" if facts.weights_bytes else ""
    return facts, (
        f"{model_id} is downloaded first{size}: the cache has " + ("a part" if partly else "nothing") + " of it",
    )


def _facts(answer: hf_hub.HubModel) -> ModelFacts:
    config = answer.config
    tokenizer = config.get("tokenizer_config")
    return ModelFacts(
        model_id=answer.model_id,
        revision=answer.commit,
        complete=False,
        weights_bytes=weights_bytes({file.name: file.size_bytes for file in answer.files}),
        architectures=checkpoint_config.architectures(config),
        model_type=short_text(config.get("model_type")),
        quantization=checkpoint_config.quantization(config),
        has_chat_template=isinstance(tokenizer, dict) and bool(tokenizer.get("chat_template")),
    )


def weights_bytes(sizes: Mapping[str, int | None]) -> int | None:
    """Size of the weight files that vLLM will download, of a repository's files and sizes; None: not known."""
    found = [sizes[name] for name in hf_cache.weight_names(sizes)]
    known = [size for size in found if size is not None]
    return sum(known) if found and len(known) == len(found) else None


def _missing(work: Workplace, model_id: str, revision: str | None) -> ModelNotFound:
    at = f" at revision {revision}" if revision else ""
    private = "" if work.settings.hf_token else "; a private one needs HF_TOKEN"
    return ModelNotFound(
        f"{model_id}{at} is neither in the cache nor at {hf_hub.site(work.settings)}{private}.",
        model_id=model_id,
        cache_dirs=[str(folder) for folder in work.cache_dirs],
        suggestion="correct the name or the revision; list-models shows what is in the cache",
    )


def _check_disk(work: Workplace, model_id: str, facts: ModelFacts, partly: ModelFacts | None) -> None:
    """Raises DiskFull when the download cannot fit: vLLM would find out after filling the disk."""
    have = (partly.weights_bytes or 0) if partly is not None else 0
    need_bytes = max(0, (facts.weights_bytes or 0) - have) + _SPARE_BYTES
    folder = work.cache_dirs[0]
    existing = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), Path("/"))
    free_bytes = shutil.disk_usage(existing).free
    if facts.weights_bytes and free_bytes < need_bytes:
        raise DiskFull(
            f"{model_id} needs {format_bytes(need_bytes)} in {folder}; {format_bytes(free_bytes)} are free.",
            path=str(folder),
            required_mb=need_bytes // MIB,
            available_mb=free_bytes // MIB,
            suggestion="free space there, or set VLLM_MODEL_CACHE_DIR to a folder on another disk",
        )
