"""Many saved sessions back into their clients' files: some are read while others are written."""

from collections.abc import Mapping, Sequence

from anyio import create_memory_object_stream, create_task_group, to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from vllm_mcp_protocol.errors import SuiteError
from vllm_state_persistence.core.session import SessionContent, SourceName
from vllm_state_persistence.sources.base import Outcome, Source, Target
from vllm_state_persistence.sources.inline import InlineSource
from vllm_state_persistence.store.store import StateStore

_WRITERS = 2
"""One works while the other waits for the disk."""

Read = tuple[list[str], list[SessionContent | SuiteError]]


async def write_back(
    store: StateStore, sources: Mapping[SourceName, Source], state_ids: Sequence[str], target: Target
) -> dict[str, Outcome]:
    """Write these snapshots, of different sessions, each as a session of its client; what came of each.

    When it returns, what it wrote outlives power loss. Raises StoreBusy, and StoreDamaged where nothing can be read.
    """
    send, receive = create_memory_object_stream[Read]()
    found: dict[str, Outcome] = {}
    trouble: list[SuiteError] = []
    async with create_task_group() as tasks:
        tasks.start_soon(_read, store, state_ids, send, trouble)
        async with receive:
            for _ in range(_WRITERS):
                tasks.start_soon(_write, receive.clone(), sources, target, found)
    for error in trouble:  # not out of the group, which would wrap it
        raise error
    return found


async def _write(
    receive: MemoryObjectReceiveStream[Read],
    sources: Mapping[SourceName, Source],
    target: Target,
    found: dict[str, Outcome],
) -> None:
    async with receive:
        async for ids, contents in receive:
            found.update(zip(ids, await _written(sources, contents, target), strict=True))


async def _read(
    store: StateStore, state_ids: Sequence[str], send: MemoryObjectSendStream[Read], trouble: list[SuiteError]
) -> None:
    at = 0
    async with send:
        try:
            async for group in store.contents(state_ids):
                await send.send((list(state_ids[at : at + len(group)]), list(group)))
                at += len(group)
        except SuiteError as error:
            trouble.append(error)


async def _written(
    sources: Mapping[SourceName, Source], contents: Sequence[SessionContent | SuiteError], target: Target
) -> list[Outcome]:
    found: dict[int, Outcome] = {at: one for at, one in enumerate(contents) if isinstance(one, SuiteError)}
    of_client: dict[SourceName, dict[int, SessionContent]] = {}
    for at, one in enumerate(contents):
        if isinstance(one, SessionContent):
            of_client.setdefault(one.ref.source, {})[at] = one
    for name, some in of_client.items():
        source = sources.get(name, InlineSource())
        written = await to_thread.run_sync(source.write_many, list(some.values()), target)
        found.update(zip(some, written, strict=True))
    return [found[at] for at in range(len(contents))]
