"""One save: what a client's session holds now, and the engines, into the store. Used by the tool and by the chore."""

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_mcp_protocol.errors import StateNotFound
from vllm_state_persistence.core.engine_capture import EngineCapture
from vllm_state_persistence.core.session import SessionContent, SessionRef
from vllm_state_persistence.sources.base import Source
from vllm_state_persistence.store.results import Saved
from vllm_state_persistence.workplace import Workplace, now


@dataclass(frozen=True)
class Extras:
    """What is saved beside the conversation."""

    engines: EngineCapture | None = None
    description: str = ""
    tags: tuple[str, ...] = ()


async def save_session(work: Workplace, source: Source, ref: SessionRef, extras: Extras) -> Saved:
    """Save a client's session; only what is new since its last snapshot is read and stored."""
    store = await work.store()
    head = await store.head(ref.source, ref.session_id)
    content = await work.read(source, ref, head)
    try:
        return await _save(work, content, extras, head.state_id if head is not None else None)
    except StateNotFound:  # it was dropped meanwhile: all of the session is new again
        return await _save(work, await work.read(source, ref, None), extras, None)


async def save_content(work: Workplace, content: SessionContent, extras: Extras) -> Saved:
    """Save a session that is here in full."""
    return await _save(work, content, extras, None)


async def _save(work: Workplace, content: SessionContent, extras: Extras, base: str | None) -> Saved:
    store = await work.store()
    return await store.save(
        content,
        base=base,
        engines=extras.engines.to_bytes() if extras.engines is not None else None,
        description=extras.description,
        tags=extras.tags,
        at=now(),
    )


def model_names(capture: EngineCapture | None) -> list[str]:
    """Models whose set-up a capture holds."""
    if capture is None:
        return []
    names: Sequence[str] = [*(engine.served_name for engine in capture.engines), *capture.defaults]
    return list(dict.fromkeys(names))
