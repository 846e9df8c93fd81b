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
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from vllm_mcp_protocol.collector import collector_paused
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

    When it returns, what it wrote outlives power loss. Raises StoreBusy, and StoreDamaged where nothing can be read:
    then, and when it is cancelled while it reads, no transcript appears; rows of databases may have been written.
    """
    writing = _Writing(sources, target)
    with collector_paused():
        async with create_task_group() as tasks:
            try:
                await writing.hand_out(store, state_ids, tasks)
                writing.complete = True
            except (SuiteError, OSError) as error:
                writing.trouble.append(error)
            except BrokenResourceError:
                pass  # a client's files take nothing, and `trouble` says why
            finally:
                writing.no_more()  # else its threads would wait for ever
    for problem in writing.trouble:  # not out of the group, which would wrap it
        raise problem
    return writing.found


class _Writing:
    """Hands out what is read, each to its client's thread."""

    def __init__(self, sources: Mapping[SourceName, Source], target: Target) -> None:
        self.found: dict[str, Outcome] = {}
        self.trouble: list[Exception] = []
        self.complete = False
        """Whether all was handed out."""
        self._sources = sources
        self.target = target
        self._clients: dict[SourceName, _Client] = {}

    async def hand_out(self, store: StateStore, state_ids: Sequence[str], tasks: TaskGroup) -> None:
        at = 0
        async for group in store.contents(state_ids):
            of_clients: dict[SourceName, Group] = {}
            for state_id, one in zip(state_ids[at : at + len(group)], group, strict=True):
                if isinstance(one, SessionContent):
                    self._client(one.ref.source, tasks).ids.append(state_id)
                    of_clients.setdefault(one.ref.source, []).append(one)
                else:
                    self.found[state_id] = one
            at += len(group)
            for name, some in of_clients.items():
                await self._clients[name].send.send(some)

    def _client(self, name: SourceName, tasks: TaskGroup) -> "_Client":
        if name not in self._clients:
            self._clients[name] = _Client(self._sources.get(name, InlineSource()))
            tasks.start_soon(self._clients[name].write, self)
        return self._clients[name]

    def no_more(self) -> None:
        for client in self._clients.values():
            client.send.close()


class _Client:
    """One client's sessions, written in a thread as they come."""

    def __init__(self, source: Source) -> None:
        self.ids: list[str] = []
        self.send: MemoryObjectSendStream[Group]
        self._receive: MemoryObjectReceiveStream[Group]
        self.send, self._receive = create_memory_object_stream[Group](1)
        self._source = source

    async def write(self, writing: _Writing) -> None:
        try:
            with self._receive:
                outcomes = await to_thread.run_sync(self._source.write_many, self._contents(writing), writing.target)
            writing.found.update(zip(self.ids, outcomes, strict=True))
        except _GivenUp:
            pass
        except Exception as error:
            writing.trouble.append(error)

    def _contents(self, writing: _Writing) -> Iterator[SessionContent]:
        while True:
            try:
                yield from from_thread.run(self._receive.receive)
            except EndOfStream:
                if not writing.complete:
                    raise _GivenUp from None
                return


class _GivenUp(Exception):
    """Not all of the sessions come: none of them is to appear."""
