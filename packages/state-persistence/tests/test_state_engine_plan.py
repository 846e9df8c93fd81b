"""Captures and plans, without a hub: every kind of step, with its reason."""

from typing import Any

import pytest

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_mcp_protocol.model import (
    Device,
    EngineStatus,
    EngineView,
    HubState,
    LoadOptions,
    ModelConfig,
    ModelFacts,
)
from vllm_mcp_protocol.units import GIB
from vllm_state_persistence.core.engine_capture import (
    CapturedEngine,
    CapturedLora,
    EngineCapture,
    capture,
    read_capture,
)
from vllm_state_persistence.core.engine_plan import Here, Step, goes_first, plan

LORA = CapturedLora(name="style", path="/old/style")
LLAMA = CapturedEngine(
    model_id="org/llama", served_name="org/llama", options={"max_model_len": 512, "enable_lora": True}, devices=("1",)
)
FACTS = ModelFacts(model_id="org/llama", path="/cache/llama", weights_bytes=GIB, revision="c0ffee")


def gpu(number: int, total_bytes: int = 80 * GIB) -> Device:
    return Device(id=str(number), kind="cuda", name="H100", total_bytes=total_bytes, free_bytes=total_bytes)


CPU = Device(id="cpu", kind="cpu", name="host", total_bytes=16 * GIB, free_bytes=16 * GIB)


def view(**changes: Any) -> EngineView:
    values: dict[str, Any] = {
        "id": "e1",
        "model_id": "org/llama",
        "served_name": "org/llama",
        "status": EngineStatus.READY,
        "epoch": 1,
        "devices": ("1",),
        "created_at": 0.0,
        "options": LoadOptions(max_model_len=512, enable_lora=True),
    }
    return EngineView(**(values | changes))


def state(*engines: EngineView, devices: tuple[Device, ...] = (gpu(0), gpu(1)), **more: Any) -> HubState:
    return HubState(
        protocol=1,
        version="0.1.0",
        pid=1,
        epoch=1,
        state_dir="/s",
        uptime_s=1,
        devices=devices,
        engines=engines,
        **more,
    )


def here(*engines: EngineView, devices: tuple[Device, ...] = (gpu(0), gpu(1)), **more: Any) -> Here:
    configs = more.pop("model_configs", {})
    values = {"models": {("org/llama", ""): FACTS}} | more
    return Here(state(*engines, devices=devices, model_configs=configs), **values)


def one(engine: CapturedEngine, where: Here, *, force: bool = False) -> Step:
    (step,) = plan(EngineCapture(engines=(engine,)), where, force=force)
    return step


def changed(**changes: Any) -> CapturedEngine:
    return LLAMA.model_copy(update=changes)


# -- captures -------------------------------------------------------------------------------------------------------


def test_a_capture_holds_what_a_load_asks_for_and_no_figure_that_moves() -> None:
    ready = view(pinned=True, ttl_s=None, loras=("style",), facts=FACTS)
    caught = capture(state(ready), {"e1": {"style": "/hf/models--org--my--lora/snapshots/beef"}})
    (engine,) = caught.engines
    assert engine == changed(
        pinned=True,
        revision="c0ffee",
        loras=(
            CapturedLora(
                name="style", path="/hf/models--org--my--lora/snapshots/beef", repo="org/my--lora", revision="beef"
            ),
        ),
    )
    moved = view(
        id="e9", pinned=True, loras=("style",), facts=FACTS, epoch=77, last_used_at=5.0, in_flight=3, created_at=99
    )
    paths = {"e9": {"style": "/hf/models--org--my--lora/snapshots/beef"}}
    assert capture(state(moved), paths).to_bytes() == caught.to_bytes()


def test_engines_on_their_way_are_captured_as_they_will_be() -> None:
    S = EngineStatus
    expected = {S.QUEUED: False, S.STARTING: False, S.WAKING: False, S.SUSPENDING: True, S.SLEEPING: True}
    for status, asleep in expected.items():
        assert [engine.asleep for engine in capture(state(view(status=status))).engines] == [asleep], status
    for status in (S.STOPPED, S.STOPPING, S.DRAINING):
        assert capture(state(view(status=status))).engines == (), status


