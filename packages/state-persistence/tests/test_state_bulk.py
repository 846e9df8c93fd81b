"""Many sessions saved at once: what hinders one hinders no other, and each is saved once."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.stores import make_record, make_ref, records_of
from vllm_mcp_protocol.errors import SessionNotFound, SourceUnreadable
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.background import Done, save_what_changed
from vllm_state_persistence.core.session import Known, Record, SessionContent, SessionRef
from vllm_state_persistence.sources.base import Found, IsKnown
from vllm_state_persistence.store.maintenance import prune
from vllm_state_persistence.workplace import Workplace

pytestmark = pytest.mark.anyio


@dataclass
class Client:
    """A client whose sessions are these, each with what happens when it is read."""

    name = "claude-code"
    refs: list[SessionRef] = field(default_factory=list)
    on_read: dict[str, Callable[[], None]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=lambda: [make_record(1)])

    def look(self, _project: Path | None, _known: IsKnown | None = None) -> Found:
        return Found(list(self.refs))

    def read(self, ref: SessionRef, known: Known | None) -> SessionContent:
        self.on_read.get(ref.session_id, lambda: None)()
        kept = known.count if known else 0
        return SessionContent(ref, b"{}", self.records[kept:], kept)


@pytest.fixture
async def work(tmp_path: Path) -> AsyncIterator[Workplace]:
    given = {"VLLM_HUB_DIR": str(tmp_path), "ENCRYPTION_KEY": "hex:" + "11" * 32}
    settings = Settings.from_environment(given)
    made = Workplace(settings, Hub(settings, client="a test", start=False), None)
    yield made
    await made.aclose()


@pytest.fixture
def client(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(work, "sources", lambda name="auto": [made])
    return made


def raising(error: Exception) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


async def test_a_session_that_is_listed_twice_is_saved_once_as_it_is_in_the_newer_place(
    work: Workplace, client: Client
) -> None:
    """Two projects of Crush may share a database; a folder of transcripts may be copied."""
    newer = replace(make_ref(updated_at=3, marker="new"), location="/newer")
    client.refs = [newer, make_ref("two"), make_ref(updated_at=1, marker="old")]
    assert await save_what_changed(work, new_ones=True) == Done(saved=2)
    assert {info.location for info in (await (await work.store()).sessions()).items} == {"/newer", "/home/two.jsonl"}
    assert await save_what_changed(work, new_ones=True) == Done(unchanged=2)


async def test_what_hinders_one_session_hinders_no_other(work: Workplace, client: Client) -> None:
    client.refs = [make_ref(name) for name in ("one", "gone", "unreadable", "two")]
    client.on_read = {
        "gone": raising(SessionNotFound("deleted since", suggestion="x")),
        "unreadable": raising(SourceUnreadable("bad disk", suggestion="x")),
    }
    done = await save_what_changed(work, new_ones=True)
    assert (done.saved, len(done.problems)) == (2, 1)
    assert "unreadable" in done.problems[0]
    assert {info.session_id for info in (await (await work.store()).sessions()).items} == {"one", "two"}


async def test_a_snapshot_that_is_dropped_while_its_session_is_read_costs_nobody_anything(
    work: Workplace, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["one", "two", "three"]
    client.refs = [make_ref(name) for name in names]
    assert (await save_what_changed(work, new_ones=True)).saved == 3
    store = await work.store()
    heads, ids = store.heads, {info.session_id: info.state_id for info in (await store.sessions()).items}

    async def heads_then_drop(sessions: list[tuple[str, str]]) -> object:
        found = await heads(sessions)
        if "two" in ids:
            await store.drop([ids.pop("two")])
            await prune(store)
        return found

    client.refs = [make_ref(name, marker="m2") for name in names]
    client.records = [make_record(1), make_record(2)]
    monkeypatch.setattr(store, "heads", heads_then_drop)
    assert await save_what_changed(work) == Done(saved=3)
    infos = (await store.sessions()).items
    assert [await records_of(store, info.state_id) for info in infos] == [client.records] * 3
