"""Where a model that is to be loaded comes from: a cache, a local folder, or a download that would work."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from vllm_mcp_protocol import checkpoint_config, hf_cache
from vllm_mcp_protocol.errors import BadCheckpoint, BadInput, DiskFull, GatedRepository, ModelNotFound
from vllm_mcp_protocol.model import ModelFacts
from vllm_mcp_protocol.paths import confine
from vllm_mcp_protocol.units import MIB, format_bytes
from vllm_model_manager.core.finding import check_model_id, closest, is_path
from vllm_model_manager.workplace import Workplace

HUB_LIMIT_S = 10.0
_SPARE_BYTES = 512 * MIB
"""Left free beside a download: tokenizer, vLLM's compile cache, the log."""

_HUGGING_FACE = "https://huggingface.co"


async def locate(work: Workplace, model_id: str, revision: str | None) -> tuple[str, ModelFacts, tuple[str, ...]]:
    """The name to give to vLLM, what is known of the model, and sentences about where it comes from.

    Raises BadInput, PathNotAllowed, ModelNotFound, GatedRepository, BadCheckpoint or DiskFull: nothing was started.
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
    """What the Hub says of a model that vLLM will download. Raises ModelNotFound, GatedRepository, DiskFull."""
    ask = partial(_ask_hub, work, model_id, revision)
    try:
        # The request has a limit of its own, which does not cover name resolution.
        with anyio.fail_after(HUB_LIMIT_S + 2):
            facts = await to_thread.run_sync(ask, abandon_on_cancel=True)
    except (_Unreachable, TimeoutError) as error:
        if partly is not None:
            return partly, (f"the cache has only a part; the Hub did not answer ({error}), vLLM will try again",)
        names = [known.model_id for known in (await work.scan()).models if not known.is_adapter]
        why = "the Hub cannot be reached" + (f" ({error})" if str(error) else "")
        raise not_in_cache(work, model_id, revision, names, why=why) from error
    _check_disk(work, model_id, facts, partly)
    size = f", {format_bytes(facts.weights_bytes)} of weights" if facts.weights_bytes else ""
    return facts, (
        f"{model_id} is downloaded first{size}: the cache has " + ("a part" if partly else "nothing") + " of it",
    )


class _Unreachable(Exception):
    """The Hub gave no answer that says anything about the model."""


def _ask_hub(work: Workplace, model_id: str, revision: str | None) -> ModelFacts:
    """One question to the Hub, in a thread. Raises ModelNotFound, GatedRepository or _Unreachable."""
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hf

    secret = work.settings.hf_token
    token = secret.get_secret_value() if secret is not None else False
    site = work.settings.hf_endpoint or _HUGGING_FACE
    api = HfApi(endpoint=site, token=token)
    try:
        info = api.model_info(model_id, revision=revision, timeout=HUB_LIMIT_S, files_metadata=True)
        if info.gated:
            api.auth_check(model_id)
    except hf.GatedRepoError as error:
        raise _gated(model_id, site, has_token=secret is not None) from error
    except (hf.RepositoryNotFoundError, hf.RevisionNotFoundError, hf.HFValidationError) as error:
        raise _missing(work, model_id, revision, site) from error
    except (hf.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        raise _Unreachable(type(error).__name__) from error
    return _facts(model_id, info)


def _facts(model_id: str, info: Any) -> ModelFacts:
    config = info.config if isinstance(info.config, dict) else {}
    return ModelFacts(
        model_id=model_id,
        revision=info.sha,
        complete=False,
        weights_bytes=weights_bytes({file.rfilename: file.size for file in info.siblings or ()}),
        architectures=checkpoint_config.architectures(config),
        model_type=checkpoint_config.short_text(config.get("model_type")),
        quantization=checkpoint_config.quantization(config),
        has_chat_template=bool((config.get("tokenizer_config") or {}).get("chat_template")),
    )


def weights_bytes(sizes: Mapping[str, int | None]) -> int | None:
    """Size of the weight files that vLLM will download, of a repository's files and sizes; None: not known."""
    found = [sizes[name] for name in hf_cache.weight_names(sizes)]
    known = [size for size in found if size is not None]
    return sum(known) if found and len(known) == len(found) else None


def _gated(model_id: str, site: str, *, has_token: bool) -> GatedRepository:
    url = f"{site}/{model_id}"
    missing = "the account of HF_TOKEN has no access yet" if has_token else "HF_TOKEN is not set"
    return GatedRepository(
        f"{model_id} is gated: its authors ask for agreement to their terms, and {missing}.",
        model_id=model_id,
        url=url,
        suggestion=f"accept the terms at {url}" + ("" if has_token else ", then set HF_TOKEN for this server"),
    )


def _missing(work: Workplace, model_id: str, revision: str | None, site: str) -> ModelNotFound:
    at = f" at revision {revision}" if revision else ""
    private = "" if work.settings.hf_token else "; a private one needs HF_TOKEN"
    return ModelNotFound(
        f"{model_id}{at} is neither in the cache nor at {site}{private}.",
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
