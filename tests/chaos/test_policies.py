"""What the hub decides by itself: idleness, room, a second try, foreign memory, a full disk. Real processes."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.waiting import load, ready, stopped, until
from tests.hubs import GIB, HubSite, wait_for, wish
from vllm_mcp_hub.host.processes import Seen, observe
from vllm_mcp_protocol.engine_http import EngineHttp
from vllm_mcp_protocol.errors import GpuMemoryInsufficient, ModelNotLoaded, NotSupported, SuiteError
from vllm_mcp_protocol.model import EngineStatus, LoadRequest

pytestmark = pytest.mark.anyio


async def test_an_idle_engine_is_put_to_sleep_and_a_lease_wakes_it(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "sleepy", ttl_s=3.0)
        asleep = await until(hub, engine, EngineStatus.SLEEPING)
        assert 0 < asleep.promised_bytes < 10 * GIB, "only a remainder stays promised"
        async with hub.lease("sleepy") as endpoint:
            assert endpoint.served_name == "sleepy"
            assert (await hub.wait(engine, seen_epoch=-1, timeout_s=0)).status is EngineStatus.READY


async def test_a_sleeper_that_nobody_wakes_is_ended(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "sleepy", ttl_s=0.5)
        await until(hub, engine, EngineStatus.SLEEPING)
        assert (await stopped(hub, engine)).failure is None


async def test_an_idle_engine_that_cannot_sleep_is_stopped_and_a_pinned_one_stays(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "plain", ttl_s=0.5, options={"port": 18551})
        kept = await ready(hub, "pinned", gpu=1, ttl_s=0.5, pin=True)
        assert (await stopped(hub, engine)).failure is None
        assert (await hub.wait(kept, seen_epoch=-1, timeout_s=0)).status is EngineStatus.READY


async def test_a_leased_engine_is_not_idle(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "busy", ttl_s=3.0)
        idle = await ready(hub, "idle", gpu=1, ttl_s=3.0)
        async with hub.lease("busy"):
            await until(hub, idle, EngineStatus.SLEEPING)
            assert (await hub.wait(engine, seen_epoch=-1, timeout_s=0)).status is EngineStatus.READY
        await until(hub, engine, EngineStatus.SLEEPING)


async def test_a_lie_about_sleep_is_found_out(site: HubSite) -> None:
    """vLLM's CPU build answers 200 and does not sleep."""
    site.set_knobs(sleep_is_a_lie=True)
    async with site.client() as hub:
        engine = await ready(hub, "liar")
        asked = await hub.sleep(engine)
        assert asked.status is EngineStatus.SUSPENDING
        view = await hub.wait(engine, seen_epoch=asked.epoch, timeout_s=20)
        assert view.status is EngineStatus.READY
        assert view.failure is not None
        assert view.failure.code == "ENGINE_SLEEP_FAILED"


async def test_room_is_made_by_the_least_recently_used(site: HubSite) -> None:
    site.set_gpus(1)
    third = {"options": {"gpu_memory_utilization": 0.3}}
    async with site.client() as hub:
        old, used = await ready(hub, "old", None, **third), await ready(hub, "used", None, **third)
        async with hub.lease("used"):
            pass
        with pytest.raises(GpuMemoryInsufficient):
            await load(hub, "new", options={"gpu_memory_utilization": 0.5})
        plan = await hub.load(wish("new", make_room=True, dry_run=True, options={"gpu_memory_utilization": 0.5}))
        assert (plan.engine, plan.evicted) == (None, (old,))
        grant = await hub.load(wish("new", make_room=True, options={"gpu_memory_utilization": 0.5}))
        assert grant.evicted == (old,)
        assert grant.engine is not None
        await until(hub, grant.engine.id, EngineStatus.READY)
        assert observe(site.engine(old)) is Seen.GONE
        assert (await hub.wait(used, seen_epoch=-1, timeout_s=0)).status is EngineStatus.READY


async def test_unload_waits_for_what_runs_and_refuses_what_comes(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "a")
        async with hub.lease("a"):
            assert (await hub.stop(engine)).status is EngineStatus.DRAINING
            with pytest.raises(ModelNotLoaded):
                async with hub.lease("a"):
                    pass
        await stopped(hub, engine)


async def test_requests_that_bypass_the_suite_count_too(site: HubSite) -> None:
    site.set_knobs(slow_stream_s=0.4, answer_tokens=4)
    async with site.client() as hub:
        engine = await ready(hub, "a")
        async with hub.lease("a") as endpoint:
            pass
        async with EngineHttp(endpoint, timeout_s=30) as http:
            payload = {"model": "a", "messages": [{"role": "user", "content": "x"}]}
            chunks = http.stream_chat(payload)
            await anext(chunks)
            assert (await hub.stop(engine)).status is EngineStatus.DRAINING
            rest = [chunk async for chunk in chunks]
        assert rest[-1]["choices"][0]["finish_reason"] == "stop", "the answer was finished, not aborted"
        await stopped(hub, engine)


