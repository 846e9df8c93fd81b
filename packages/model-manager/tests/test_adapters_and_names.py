"""Which engine a name means, whether an adapter fits, what a probe and a log say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import BadInput, EngineDied, ModelNotLoaded, NotSupported
from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState, LoadOptions
from vllm_mcp_protocol.model_names import check_model_id, closest, is_path
from vllm_model_manager.core.adapters import check_adapter, max_rank
from vllm_model_manager.core.finding import only_engine, require_base, require_engine
from vllm_model_manager.core.probe import compare
from vllm_model_manager.core.reporting import log_excerpt, start_message, start_total_s
from vllm_model_manager.repository import weights_bytes

S = EngineStatus


def view(number: int = 1, status: EngineStatus = S.READY, **more: Any) -> EngineView:
    values: dict[str, Any] = {
        "id": f"e{number}",
        "model_id": f"org/{number}",
        "served_name": f"org/{number}",
        "status": status,
        "epoch": 1,
        "created_at": 0.0,
    }
    return EngineView(**(values | more))


def state(*views: EngineView) -> HubState:
    return HubState(protocol=1, version="0", pid=1, epoch=1, state_dir="/s", uptime_s=0, devices=(), engines=views)


@pytest.mark.parametrize(
    "name", ["org/model", "gpt2", "Qwen/Qwen3-0.6B", "/data/model", "./model", "~/model", "_a/b.c"]
)
def test_names_and_folders_are_accepted(name: str) -> None:
    check_model_id(name)
    assert is_path(name) == name.startswith(("/", ".", "~"))


@pytest.mark.parametrize(
    "name", ["a/b/c", "org/..", "--flag", "a b", "org/mo;del", "-x/y", "", "org/", "a..b/c", "a\nb"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_model_id(name)
    assert refused.value.info.details["parameter"] == "model_id"


@pytest.mark.parametrize("name", ["org/1", "alias", "e1", "adapter"])
def test_an_engine_is_found_by_each_of_its_names(name: str) -> None:
    fleet = state(view(1, served_name="alias", loras=("adapter",)))
    assert require_engine(fleet, name).id == "e1"


def test_what_is_not_loaded_is_answered_with_what_is_and_with_the_last_failure() -> None:
    failure = EngineDied("The engine died.").info
    fleet = state(view(1), view(2, S.STOPPED, failure=failure))
    with pytest.raises(ModelNotLoaded) as refused:
        require_engine(fleet, "org/2")
    info = refused.value.info
    assert info.details["loaded"] == ["org/1"]
    assert "The engine died." in info.message


def test_a_near_miss_is_the_suggestion() -> None:
    with pytest.raises(ModelNotLoaded) as refused:
        require_engine(state(view(1, served_name="tiny-org/tiny-llama")), "tiny-lama")
    assert refused.value.info.suggestion == "use tiny-org/tiny-llama"


def test_an_adapter_is_not_the_model() -> None:
    with pytest.raises(BadInput, match="unload-lora adapter"):
        require_base(state(view(1, loras=("adapter",))), "adapter", "unload-model")


def test_the_only_engine() -> None:
    assert only_engine(state(view(1), view(2, S.STOPPED), view(3, S.STARTING))).id == "e1"
    with pytest.raises(ModelNotLoaded):
        only_engine(state())
    with pytest.raises(BadInput, match="org/1, org/2"):
        only_engine(state(view(1), view(2, S.SLEEPING)))


@given(known=st.lists(st.text(min_size=1), unique=True, max_size=8), wanted=st.text())
def test_near_misses_are_names_that_exist(known: list[str], wanted: str) -> None:
    assert set(closest(wanted, known)) <= set(known)


ABLE = view(1, options=LoadOptions(enable_lora=True), argv=("vllm", "--max-lora-rank", "32"))


@pytest.mark.parametrize(
    ("engine", "name", "config", "error"),
    [
        (view(1), "x", {}, NotSupported),
        (ABLE, "org/1", {}, BadInput),
        (ABLE, "x", {"r": 64}, BadInput),
        (ABLE, "x", {"r": 8, "base_model_name_or_path": "org/other"}, BadInput),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    engine: EngineView, name: str, config: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        check_adapter(engine, name, config, force=False)


def test_what_fits_is_accepted_and_what_was_not_checked_is_said() -> None:
    fits = {"r": 32, "base_model_name_or_path": "org/1"}
    assert check_adapter(ABLE, "x", fits, force=False) == ()
    assert len(check_adapter(ABLE, "x", {}, force=False)) == 2
    assert "force=true" in check_adapter(ABLE, "x", fits | {"base_model_name_or_path": "org/2"}, force=True)[0]
    assert len(check_adapter(view(1, remote=True), "x", fits, force=False)) == 1


@pytest.mark.parametrize(
    ("argv", "rank"),
    [((), 16), (("--max-lora-rank", "64"), 64), (("--max-lora-rank=8",), 8), (("--max-lora-rank",), 16)],
)
def test_the_rank_limit_is_read_from_the_command_line(argv: tuple[str, ...], rank: int) -> None:
    assert max_rank(argv) == rank


@pytest.mark.parametrize(
    ("before", "after", "verified"), [(None, "a", None), ("a", None, None), ("a", "a", True), ("a", "b", False)]
)
def test_a_probe_is_verified_only_by_two_answers(before: str | None, after: str | None, verified: bool | None) -> None:
    verdict = compare(before, after)
    assert verdict.verified is verified
    assert verdict.reason


@given(st.lists(st.text(max_size=700), max_size=40))
def test_a_log_excerpt_is_the_end_of_the_log_and_short(lines: list[str]) -> None:
    excerpt = log_excerpt(lines)
    assert len(excerpt) <= 3500
    whole = "\n".join(line[:500] for line in lines)
    assert whole.endswith(excerpt)


@given(elapsed=st.none() | st.floats(0, 1e5), estimated=st.none() | st.floats(0.1, 1e4))
def test_progress_never_claims_to_be_done(elapsed: float | None, estimated: float | None) -> None:
    starting = view(1, S.STARTING, elapsed_s=elapsed, estimated_start_s=estimated)
    assert start_total_s(starting) > (elapsed or 0) or not elapsed
    assert "org/1" in start_message(starting)


def test_only_the_weights_that_vllm_would_download_count() -> None:
    assert weights_bytes({"a.safetensors": 3, "b.safetensors": 4, "a.bin": 9, "original/x.safetensors": 5}) == 7
    assert weights_bytes({"a.bin": 9, "training_args.bin": 1}) == 9
    assert weights_bytes({"a.pth": 4, "b.gguf": 9}) == 4
    assert weights_bytes({"a.safetensors": None}) is None
    assert weights_bytes({"README.md": 1}) is None
