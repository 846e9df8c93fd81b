"""hub.toml, models.json, starts.jsonl: read whole, written whole, and never a reason for the hub not to start."""

import json
from pathlib import Path

import pytest

from vllm_mcp_hub.core.retry import smaller_request
from vllm_mcp_hub.memory import check_free_memory
from vllm_mcp_hub.store import ModelConfigs, StartHistory
from vllm_mcp_protocol.errors import ErrorInfo, GpuMemoryHeld, SettingError
from vllm_mcp_protocol.hub_config import HubConfig, read_config
from vllm_mcp_protocol.model import Device, Holder, LoadOptions, LoadRequest, ModelConfig, ModelFacts, Need, StartRecord
from vllm_mcp_protocol.units import GIB


def start(model: str, seconds: float) -> StartRecord:
    return StartRecord(
        model_id=model, flags=(), device_kind="cpu", vllm_version=None, seconds=seconds, device_bytes=GIB
    )


def test_no_hub_toml_is_the_defaults(tmp_path: Path) -> None:
    assert read_config(tmp_path / "hub.toml") == HubConfig()


def test_hub_toml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text('idle_exit_s = 5\n[engine]\nexecutable = "/opt/vllm"\nenv = { NCCL_DEBUG = "INFO" }\n')
    config = read_config(path)
    assert (config.idle_exit_s, config.engine.executable) == (5, "/opt/vllm")
    assert config.engine.env == {"NCCL_DEBUG": "INFO"}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("idle_exit_s = -1", "idle_exit_s"),
        ("idle_exit = 1", "idle_exit"),
        ("[engine]\nenv = { 'A B' = '1' }", "engine.env"),
        ("[engine", "the file"),
        ("[monitoring]\nendpoint = 'http://127.0.0.1:99999'", "monitoring.endpoint"),
        ("[monitoring]\nendpoint = 'http://[::1'", "monitoring.endpoint"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(text)
    with pytest.raises(SettingError) as caught:
        read_config(path)
    assert key in str(caught.value)
    assert str(path) in str(caught.value)


def test_model_configs_outlive_the_hub_and_are_forgotten_on_wish(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    ModelConfigs(path).set("a/b", ModelConfig(temperature=0.5, stop=("x",)))
    configs = ModelConfigs(path)
    assert configs.all() == {"a/b": ModelConfig(temperature=0.5, stop=("x",))}
    configs.set("a/b", None)
    assert ModelConfigs(path).all() == {}


def test_an_entry_of_another_version_is_kept_and_the_others_work(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text('{"old/one": {"temperature": 0.5}, "new/one": {"temperature": 0.5, "invented_later": 1}}')
    configs = ModelConfigs(path)
    assert configs.all() == {"old/one": ModelConfig(temperature=0.5)}
    configs.set("third/one", ModelConfig(top_p=0.9))
    assert json.loads(path.read_text())["new/one"] == {"temperature": 0.5, "invented_later": 1}


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_an_unreadable_models_json_is_put_aside_not_lost(tmp_path: Path, text: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(text)
    assert ModelConfigs(path).all() == {}
    assert path.with_suffix(".unreadable").read_text() == text


def test_starts_are_remembered_and_a_cut_line_costs_one(tmp_path: Path) -> None:
    path = tmp_path / "starts.jsonl"
    history = StartHistory(path)
    history.add(start("a", 1.0))
    history.add(start("b", 2.0))
    with open(path, "a") as file:
        file.write('{"model_id": "c", "fla')
    again = StartHistory(path)
    assert [record.model_id for record in again.all()] == ["a", "b"]
    again.add(start("d", 3.0))
    assert [record.model_id for record in StartHistory(path).all()] == ["a", "b", "d"]


def test_the_history_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "starts.jsonl"
    history = StartHistory(path)
    for number in range(1001):
        history.add(start("a", float(number)))
    assert len(history.all()) == 500
    assert StartHistory(path).all() == history.all()


OUT_OF_MEMORY = ErrorInfo(code="ENGINE_OUT_OF_MEMORY", message="no room")
FACTS = ModelFacts(model_id="a/b", context_window=8192)


def test_after_an_out_of_memory_vllms_own_estimate_is_tried() -> None:
    told = OUT_OF_MEMORY.model_copy(update={"details": {"estimated_max_model_len": 3000}})
    smaller = smaller_request(LoadRequest(model_id="a/b", facts=FACTS), told)
    assert smaller is not None
    assert smaller.options.max_model_len == 3000


@pytest.mark.parametrize(("asked", "next_try"), [(None, 4096), (1024, 512), (400, None)])
def test_without_an_estimate_half_is_tried_until_it_is_too_small(asked: int | None, next_try: int | None) -> None:
    request = LoadRequest(model_id="a/b", facts=FACTS, options=LoadOptions(max_model_len=asked))
    smaller = smaller_request(request, OUT_OF_MEMORY)
    assert (smaller.options.max_model_len if smaller else None) == next_try


def test_another_failure_is_not_tried_again() -> None:
    failure = OUT_OF_MEMORY.model_copy(update={"code": "BAD_CHECKPOINT"})
    assert smaller_request(LoadRequest(model_id="a/b", facts=FACTS), failure) is None


def test_foreign_memory_is_told_with_its_holders() -> None:
    device = Device(id="0", kind="cuda", name="H100", total_bytes=80 * GIB, free_bytes=10 * GIB)
    need = Need(device_bytes=72 * GIB, basis="0.9")
    with pytest.raises(GpuMemoryHeld) as caught:
        check_free_memory("a/b", device, need, lambda _: [Holder(pid=42, name="blender", bytes=60 * GIB)])
    assert caught.value.info.details["holders"] == [42]
    assert "blender (pid 42, 61440 MiB)" in str(caught.value)
    check_free_memory("a/b", device.model_copy(update={"free_bytes": 72 * GIB}), need, lambda _: [])