async def test_after_an_out_of_memory_a_smaller_context_is_tried_once_when_allowed(site: HubSite) -> None:
    site.set_knobs(oom_unless_max_model_len=2048)
    asked: dict[str, Any] = {"options": {"max_model_len": 4096}}
    async with site.client() as hub:
        strict = await load(hub, "strict", **asked)
        assert strict.engine is not None
        failed = await stopped(hub, strict.engine.id)
        assert failed.failure is not None
        assert failed.failure.code == "ENGINE_OUT_OF_MEMORY"
        grant = await load(hub, "lenient", allow_smaller=True, **asked)
        assert grant.engine is not None
        view = await until(hub, grant.engine.id, EngineStatus.READY, EngineStatus.STOPPED)
        assert (view.status, view.attempts) == (EngineStatus.READY, 2), view.failure
        assert view.options.max_model_len is not None
        assert view.options.max_model_len <= 2048
        assert any("ran out of memory" in reason for reason in view.reasons), "the result says so"


async def test_memory_that_strangers_hold_is_refused_by_pid(site: HubSite) -> None:
    site.set_gpus(1, used_bytes=60 * GIB, processes=[{"pid": os.getpid(), "used": 60 * GIB}])
    async with site.client() as hub:
        grant = await load(hub, "a")
        assert grant.engine is not None
        failure = (await stopped(hub, grant.engine.id)).failure
        assert failure is not None
        assert failure.code == "GPU_MEMORY_HELD"
        assert failure.details["holders"] == [os.getpid()]
        assert str(os.getpid()) in failure.message


async def test_a_missing_vllm_is_named(site: HubSite) -> None:
    (site.state / "hub.toml").write_text('[engine]\nexecutable = "/nowhere/vllm"\n')
    async with site.client() as hub:
        with pytest.raises(SuiteError) as caught:
            await load(hub, "a")
    assert caught.value.code == "VLLM_NOT_INSTALLED"
    assert "/nowhere/vllm" in str(caught.value)
    assert "vllm-mcp engine install" in caught.value.info.suggestion


@pytest.mark.parametrize(
    ("fail", "code"),
    [
        ("unsupported_architecture", "UNSUPPORTED_ARCHITECTURE"),
        ("bad_quantization", "BAD_QUANTIZATION"),
        ("context_too_long", "CONTEXT_TOO_LONG"),
        ("parallel_size", "PARALLEL_SIZE_INVALID"),
        ("gated", "GATED_REPOSITORY"),
        ("oom", "ENGINE_OUT_OF_MEMORY"),
        ("no_weights", "BAD_CHECKPOINT"),
        ("memory_held", "GPU_MEMORY_HELD"),
    ],
)
async def test_a_failed_start_has_a_cause_and_the_device_is_free_again(site: HubSite, fail: str, code: str) -> None:
    site.set_knobs(fail=fail)
    async with site.client() as hub:
        grant = await load(hub, "a")
        assert grant.engine is not None
        failure = (await stopped(hub, grant.engine.id)).failure
        assert failure is not None
        assert failure.code == code, failure
        assert failure.suggestion
        site.set_knobs()
        await ready(hub, "b")


async def test_an_engine_that_dies_is_told_with_its_cause(site: HubSite) -> None:
    site.set_knobs(die_on_first_request="SIGILL")
    async with site.client() as hub:
        engine = await ready(hub, "a")
        with pytest.raises(SuiteError):
            async with hub.lease("a") as endpoint, EngineHttp(endpoint, timeout_s=10) as http:
                await http.chat({"model": "a", "messages": [{"role": "user", "content": "x"}]})
        failure = (await stopped(hub, engine)).failure
        assert failure is not None
        assert failure.code == "ENGINE_DIED"


async def test_sleep_needs_a_private_endpoint(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "public", options={"port": 18552})
        with pytest.raises(NotSupported, match="without port"):
            await hub.sleep(engine)


async def test_a_hub_without_engines_and_clients_ends(site: HubSite) -> None:
    config = site.state / "hub.toml"
    config.write_text("idle_exit_s = 0.5\n" + config.read_text())
    async with site.client() as hub:
        engine = await ready(hub, "a")
        await hub.stop(engine)
        await stopped(hub, engine)
    wait_for(lambda: not site.hub_pids(), "the idle hub has ended")
    assert not (site.state / "hub.sock").exists()


@pytest.fixture
def small_disk(site: HubSite) -> Iterator[Path]:
    """The engines' folder on a file system of 256 KiB."""
    engines = site.state / "engines"
    engines.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(engines)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system needs root: {mounted.stderr.decode()}")
    yield engines
    site.kill_all()  # their folders disappear with the file system
    subprocess.run(["umount", "-l", str(engines)], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_a_full_disk_fails_the_load_by_name_and_nothing_is_started(site: HubSite, small_disk: Path) -> None:
    async with site.client() as hub:
        await ready(hub, "before")
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        grant = await hub.load(LoadRequest(model_id="a", gpu_ids=(1,)))
        assert grant.engine is not None
        view = await stopped(hub, grant.engine.id)
        assert view.failure is not None
        assert view.failure.code == "DISK_FULL", view.failure
        assert site.living() == ["e1"], "what ran goes on"
        filler.unlink()
        await ready(hub, "after", gpu=1)


async def test_the_audit_log_tells_the_life_of_an_engine(site: HubSite) -> None:
    async with site.client() as hub:
        engine = await ready(hub, "a")
        await hub.stop(engine)
        await stopped(hub, engine)
    entries = [json.loads(line) for line in (site.state / "audit.jsonl").read_text().splitlines()]
    states = [entry["state"] for entry in entries if entry["event"] == "engine"]
    assert states == ["starting", "ready", "stopping", "stopped"]
