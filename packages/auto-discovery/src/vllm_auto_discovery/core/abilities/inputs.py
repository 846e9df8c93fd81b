"""Which inputs besides text a model takes: what its files say, held against the class that would run it. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from vllm_auto_discovery.core.abilities.architecture import Answer, Support, interfaces
from vllm_auto_discovery.core.abilities.model_files import ModelFiles
from vllm_mcp_protocol.vllm_models import VllmModels

InputName = Literal["vision", "audio", "video"]

_AS_VLLM_SAYS = {"vision": "image", "audio": "audio", "video": "video"}
_FIELDS: Mapping[InputName, tuple[str, ...]] = {
    "vision": (
        *(
            "vision_config",
            "visual",
            "vision_tower",
            "mm_vision_tower",
            "vision_encoder",
            "vit_config",
            "img_processor",
        ),
        *("vision", "image_token_id", "image_token_index", "image_token"),
    ),
    "audio": ("audio_config", "sound_config", "audio_encoder_config", "audio_token_id", "audio_token_index"),
    "video": ("video_token_id", "video_token_index", "video_token"),
}
"""Of config.json. One that is null says that this checkpoint has no such part."""
_PROCESSOR_FIELDS: Mapping[InputName, tuple[str, ...]] = {
    "vision": ("image_processor_type", "image_processor"),
    "audio": ("feature_extractor_type", "audio_processor_type", "feature_extractor"),
    "video": ("video_processor_type", "video_processor"),
}


def read_input(name: InputName, files: ModelFiles, found: Support, vllm: VllmModels | None) -> tuple[Answer, str]:
    """Does the model take this input on this vLLM, and what says so."""
    left_out = _left_out(name, files)
    stated = None if left_out else next(_stated(name, files), None)
    marks = interfaces(found, vllm)
    if vllm is None or marks is None or (not marks and not found.kinds):
        return _by_files(name, files, stated, left_out)
    label = f"{vllm.label}: {found.served_as}"
    if "SupportsMultiModal" not in marks:
        return "no", f"{label} takes text only" + (f", although {stated}" if stated else "")
    if left_out:
        return "no", left_out
    takes = (vllm.inputs or {}).get(found.served_as or "")
    if takes is None:
        return _by_files(name, files, stated, left_out)
    if _AS_VLLM_SAYS[name] in takes:
        return "yes", f"{label} takes {', '.join(sorted(takes))}" + (f"; {stated}" if stated else "")
    return "no", f"{label} takes {', '.join(sorted(takes))} only"


def _by_files(name: InputName, files: ModelFiles, stated: str | None, left_out: str | None) -> tuple[Answer, str]:
    if stated:
        return "yes", stated
    if left_out:
        return "no", left_out
    if files.config is None:
        return "unknown", "config.json was not read"
    if files.preprocessor is not None:
        return "unknown", f"config.json does not say; there is a preprocessor, without {_PROCESSOR_FIELDS[name][0]}"
    if not files.architectures:
        return "unknown", "config.json names no architecture"
    return "no", f"config.json has none of {', '.join(_FIELDS[name])}, and there is no preprocessor_config.json"


def _stated(name: InputName, files: ModelFiles) -> Iterator[str]:
    for part in files.config_parts:
        yield from (f"config.json: {key}" for key in _FIELDS[name] if _says(part.get(key)))
    preprocessor = files.preprocessor or {}
    yield from (f"preprocessor_config.json: {key}" for key in _PROCESSOR_FIELDS[name] if _says(preprocessor.get(key)))


def _left_out(name: InputName, files: ModelFiles) -> str | None:
    """A part that this checkpoint of its family lacks: `audio_config` of the larger Gemma models is null."""
    keys = [key for key in _FIELDS[name] if key.endswith("_config")]
    written = [(key, part[key]) for part in files.config_parts for key in keys if key in part]
    lacking = written and not any(_says(value) for _, value in written)
    return f"config.json: {written[0][0]} is null" if lacking else None


def _says(value: Any) -> bool:
    """A setting that is there: numbers count even as 0, empty texts and objects do not."""
    return value not in (None, False, "") and value != {} and value != []