def test_a_remote_engine_is_its_address() -> None:
    remote = view(id="r1", remote=True, endpoint="http://other:8000/v1", status=EngineStatus.UNREACHABLE)
    caught = capture(state(remote))
    assert caught.remotes == ("http://other:8000",)
    assert caught.engines == ()


@pytest.mark.parametrize("option", LoadOptions.model_fields)
def test_every_option_survives(option: str) -> None:
    values: dict[str, Any] = {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "quantization": "awq",
        "dtype": "half",
        "enforce_eager": False,
        "enable_prefix_caching": False,
        "enable_lora": False,
        "kv_cache_dtype": "fp8",
        "served_model_name": "fast",
        "revision": "main",
        "trust_remote_code": True,
        "profile": "balanced",
        "extra_args": ("--seed", "7"),
    }
    options = LoadOptions.model_validate({option: values.get(option, 2048)})
    (engine,) = read_capture(capture(state(view(options=options))).to_bytes()).engines
    assert set(engine.options) == {option}
    assert LoadOptions.model_validate(engine.options) == options


def test_a_capture_reads_back_and_a_later_version_may_add_to_it() -> None:
    caught = capture(state(view(), model_configs={"org/llama": ModelConfig(temperature=0.5, stop=("x",))}))
    assert read_capture(caught.to_bytes()) == caught
    assert caught.defaults == {"org/llama": {"temperature": 0.5, "stop": ["x"]}}
    assert read_capture(b'{"format": 2, "new": 1, "engines": [{"model_id": "a", "served_name": "a", "x": 1}]}').engines


@pytest.mark.parametrize("data", [b"", b"[]", b'{"engines": [{}]}', b"\xff"])
def test_a_capture_that_is_none_is_told_as_damage(data: bytes) -> None:
    with pytest.raises(StoreDamaged, match="cannot be read"):
        read_capture(data)


# -- plans ----------------------------------------------------------------------------------------------------------


def test_what_is_not_loaded_is_loaded_where_it_was() -> None:
    step = one(changed(asleep=True, pinned=True), here())
    assert (step.action, step.gpu_ids, step.then_sleep) == ("load", (1,), True)
    assert step.options == LoadOptions(max_model_len=512, enable_lora=True)
    assert step.facts == FACTS


def test_what_runs_in_the_same_way_needs_nothing() -> None:
    step = one(LLAMA, here(view()))
    assert (step.action, step.running) == ("none", "e1")
    elsewhere = one(LLAMA, here(view(devices=("0",))))
    assert elsewhere.action == "none", "another device is no other configuration"


@pytest.mark.parametrize("status", [EngineStatus.STOPPED, EngineStatus.STOPPING, EngineStatus.DRAINING])
def test_what_is_on_its_way_out_is_loaded_anew(status: EngineStatus) -> None:
    assert one(LLAMA, here(view(status=status))).action == "load"


@pytest.mark.parametrize(
    ("running", "words"),
    [
        ({"options": LoadOptions(enable_lora=True)}, "org/llama: max_model_len was 512, is not set."),
        ({"pinned": True}, "org/llama is pinned now."),
        ({"ttl_s": 60.0}, "org/llama: its idle limit was not set, is 1 min 00 s."),
        ({"served_name": "fast"}, "org/llama: served_model_name was org/llama, is fast."),
        ({"model_id": "org/other"}, "org/llama: model_id was org/llama, is org/other."),
    ],
)
def test_another_configuration_stays_unless_forced(running: dict[str, Any], words: str) -> None:
    where = here(view(**running))
    step = one(LLAMA, where)
    assert (step.action, step.differences) == ("differs", (words,))
    assert "force=true" in step.suggestion
    forced = one(LLAMA, where, force=True)
    assert (forced.action, forced.running, forced.differences) == ("reload", "e1", (words,))


def test_a_forced_reload_that_cannot_work_leaves_the_engine_alone() -> None:
    step = one(LLAMA, here(view(pinned=True), models={}), force=True)
    assert step.action == "blocked"
    assert step.differences


