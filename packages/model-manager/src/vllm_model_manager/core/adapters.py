"""Does a LoRA adapter fit an engine? Pure: reads the two configurations, not the files."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mcp_protocol.errors import BadInput, NotSupported
from vllm_mcp_protocol.model import EngineView
from vllm_mcp_protocol.model_names import MODEL_ID

DEFAULT_MAX_RANK = 16
"""vLLM 0.32's `--max-lora-rank` when it is not given."""


def check_adapter(view: EngineView, name: str, config: Mapping[str, Any], *, force: bool) -> tuple[str, ...]:
    """Sentences about what could not be checked.

    Raises NotSupported (the engine takes no adapters) and BadInput (rank too high, another base model, a name that
    is taken by the model itself). `force` accepts another base model, for fine-tuned or re-packed bases.
    """
    _check_engine(view)
    if name in (view.model_id, view.served_name):
        raise BadInput(
            f"lora_name={name!r} is the name of the model itself.",
            parameter="lora_name",
            value=name,
            suggestion="choose another lora_name",
        )
    return (*_check_rank(view, config), *_check_base(view, config, force))


def _check_engine(view: EngineView) -> None:
    if not view.remote and view.options.enable_lora is not True:
        raise NotSupported(
            f"{view.model_id} ({view.id}) was loaded without support for adapters.",
            engine_id=view.id,
            suggestion=f"unload-model {view.model_id}, then load-model {view.model_id} with enable_lora=true",
        )


def _check_rank(view: EngineView, config: Mapping[str, Any]) -> tuple[str, ...]:
    rank = config.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool):
        return ("the adapter's rank was not checked: adapter_config.json names none",)
    if view.remote:
        return ("the adapter's rank was not checked: the engine's limit is not known here",)
    limit = max_rank(view.argv)
    if rank > limit:
        raise BadInput(
            f"The adapter has rank {rank}; {view.id} takes at most {limit}.",
            parameter="lora_path",
            value=rank,
            allowed=f"rank up to {limit}",
            suggestion=f"load-model {view.model_id} again with extra_args ['--max-lora-rank', '{_next_rank(rank)}']",
        )
    return ()


def max_rank(argv: Sequence[str]) -> int:
    """The engine's limit, from its command line."""
    for index, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag == "--max-lora-rank":
            text = value or (argv[index + 1] if index + 1 < len(argv) else "")
            return int(text) if text.isdigit() else DEFAULT_MAX_RANK
    return DEFAULT_MAX_RANK


def _next_rank(rank: int) -> int:
    """The smallest of the ranks that vLLM allows as a limit."""
    return next((allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), 512)


def _check_base(view: EngineView, config: Mapping[str, Any], force: bool) -> tuple[str, ...]:
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not MODEL_ID.fullmatch(base):
        return ("the adapter's base model was not checked: adapter_config.json names no repository",)
    if base.lower() in (view.model_id.lower(), view.served_name.lower()):
        return ()
    if force:
        return (f"the adapter was made for {base}, not for {view.model_id}; loaded because force=true",)
    raise BadInput(
        f"The adapter was made for {base}; {view.id} serves {view.model_id}.",
        parameter="lora_path",
        value=base,
        allowed=view.model_id,
        suggestion=f"load-model {base} with enable_lora=true, or force=true if {view.model_id} is derived from it",
    )
