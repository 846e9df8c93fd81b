"""Many saved sessions back into their clients' files: some are read while others are written."""

from collections.abc import Iterator, Mapping, Sequence

from anyio import (
    BrokenResourceError,
    EndOfStream,
    create_memory_object_stream,
    create_task_group,
    from_thread,
    to_thread,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from vllm_mcp_protocol.errors import SuiteError
from vllm_state_persistence.core.session import SessionContent, SourceName
from vllm_state_persistence.sources.base import Outcome, Source, Target
from vllm_state_persistence.sources.inline import InlineSource
from vllm_state_persistence.store.store import StateStore

Group = list[SessionContent]


async def write_back(
    store: StateStore, sources: Mapping[SourceName, Source], state_ids: Sequence[str], target: Target
) -> dict[str, Outcome]:
    """Write these snapshots, of different sessions, each as a session of its client; what came of each.

    When it returns, what it wrote outlives power loss. Raises StoreBusy, and StoreDamaged where nothing can be read.
    """
    found: dict[str, Outcome] = {}
    trouble: list[Exception] = []
    async with create_task_group() as tasks:
        clients: dict[SourceName, _Client] = {}
        try:
            at = 0
            async for group in store.contents(state_ids):
                groups: dict[SourceName, Group] = {}
                for state_id, one in zip(state_ids[at : at + len(group)], group, strict=True):
                    if isinstance(one, SuiteError):
                        found[state_id] = one
                        continue
                    name = one.ref.source
                    if name not in clients:
                        clients[name] = _Client(sources.get(name, InlineSource()))
                        tasks.start_soon(clients[name].write, target, found, trouble)
                    clients[name].ids.append(state_id)
                    groups.setdefault(name, []).append(one)
                at += len(group)
                for name, some in groups.items():
                    await clients[name].send.send(some)
        except (SuiteError, OSError) as error:
            trouble.append(error)
        except BrokenResourceError:
            pass  # a client's files take nothing, and `trouble` says why
        for client in clients.values():
            client.send.close()
    for problem in trouble:  # not out of the group, which would wrap it
        raise problem
    return found


class _Client:
    """One client's sessions, written in a thread as they come."""

    def __init__(self, source: Source) -> None:
        self.ids: list[str] = []
        self.send: MemoryObjectSendStream[Group]
        self._receive: MemoryObjectReceiveStream[Group]
        self.send, self._receive = create_memory_object_stream[Group](1)
        self._source = source

    async def write(self, target: Target, found: dict[str, Outcome], trouble: list[Exception]) -> None:
        try:
            with self._receive:
                outcomes = await to_thread.run_sync(self._source.write_many, self._contents(), target)
            found.update(zip(self.ids, outcomes, strict=True))
        except (SuiteError, OSError) as error:
            trouble.append(error)

    def _contents(self) -> Iterator[SessionContent]:
        while True:
            try:
                yield from from_thread.run(self._receive.receive)
            except EndOfStream:
                return