def test_sleep_is_brought_back_both_ways() -> None:
    assert one(LLAMA, here(view(status=EngineStatus.SLEEPING))).action == "wake"
    asleep = one(changed(asleep=True), here(view()))
    assert (asleep.action, asleep.then_sleep) == ("sleep", True)
    assert one(changed(asleep=True), here(view(status=EngineStatus.SLEEPING))).action == "none"


def test_adapters_that_are_missing_are_loaded() -> None:
    where = here(view(), adapters={LORA: "/here/style"})
    step = one(changed(loras=(LORA,)), where)
    assert (step.action, step.adapters) == ("load-lora", (("style", "/here/style"),))
    assert one(changed(loras=(LORA,)), here(view(loras=("style",)))).action == "none"
    fresh = one(changed(loras=(LORA,)), here(adapters={LORA: "/here/style"}))
    assert (fresh.action, fresh.adapters) == ("load", (("style", "/here/style"),))


def test_a_sleeping_engine_takes_no_adapter() -> None:
    where = here(view(status=EngineStatus.SLEEPING), adapters={LORA: "/here/style"})
    step = one(changed(asleep=True, loras=(LORA,)), where)
    assert (step.action, step.adapters) == ("none", ())
    assert "when it is awake" in step.lacking[0]


@pytest.mark.parametrize(
    ("lora", "more", "words"),
    [
        (LORA, {}, "put its files into /old/style"),
        (LORA, {"obstacles": {"/old/style": "outside of the allowed folders"}}, "outside of the allowed folders"),
        (CapturedLora(name="style"), {}, "its folder was not known"),
        (CapturedLora(name="style", path="/x", repo="org/style"), {}, "download-model org/style"),
    ],
)
def test_an_adapter_that_is_not_here_is_explained(lora: CapturedLora, more: dict[str, Any], words: str) -> None:
    step = one(changed(loras=(lora,)), here(**more))
    assert (step.action, step.adapters) == ("load", ())
    assert words in step.lacking[0]


@pytest.mark.parametrize(
    ("engine", "more", "reason", "suggestion"),
    [
        (LLAMA, {"models": {}}, "org/llama is not here", "download-model org/llama, then load-state again"),
        (
            changed(options={"revision": "v2"}),
            {},
            "org/llama at revision v2 is not here",
            "download-model org/llama with revision=v2",
        ),
        (
            LLAMA,
            {"models": {("org/llama", ""): FACTS.model_copy(update={"complete": False})}},
            "files of org/llama are missing",
            "download-model",
        ),
        (changed(model_id="/models/a"), {}, "/models/a is not here", "put the files there"),
        (
            changed(model_id="/secret"),
            {"obstacles": {"/secret": "it leads outside"}},
            "it leads outside",
            "a folder that the suite may use",
        ),
        (changed(options={"warp": 9}), {}, "this version does not know warp", "upgrade"),
        (changed(options={"max_model_len": -1}), {}, "max_model_len: Input should be greater", "upgrade"),
        (
            changed(options={"extra_args": ["--gone=1", "--seed", "1"]}),
            {"flags": frozenset({"--seed"})},
            "does not have --gone",
            "load-model without it",
        ),
        (
            changed(options={"profile": "balanced", "max_num_seqs": 2}),
            {"flags": frozenset({"--max-num-seqs"})},
            "does not have profile",
            "load-model without it",
        ),
        (
            changed(options={"tensor_parallel_size": 4}),
            {},
            "it was spread over 4 GPUs, and this host has 2",
            "tensor_parallel_size",
        ),
        (LLAMA, {"devices": ()}, "no device of this host can be read", "vllm-mcp doctor"),
        (LLAMA, {"devices": (gpu(0, 4 * GIB),)}, "it does not fit: needs about", "smaller"),
        (
            LLAMA,
            {
                "devices": (gpu(0), gpu(1)),
                "models": {("org/llama", ""): FACTS.model_copy(update={"weights_bytes": 100 * GIB})},
            },
            "it needs 2 GPUs here, and was spread over 1",
            "tensor_parallel_size",
        ),
    ],
)
def test_what_cannot_come_back_says_why(
    engine: CapturedEngine, more: dict[str, Any], reason: str, suggestion: str
) -> None:
    step = one(engine, here(**more))
    assert step.action == "blocked"
    assert reason in step.reason
    assert suggestion in step.suggestion


