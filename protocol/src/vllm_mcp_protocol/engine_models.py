"""Ask the installed vLLM, once per version, which models and parsers it supports. Never imports vllm.

`ask_vllm_models.py` is handed to the Python of the engine's environment; its answer is kept beside the other facts
(`engine_env.facts_dir`), and forgotten when vLLM is replaced.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vllm_mcp_protocol import ask_vllm_models
from vllm_mcp_protocol.engine_env import engine_python, fingerprint, output_of, read_record, write_record
from vllm_mcp_protocol.errors import VllmNotInstalled
from vllm_mcp_protocol.vllm_models import VllmModels

log = logging.getLogger(__name__)

_SCRIPT = Path(ask_vllm_models.__file__)


def known_models(executable: str | Path, cache_dir: Path) -> VllmModels | None:
    """The remembered answer of this installed version, or None: never starts anything."""
    return read_record(_record(executable, cache_dir), VllmModels)


def read_models(executable: str | Path, cache_dir: Path) -> VllmModels:
    """What the vLLM of `executable` supports; asks it once per installed version (10 s, more when cold), then 2 ms.

    Blocks: call it through a thread from async code. A vLLM that cannot be asked is an answer too: all parts
    are None and `unknown["vllm"]` says why; that is not remembered.
    """
    known = known_models(executable, cache_dir)
    if known is not None:
        return known
    python = engine_python(executable)
    if not python.is_file():
        return _unknown(f"{python} does not exist")
    try:
        answer = parse_answer(output_of(python, ("-I", str(_SCRIPT))))
    except (VllmNotInstalled, ValueError) as error:
        return _unknown(str(error))
    write_record(_record(executable, cache_dir), _sorted(answer))
    return answer


def parse_answer(text: str) -> VllmModels:
    """The models that `ask_vllm_models.py` printed. Raises ValueError for anything else."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its answer is not JSON: {text[:200]!r}") from error
    if not isinstance(said, dict) or not isinstance(said.get("unknown"), dict):
        raise ValueError(f"its answer is not an answer: {text[:200]!r}")
    classes, why = said.pop("classes", None), said["unknown"].pop("classes", None)
    if why is not None:
        said["unknown"] |= {"interfaces": why, "inputs": why}
    return _validated(said | _by_architecture(classes))


def _by_architecture(classes: Any) -> dict[str, Any]:
    """Interfaces and inputs of the classes, as two mappings."""
    if not isinstance(classes, dict):
        return {}
    parts = {name: part for name, part in classes.items() if isinstance(part, dict)}
    inputs = {name: part["inputs"] for name, part in parts.items() if part.get("inputs")}
    return {"interfaces": {name: part.get("interfaces", []) for name, part in parts.items()}, "inputs": inputs}


def _validated(said: Mapping[str, Any]) -> VllmModels:
    """A part of a form that is not known here counts as not answered."""
    try:
        return VllmModels.model_validate(said)
    except ValidationError as error:
        wrong = {str(problem["loc"][0]): problem["msg"] for problem in error.errors()}
    unknown = {part: text for part, text in said["unknown"].items() if isinstance(text, str)}
    kept = {part: value for part, value in said.items() if part not in wrong}
    return VllmModels.model_validate(kept | {"unknown": unknown | wrong})


def _record(executable: str | Path, cache_dir: Path) -> Path:
    return cache_dir / f"models-{fingerprint(Path(executable))}.json"


def _sorted(answer: VllmModels) -> dict[str, Any]:
    """For JSON: sets as sorted lists, so that two answers can be compared."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return sorted(value) if isinstance(value, frozenset) else value

    return {name: plain(value) for name, value in answer.model_dump().items()}


def _unknown(why: str) -> VllmModels:
    log.info("vLLM could not be asked for its models: %s", why)
    return VllmModels(unknown={"vllm": why})
