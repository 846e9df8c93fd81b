"""What once killed the hub, lost a promise or told a lie. Each was found by an attack and stays here."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from tests.chaos.waiting import load, ready, stopped, until
from tests.engine.engines import free_port
from tests.hubs import GIB, HubSite, wait_for, wish
from vllm_mcp_hub.host.engine_dir import EngineDir
from vllm_mcp_hub.host.processes import session_of
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import PortInUse, SuiteError
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import EngineStatus, ModelConfig

pytestmark = pytest.mark.anyio


async def status(hub: Hub, engine: str) -> EngineStatus:
    return (await hub.wait(engine, seen_epoch=-1, timeout_s=0)).status


DAMAGE = {
    "half a spec": ("spec.json", '{"id": "e50", "req'),
    "an empty spec": ("spec.json", ""),
    "a list": ("spec.json", "[]"),
    "words for a time": ("spec.json", '{"request": {"model_id": "a"}, "created_at": "soon"}'),
    "half an exit": ("exit.json", '{"code": 1, '),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_folder_does_not_keep_the_hub_from_starting(site: HubSite, damage: str) -> None:
    name, text = DAMAGE[damage]
    folder = site.state / "engines/e50"
    folder.mkdir(parents=True)
    (folder / name).write_text(text)
    async with site.client() as hub:
        assert await ready(hub, "a") == "e51"


async def test_neither_does_a_stray_file_or_link(site: HubSite) -> None:
    engines = site.state / "engines"
    engines.mkdir()
    (engines / "e77").write_text("")
    (engines / "e78").symlink_to(site.folder)
    async with site.client() as hub:
        await ready(hub, "a")
    assert site.folder.exists()


async def test_a_running_engine_with_a_damaged_spec_is_ended(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "a")
        site.kill_hub()
        site.engine(engine).spec_path.write_text("{")
        await hub.state()
        assert site.members(engine) == [], "what cannot be accounted for must not hold memory"
        await ready(hub, "b")


async def test_an_end_by_a_real_time_signal_is_told(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "a")
        session = session_of(site.engine(engine))
        assert session is not None
        os.killpg(session, signal.SIGRTMIN + 6)
        assert (await stopped(hub, engine)).failure is not None


async def test_a_granted_number_is_never_given_again(site: HubSite) -> None:
    """The next hub must not give e2 to somebody else: the first client would stop a stranger's engine."""
    site.set_knobs(load_s=5.0)
    async with site.client() as hub:
        await load(hub, "first")
        queued = await load(hub, "second", options={"gpu_memory_utilization": 0.05})
        assert queued.engine is not None
        assert queued.engine.status is EngineStatus.QUEUED
        site.kill_hub()
        lost = await hub.wait(queued.engine.id, seen_epoch=-1, timeout_s=0)
        assert lost.status is EngineStatus.STOPPED
        assert lost.failure is not None
        assert "turn" in lost.failure.message
        third = await load(hub, "third", gpu=1)
        assert third.engine is not None
        assert third.engine.id == "e3"


async def test_an_unload_that_waits_goes_on_under_the_next_hub(site: HubSite) -> None:
    site.set_knobs(slow_stream_s=0.5, answer_tokens=8)
    async with site.client() as hub:
        engine = await ready(hub, "a")
        async with hub.lease("a") as endpoint:
            pass
        async with EngineHttp(endpoint, timeout_s=30) as http:
            chunks = http.stream_chat({"model": "a", "messages": [{"role": "user", "content": "x"}]})
            await anext(chunks)
            assert (await hub.stop(engine)).status is EngineStatus.DRAINING
            wait_for(site.engine(engine).is_draining, "the unload is written down")
            site.kill_hub()
            assert await status(hub, engine) is EngineStatus.DRAINING
            rest = [chunk async for chunk in chunks]
        assert rest[-1]["choices"][0]["finish_reason"] == "stop"
        await stopped(hub, engine)