@pytest.mark.parametrize("options", [{"quantization": "fp8"}, {"extra_args": ["--cpu-offload-gb", "90"]}])
def test_options_that_make_it_smaller_are_tried(options: dict[str, Any]) -> None:
    large = {("org/llama", ""): FACTS.model_copy(update={"weights_bytes": 100 * GIB})}
    step = one(changed(options=options), here(models=large))
    assert step.action == "load"
    assert "tried all the same" in step.notes[0]


@pytest.mark.parametrize(
    ("engine", "more", "note"),
    [
        (changed(devices=("7",)), {}, "GPU 7 is not here"),
        (LLAMA, {"devices": (CPU,)}, "it ran on GPUs and is loaded on the CPU"),
        (changed(devices=("cpu",)), {}, "it ran on the CPU and is loaded on GPUs"),
        (changed(revision="beef"), {}, "its files are of revision c0ffee here, and were of beef"),
        (changed(options={"trust_remote_code": True}), {}, "it runs code of the model's repository"),
    ],
)
def test_what_will_not_be_as_it_was_is_noted(engine: CapturedEngine, more: dict[str, Any], note: str) -> None:
    step = one(engine, here(**more))
    assert step.action == "load"
    assert note in step.notes[0]
    assert step.gpu_ids in ((), (1,))


def test_flags_that_vllm_has_in_another_spelling_are_no_obstacle() -> None:
    flags = frozenset({"--max-model-len", "--enable-lora", "--seed", "--compilation-config", "--served-model-name"})
    options = LLAMA.options | {
        "port": 8000,
        "served_model_name": "a",
        "extra_args": ["--compilation_config.mode=3", "--seed", "-1"],
    }
    assert one(changed(options=options), here(flags=flags)).action == "load"


def test_defaults_are_set_kept_or_replaced() -> None:
    caught = EngineCapture(defaults={"org/llama": {"temperature": 0.5, "stop": ["x"]}})

    def step(where: Here, *, force: bool = False) -> Step:
        (only,) = plan(caught, where, force=force)
        return only

    same = here(model_configs={"org/llama": ModelConfig(temperature=0.5, stop=("x",))})
    other = here(model_configs={"org/llama": ModelConfig(temperature=1, stop=("x",))})
    assert (step(here()).action, step(here()).config) == ("set-config", ModelConfig(temperature=0.5, stop=("x",)))
    assert step(same).action == "none"
    assert step(other).action == "differs"
    assert step(other).differences == ("Request defaults of org/llama: temperature was 0.5, is 1.0.",)
    assert step(other, force=True).action == "set-config"


def test_defaults_of_a_later_version_are_blocked() -> None:
    (step,) = plan(EngineCapture(defaults={"m": {"mood": "good"}}), here())
    assert (step.action, "does not know mood" in step.reason) == ("blocked", True)


def test_remote_engines_are_attached_once() -> None:
    remote = view(id="r1", remote=True, endpoint="http://a:1/v1")
    caught = EngineCapture(remotes=("http://a:1", "http://b:1"))
    assert [(step.subject, step.action) for step in plan(caught, here(remote))] == [
        ("http://a:1", "none"),
        ("http://b:1", "attach"),
    ]
    assert one(LLAMA, here(remote)).action == "load", "an engine elsewhere is not this one"


def test_an_engine_under_its_own_name_comes_before_the_same_model_under_others() -> None:
    """The hub would give its load to the other one, which serves the same model."""
    alias = changed(served_name="a-fast", options={"served_model_name": "a-fast"}, asleep=True)
    steps = plan(EngineCapture(engines=(alias, LLAMA)), here())
    assert [step.subject for step in steps] == ["org/llama", "a-fast"]
    assert [goes_first(step, steps) for step in steps] == [True, True]
    alone = plan(EngineCapture(engines=(LLAMA,)), here())
    assert not goes_first(alone[0], alone)


def test_what_is_here_and_not_in_the_snapshot_is_left_alone() -> None:
    where = here(view(id="e2", model_id="b", served_name="b"), model_configs={"b": ModelConfig(top_p=0.5)})
    assert plan(EngineCapture(), where, force=True) == ()
