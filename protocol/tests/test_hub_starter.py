"""Of several clients that find no hub, one starts it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vllm_mcp_protocol.hub_starter import CONNECT_LIMIT_S, HubStarter
from vllm_mcp_protocol.state_lock import try_lock


class Hubs:
    """Stands in for the processes: a pipe each, whose other end a living hub would hold."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def spawn(self) -> int:
        watched, held = os.pipe()
        self.held.append(held)
        return watched

    def die(self) -> None:
        os.close(self.held[-1])
        self.held[-1] = -1

    def close(self) -> None:
        for held in self.held:
            if held >= 0:
                os.close(held)


@pytest.fixture
def hubs() -> Iterator[Hubs]:
    made = Hubs()
    yield made
    made.close()


def test_forty_clients_start_one_hub(tmp_path: Path, hubs: Hubs) -> None:
    with ExitStack() as stack:
        starters = [stack.enter_context(HubStarter(tmp_path, hubs.spawn)) for _ in range(40)]
        for _ in range(3):
            assert all(starter.one_is_coming(0.5) for starter in starters)
    assert len(hubs.held) == 1


def test_the_next_client_starts_one_when_the_starter_has_gone(tmp_path: Path, hubs: Hubs) -> None:
    with HubStarter(tmp_path, hubs.spawn) as second:
        with HubStarter(tmp_path, hubs.spawn) as first:
            assert first.one_is_coming(0)
            assert second.one_is_coming(0)
        assert len(hubs.held) == 1
        assert second.one_is_coming(0)
    assert len(hubs.held) == 2


def test_a_hub_that_ended_is_not_coming_and_is_started_again_later(
    tmp_path: Path, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubStarter(tmp_path, hubs.spawn) as starter:
        assert starter.one_is_coming(0)
        hubs.die()
        assert not starter.one_is_coming(0)
        monkeypatch.setattr("vllm_mcp_protocol.hub_starter.RESPAWN_S", 0.0)
        assert starter.one_is_coming(0)
    assert len(hubs.held) == 2


def test_a_client_that_is_stopped_while_it_starts_keeps_hubs_from_nobody(tmp_path: Path, hubs: Hubs) -> None:
    with HubStarter(tmp_path, hubs.spawn) as stopped, HubStarter(tmp_path, hubs.spawn) as other:
        stopped.one_is_coming(0)
        assert other.one_is_coming(CONNECT_LIMIT_S - 1)
        assert len(hubs.held) == 1
        assert other.one_is_coming(CONNECT_LIMIT_S)
        assert len(hubs.held) == 2


def test_it_waits_on_while_a_hub_holds_its_lock(tmp_path: Path, hubs: Hubs) -> None:
    lock = try_lock(tmp_path / "hub.lock", inheritable=False)
    assert lock is not None
    with HubStarter(tmp_path, hubs.spawn) as starting, HubStarter(tmp_path, hubs.spawn) as other:
        starting.one_is_coming(0)
        assert other.one_is_coming(CONNECT_LIMIT_S + 1)
    os.close(lock)
    assert len(hubs.held) == 1