async def test_short_requests_keep_an_engine_from_being_idle(site: HubSite) -> None:
    port = free_port()
    async with site.client() as hub:
        engine = await ready(hub, "a", ttl_s=4.0, options={"port": port})
        other = await ready(hub, "b", gpu=1, ttl_s=4.0)
        async with hub.lease("a") as endpoint:
            pass
        async with EngineHttp(endpoint, timeout_s=10) as http:
            while await status(hub, other) is EngineStatus.READY:
                await http.chat({"model": "a", "messages": [{"role": "user", "content": "x"}]})
                await anyio.sleep(0.2)
        assert await status(hub, engine) is EngineStatus.READY


async def test_room_is_not_made_by_an_engine_that_somebody_uses_directly(site: HubSite) -> None:
    site.set_gpus(1)
    site.set_knobs(slow_stream_s=0.5, answer_tokens=6)
    async with site.client() as hub:
        engine = await ready(hub, "used")
        async with hub.lease("used") as endpoint:
            pass
        async with EngineHttp(endpoint, timeout_s=30) as http:
            chunks = http.stream_chat({"model": "used", "messages": [{"role": "user", "content": "x"}]})
            await anext(chunks)
            with pytest.raises(SuiteError) as caught:
                await hub.load(wish("new", make_room=True))
            await chunks.aclose()
        assert caught.value.code == "GPU_MEMORY_INSUFFICIENT"
        assert await status(hub, engine) is EngineStatus.READY


