"""The hub among crashes, races and strangers. Real processes, locks and sockets; fake GPUs and a fake vLLM."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.waiting import load, ready, stopped, until
from tests.hubs import GIB, HubSite, wait_for
from vllm_mcp_hub.host.engine_dir import engine_dirs
from vllm_mcp_hub.host.processes import Seen, observe, session_of
from vllm_mcp_protocol.errors import HubTooNew, HubTrouble, SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, HubState
from vllm_mcp_protocol.state_lock import is_held

pytestmark = pytest.mark.anyio

CLIENT = """
import asyncio, json, os, sys
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import LoadRequest
from vllm_mcp_protocol.settings import Settings
async def main():
    async with Hub(Settings.from_environment(os.environ)) as hub:
        try:
            print(json.dumps(await act(hub)), flush=True)
        except SuiteError as error:
            print(json.dumps(error.info.model_dump()), flush=True)
"""
HELLO = CLIENT + "async def act(hub):\n    return (await hub.state()).pid\nasyncio.run(main())"
LOAD = CLIENT + (
    "async def act(hub):\n"
    "    grant = await hub.load(LoadRequest(model_id=sys.argv[1], gpu_ids=(int(sys.argv[2]),)))\n"
    "    return {'engine': grant.engine.id, 'joined': grant.joined}\n"
    "asyncio.run(main())"
)
LOAD_AND_STAY = LOAD.replace(
    "    return {", "    print('loaded', flush=True)\n    await asyncio.sleep(60)\n    return {"
)


def answers(processes: "list[subprocess.Popen[str]]") -> list[object]:
    found = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found.append(json.loads(out))
    return found


async def refused(hub: Hub, model: str, gpu: int = 0) -> SuiteError:
    with pytest.raises(SuiteError) as caught:
        await load(hub, model, gpu)
    return caught.value


def test_forty_cold_clients_start_one_hub(site: HubSite) -> None:
    pids = answers([site.run(HELLO) for _ in range(40)])
    assert len(set(map(str, pids))) == 1
    assert site.hub_pids() == [pids[0]]


def test_twenty_loads_for_one_gpu_are_one_grant_and_nineteen_named_refusals(site: HubSite) -> None:
    results = answers([site.run(LOAD, f"model-{n}", "0") for n in range(20)])
    granted = [r for r in results if isinstance(r, dict) and "engine" in r]
    refusals = [r for r in results if isinstance(r, dict) and r.get("code") == "GPU_MEMORY_INSUFFICIENT"]
    assert (len(granted), len(refusals)) == (1, 19)
    for refusal in refusals:
        assert refusal["details"]["holders"] == [granted[0]["engine"]]
        assert granted[0]["engine"] in refusal["message"]
        assert "unload-model" in refusal["details"]["suggestion"]


def test_ten_loads_of_one_model_are_one_engine(site: HubSite) -> None:
    results = answers([site.run(LOAD, "same", "0") for _ in range(10)])
    assert {r["engine"] for r in results if isinstance(r, dict)} == {"e1"}
    assert [r["joined"] for r in results if isinstance(r, dict)].count(False) == 1


async def test_a_client_group_that_is_killed_leaves_hub_and_engines(site: HubSite) -> None:
    client = site.run(LOAD_AND_STAY, "kept", "0")
    assert client.stdout is not None
    assert client.stdout.readline() == "loaded\n"
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate(timeout=60)
    async with site.client(start=False) as hub:
        await until(hub, "e1", EngineStatus.READY)


async def test_a_killed_hub_is_replaced_and_its_engines_adopted(site: HubSite) -> None:
    async with site.client() as hub:
        first, second = await ready(hub, "a", 0), await ready(hub, "b", 1)
        sessions = [session_of(site.engine(e)) for e in (first, second)]
        before = {e.id: (e.start_facts, e.measured_bytes, e.elapsed_s) for e in (await hub.state()).engines}
        old = hub.hub_pid
        site.kill_hub()
        state = await hub.state()
        assert state.pid != old
        assert {e.id: e.status for e in state.engines} == {first: EngineStatus.READY, second: EngineStatus.READY}
        assert {e.id: (e.start_facts, e.measured_bytes, e.elapsed_s) for e in state.engines} == before
        assert (await refused(hub, "c", 0)).code == "GPU_MEMORY_INSUFFICIENT"
        assert [session_of(site.engine(e)) for e in (first, second)] == sessions
        async with hub.lease("a") as endpoint:
            assert endpoint.api_key is not None, "the key is found again in the engine's folder"


async def test_questions_that_are_under_way_when_the_hub_is_killed_are_answered_by_the_next(site: HubSite) -> None:
    async with site.client() as hub:
        first = (await hub.state()).pid
        os.kill(first, signal.SIGSTOP)
        asked = [asyncio.ensure_future(question) for _ in range(5) for question in (hub.state(), hub.alerts())]
        while hub_connections(site) < len(asked):
            await asyncio.sleep(0.01)
        os.kill(first, signal.SIGKILL)
        answers = await asyncio.gather(*asked)
        assert {one.pid for one in answers if isinstance(one, HubState)} == {(await hub.state()).pid}
        assert hub.hub_pid != first


def hub_connections(site: HubSite) -> int:
    """Ends of connections that the hub has, or has yet to take."""
    lines = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
    return len([line for line in lines if line.endswith(str(site.state / "hub.sock"))]) - 1


@pytest.mark.parametrize("closes_fds", [True, False])
async def test_an_orphan_is_swept_while_a_hub_runs(site: HubSite, closes_fds: bool) -> None:
    site.set_knobs(orphan=True, core_closes_fds=closes_fds)
    async with site.client() as hub:
        engine = await ready(hub, "a")
        session = session_of(site.engine(engine))
        assert session is not None
        os.kill(session, signal.SIGKILL)
        assert site.members(engine), "the core outlives its server: there is something to sweep"
        view = await stopped(hub, engine)
        assert view.failure is not None
        assert view.failure.code == "ENGINE_DIED"
        assert site.members(engine) == []
        await ready(hub, "next")


@pytest.mark.parametrize("closes_fds", [True, False])
async def test_an_orphan_is_swept_by_the_next_hub(site: HubSite, closes_fds: bool) -> None:
    site.set_knobs(orphan=True, core_closes_fds=closes_fds)
    async with site.client() as hub:
        engine = await ready(hub, "a")
        session = session_of(site.engine(engine))
        site.kill_hub()
        assert session is not None
        os.kill(session, signal.SIGKILL)
        assert site.members(engine)
        if closes_fds:  # the dying leader lets go when the kernel has closed its files, not when it was killed
            wait_for(lambda: not is_held(site.engine(engine).lock_path), "the lock is free while an orphan lives")
        else:
            assert is_held(site.engine(engine).lock_path)
        assert site.members(engine)
        await ready(hub, "next")
        assert site.members(engine) == []


async def test_a_newer_client_replaces_the_hub_and_keeps_the_engines(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "a")
        old = hub.hub_pid
    site.env["VLLM_HUB_TEST_PROTOCOL"] = "2"
    async with site.client(protocol=2) as newer:
        state = await newer.state()
        assert (state.protocol, [e.id for e in state.engines]) == (2, [engine])
        assert state.pid != old
    async with site.client(protocol=1) as older:
        with pytest.raises(HubTooNew) as caught:
            await older.state()
        assert "upgrade" in caught.value.info.suggestion
    assert site.members(engine)


async def test_a_number_that_now_is_somebody_else_is_not_touched(site: HubSite) -> None:
    """PID reuse: the record names a living process of another start time."""
    async with site.client() as hub:
        engine = await ready(hub, "ghost")
        site.kill_hub()
        for pid in site.members(engine):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not site.members(engine), "the engine is gone")
        stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
        try:
            record = site.engine(engine).path / "proc.json"
            record.write_text(json.dumps(json.loads(record.read_text()) | {"session": stranger.pid}))
            assert observe(site.engine(engine)) is Seen.GONE
            state = await hub.state()
            assert [e.status for e in state.engines] == [EngineStatus.STOPPED]
            await ready(hub, "next")
            assert stranger.poll() is None
        finally:
            stranger.communicate(b"\n", timeout=60)


async def test_unload_then_load_queues_and_starts_after_the_old_engine_is_gone(site: HubSite) -> None:
    async with site.client() as hub:
        old = await ready(hub, "old")
        site.set_knobs(load_s=0.1)
        await hub.stop(old)
        grant = await load(hub, "new")
        assert grant.engine is not None
        assert grant.engine.status in (EngineStatus.QUEUED, EngineStatus.STARTING)
        await until(hub, grant.engine.id, EngineStatus.READY)
        assert observe(site.engine(old)) is Seen.GONE
        started = site.engine(grant.engine.id).spec_path.stat().st_mtime
        assert (site.engine(old).path / "stopping").stat().st_mtime <= started


async def test_two_engines_share_a_gpu_across_a_hub_restart(site: HubSite) -> None:
    half = {"options": {"gpu_memory_utilization": 0.45}}
    async with site.client() as hub:
        grants = [await load(hub, name, 0, **half) for name in ("a", "b")]
        assert [g.engine and g.engine.status for g in grants] == [EngineStatus.STARTING, EngineStatus.QUEUED]
        for grant in grants:
            assert grant.engine is not None
            await until(hub, grant.engine.id, EngineStatus.READY)
        site.kill_hub()
        state = await hub.state()
        assert [e.status for e in state.engines] == [EngineStatus.READY] * 2


async def test_a_stale_socket_is_replaced(site: HubSite) -> None:
    async with site.client() as hub:
        old = (await hub.state()).pid
        site.kill_hub()
        assert (site.state / "hub.sock").exists()
        assert (await hub.state()).pid != old


async def hub_killed_at_random(site: HubSite, rounds: int) -> None:
    """Whatever happens, what really runs never holds more than a GPU has."""
    rng = random.Random(7)
    for number in range(rounds):
        async with site.client() as hub:
            try:
                share = rng.choice([0.25, 0.5, 0.9])
                grant = await load(hub, f"m{number}", rng.choice([0, 1]), options={"gpu_memory_utilization": share})
            except HubTrouble:
                continue
            except SuiteError as error:
                assert error.code == "GPU_MEMORY_INSUFFICIENT", error  # noqa: PT017 - the one refusal that may come
                grant = None
            if rng.random() < 0.5:
                site.kill_hub()
            elif grant is not None and grant.engine is not None:
                await hub.stop(grant.engine.id, force=rng.random() < 0.5)
        held = {0: 0.0, 1: 0.0}
        for folder in engine_dirs(site.state / "engines"):
            spec = folder.read_spec()
            if spec is not None and observe(folder) is not Seen.GONE and not folder.is_stopping():
                for device in spec["devices"]:
                    held[int(device)] += spec["plan"]["need"]["device_bytes"]
        assert max(held.values()) <= 80 * GIB, (number, held)
    async with site.client() as hub:
        for view in (await hub.state()).engines:
            if view.status is not EngineStatus.STOPPED:
                await hub.stop(view.id, force=True)
        wait_for(lambda: not site.living(), "every engine is gone")


async def test_thirty_rounds_of_random_hub_kills(site: HubSite) -> None:
    await hub_killed_at_random(site, 30)


@pytest.mark.slow
async def test_three_hundred_rounds_of_random_hub_kills(site: HubSite) -> None:
    await hub_killed_at_random(site, 300)


async def crashed_load(site: HubSite, point: str, **env: str) -> None:
    """A load whose hub dies at `point`."""
    site.env |= {"VLLM_HUB_TEST_CRASH": point, **env}
    async with site.client() as hub:
        grant = await load(hub, "crashed")
        assert grant.engine is not None
        wait_for(lambda: hub.hub_pid not in site.hub_pids(), f"the hub died at {point}")
    site.kill_hub()  # a late starter may have taken the lock
    del site.env["VLLM_HUB_TEST_CRASH"]


async def test_a_crash_before_the_spawn_leaves_nothing(site: HubSite) -> None:
    await crashed_load(site, "before_spawn")
    async with site.client() as hub:
        state = await hub.state()
        assert all(e.status is EngineStatus.STOPPED for e in state.engines)
        await ready(hub, "next")


async def test_a_crash_right_after_the_spawn_loses_no_engine(site: HubSite) -> None:
    await crashed_load(site, "after_spawn", VLLM_HUB_TEST_SLOW_RECORD="0.5")
    async with site.client() as hub:
        assert (await refused(hub, "other")).code == "GPU_MEMORY_INSUFFICIENT"
        await until(hub, "e1", EngineStatus.READY)


async def test_a_launcher_that_dies_before_its_record_is_a_failed_start(site: HubSite) -> None:
    site.env["VLLM_HUB_TEST_CRASH"] = "launcher_before_record"
    async with site.client() as hub:
        grant = await load(hub, "a")
        assert grant.engine is not None
        assert (await stopped(hub, grant.engine.id)).failure is not None


async def test_a_crash_in_the_middle_of_a_stop_is_finished_by_the_next_hub(site: HubSite) -> None:
    site.set_knobs(deaf=True)
    site.env["VLLM_HUB_TEST_CRASH"] = "mid_stop"
    async with site.client() as hub:
        engine = await ready(hub, "deaf")
        with contextlib.suppress(HubTrouble):  # the hub may die before or after its answer is out
            await hub.stop(engine)
        wait_for(lambda: hub.hub_pid not in site.hub_pids(), "the hub died in the middle of the stop")
        site.kill_hub()
    assert site.members(engine), "the engine outlived the half stop"
    del site.env["VLLM_HUB_TEST_CRASH"]
    async with site.client() as hub:
        await hub.state()
        wait_for(lambda: not site.members(engine), "the next hub finished the stop")


async def test_a_deaf_engine_is_killed_in_the_end(site: HubSite) -> None:
    site.set_knobs(deaf=True)
    async with site.client() as hub:
        engine = await ready(hub, "deaf")
        await hub.stop(engine, force=True)
        await stopped(hub, engine)
        assert site.members(engine) == []
