"""How models are named: `org/name` of the Hugging Face Hub, or an absolute folder. Pure."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from vllm_mcp_protocol.errors import BadInput

MODEL_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)?")
_PATH = re.compile(r"^(?:/|~|\.{1,2}/)")


def is_path(model_id: str) -> bool:
    """Does the caller mean a folder rather than a repository?"""
    return bool(_PATH.match(model_id))


def check_model_id(model_id: str) -> None:
    """Raises BadInput for what is neither `org/name` nor a folder."""
    if not is_path(model_id) and (not MODEL_ID.fullmatch(model_id) or ".." in model_id):
        raise BadInput(
            f"model_id={model_id[:200]!r} is not a model's name: write it as org/name, or as an absolute folder.",
            parameter="model_id",
            value=model_id[:200],
            allowed="org/name, or an absolute path",
            suggestion="list-models shows the models that can be used",
        )


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Known names that `name` may be a misspelling of, the likeliest first."""
    by_lower = {other.lower(): other for other in known}
    by_tail = {lower.rpartition("/")[2]: lower for lower in by_lower}
    wanted = name.lower()
    found = get_close_matches(wanted, by_lower, n=count, cutoff=0.6)
    tails = get_close_matches(wanted.rpartition("/")[2], by_tail, n=count, cutoff=0.6)
    merged = dict.fromkeys([*found, *(by_tail[tail] for tail in tails)])
    return [by_lower[lower] for lower in merged][:count]