@contextmanager
def dripping_server() -> Iterator[str]:
    """An engine that sends one byte a second, for ever."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not stop.wait(1.0):
                try:
                    self.wfile.write(b" ")
                    self.wfile.flush()
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


async def test_a_remote_that_drips_delays_nobody(site: HubSite) -> None:
    with dripping_server() as url:
        async with site.client() as hub:
            engine = await ready(hub, "a", ttl_s=1.0, options={"port": free_port()})
            await hub.attach(url)
            assert (await stopped(hub, engine)).failure is None
            [remote] = [e for e in (await hub.state()).engines if e.remote]
            assert remote.status is EngineStatus.UNREACHABLE


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://bob:secret@127.0.0.1:9", None),
        ("http://127.0.0.1:9/\x01", None),
        ("http://127.0.0.1:9", "schlüssel"),
        ("gopher://127.0.0.1", None),
    ],
)
async def test_an_address_or_key_that_cannot_be_used_is_refused(site: HubSite, url: str, key: str | None) -> None:
    async with site.client() as hub:
        with pytest.raises(SuiteError) as caught:
            await hub.attach(url, key)
        assert caught.value.code == "INVALID_ARGUMENT"
        assert "secret" not in str(caught.value)
        assert (await hub.state()).engines == ()


async def test_a_lease_finds_the_next_hub(site: HubSite) -> None:
    async with site.client() as hub:
        await ready(hub, "a")
        site.kill_hub()
        async with hub.lease("a") as endpoint:
            assert endpoint.served_name == "a"


async def test_the_same_load_with_a_port_joins_and_another_is_refused(site: HubSite) -> None:
    port = free_port()
    async with site.client() as hub:
        engine = await ready(hub, "a", options={"port": port})
        again = await load(hub, "a", options={"port": port})
        assert (again.joined, again.engine and again.engine.id) == (True, engine)
        with pytest.raises(PortInUse, match=engine):
            await load(hub, "b", gpu=1, options={"port": port})


async def test_a_stranger_on_the_port_is_neither_trusted_nor_told_the_key(site: HubSite) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(str(self.headers.get("Authorization")))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    site.set_knobs(load_s=3.0)
    port = free_port()
    async with site.client() as hub:
        grant = await load(hub, "a", options={"port": port})
        assert grant.engine is not None
        wait_for(site.living, "the engine is starting")
        with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            view = await stopped(hub, grant.engine.id)
            server.shutdown()
            thread.join(10)
        assert view.failure is not None
        assert view.failure.code == "PORT_IN_USE"
        assert asked == []


async def test_a_sleeper_is_adopted_asleep_and_one_caught_waking_is_woken(site: HubSite) -> None:
    async with site.client() as hub:
        asleep, waking = await ready(hub, "asleep"), await ready(hub, "waking", gpu=1)
        for engine in (asleep, waking):
            await hub.sleep(engine)
            await until(hub, engine, EngineStatus.SLEEPING)
        site.kill_hub()
        EngineDir(site.engine(waking).path).note_sleep("waking")
        assert await status(hub, asleep) is EngineStatus.SLEEPING
        await until(hub, waking, EngineStatus.READY)
        assert site.engine(waking).sleep_state() == "awake"


@pytest.mark.parametrize("asleep", [False, True])
async def test_an_engine_is_adopted_with_its_adapters(site: HubSite, asleep: bool) -> None:
    adapter = site.folder / "style"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    async with site.client() as hub:
        engine = await ready(hub, "a", options={"enable_lora": True})
        await hub.load_lora(engine, "style", str(adapter))
        if asleep:
            await hub.sleep(engine)
            await until(hub, engine, EngineStatus.SLEEPING)
        site.kill_hub()
        (view,) = (await hub.state()).engines
        assert (view.status, view.loras) == (EngineStatus.SLEEPING if asleep else EngineStatus.READY, ("style",))


async def test_a_wait_notices_that_there_is_another_hub(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "a")
        before = await hub.wait(engine, seen_epoch=-1, timeout_s=0)
        site.kill_hub()
        after = await hub.wait(engine, seen_epoch=before.epoch, timeout_s=60)
        assert after.epoch > before.epoch


async def test_a_second_try_outlives_lingering_children(site: HubSite) -> None:
    site.set_knobs(oom_unless_max_model_len=2048, orphan=True)
    async with site.client() as hub:
        grant = await load(hub, "a", allow_smaller=True, options={"max_model_len": 4096})
        assert grant.engine is not None
        view = await until(hub, grant.engine.id, EngineStatus.READY, EngineStatus.STOPPED)
        assert (view.status, view.attempts) == (EngineStatus.READY, 2), view.failure


async def test_gpus_that_appear_late_are_used_as_gpus(site: HubSite) -> None:
    site.set_gpus(0)
    async with site.client() as hub:
        assert [d.id for d in (await hub.state()).devices] == ["cpu"]
        site.set_gpus(1)
        engine = await ready(hub, "a")
        view = await hub.wait(engine, seen_epoch=-1, timeout_s=0)
        assert (view.devices, view.promised_bytes > 60 * GIB) == (("0",), True)


async def test_a_retiring_hub_does_not_keep_the_next_one_waiting(site: HubSite) -> None:
    """It stops a deaf engine, which takes a while; the lock must not wait for that."""
    site.set_knobs(deaf=True)
    async with site.client() as hub:
        engine = await ready(hub, "deaf")
        await hub.stop(engine)
        old = hub.hub_pid
        await hub.retire()
        wait_for(lambda: old not in site.hub_pids(), "the old hub is gone", limit_s=5)
        await hub.state()
        wait_for(lambda: not site.members(engine), "the next hub finished the stop")


async def test_concurrent_changes_of_request_defaults_are_all_kept(site: HubSite) -> None:
    async with site.client() as hub:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(hub.set_model_config, f"m{number}", ModelConfig(max_tokens=number + 1))
        assert len((await hub.state()).model_configs) == 20
    assert len(json.loads((site.state / "models.json").read_text())) == 20


async def test_a_burst_of_stops_leaves_the_hub_alive(site: HubSite) -> None:
    """More stopped engines than are kept, forgotten while the watcher was looking at one of them."""
    site.set_knobs(slow_health=1.0)
    config = site.state / "hub.toml"
    config.write_text("keep_stopped = 3\n" + config.read_text())
    small: dict[str, Any] = {"options": {"gpu_memory_utilization": 0.02}}
    async with site.client() as hub:
        await load(hub, "slow", **small)
        queued = [await load(hub, f"q{n}", **small) for n in range(15)]
        pid = (await hub.state()).pid
        for grant in queued:
            assert grant.engine is not None
            await hub.stop(grant.engine.id, force=True)
        await until(hub, "e1", EngineStatus.READY)
        assert (await hub.state()).pid == pid


def test_a_hub_says_its_version_and_touches_nothing(site: HubSite) -> None:
    before = sorted(site.state.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "vllm_mcp_hub", "--version"], env=site.env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("vllm-mcp-hub ")
    assert sorted(site.state.iterdir()) == before
