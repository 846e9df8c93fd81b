"""What a download fetches of a repository, and its small sums."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_auto_discovery.core.downloads.choice import choose
from vllm_auto_discovery.core.downloads.jobs import (
    Limits,
    Outcome,
    Progress,
    Spec,
    WantedFile,
    backoff_s,
    check_room,
    job_name,
    seen,
    speed,
    total_bytes,
)
from vllm_mcp_protocol.errors import BadInput, DiskFull, FileNotInRepository
from vllm_mcp_protocol.hf.cache import weight_names

SMALL = ("README.md", "config.json", "generation_config.json", "tokenizer.json")


def chosen(*names: str, patterns: tuple[str, ...] = ()) -> set[str]:
    files = [WantedFile(name=name, size_bytes=1, blob=name) for name in names]
    return {file.name for file in choose("org/model", files, patterns)}


@pytest.mark.parametrize(
    ("wanted", "superfluous"),
    [
        (("model.safetensors",), ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot")),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"),
            ("consolidated.safetensors", "original/consolidated.00.pth", "original/params.json", "q4.gguf"),
        ),
        (("consolidated.safetensors", "params.json", "tekken.json"), ("consolidated.00.pth",)),
        (("pytorch_model.bin",), ("model.pt", "training_args.bin", "optimizer.pt", "rng_state_0.pth")),
        (("pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"), ("runs/x/events.out.tfevents.1",)),
        (("model.gguf",), ("logo.png",)),
        (("q4-00001-of-00002.gguf", "q4-00002-of-00002.gguf"), ()),
        (("adapter_config.json", "adapter_model.safetensors"), ("adapter_model.bin", "checkpoint-100/x.safetensors")),
        (("model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors"), ("onnx/model.onnx",)),
        (("model.safetensors", "modeling_own.py", "vocab.txt", "chat_template.jinja"), ("openvino/m.bin", "a/b.png")),
        (("model.safetensors", "preprocessor_config.json"), ("model.onnx", "model.onnx_data", ".gitattributes")),
    ],
)
def test_vllm_gets_what_it_needs_and_no_copies_for_others(
    wanted: tuple[str, ...], superfluous: tuple[str, ...]
) -> None:
    assert chosen(*SMALL, *wanted, *superfluous) == {*SMALL, *wanted}


def test_of_several_gguf_models_the_user_chooses_with_the_suggestion() -> None:
    names = ("config.json", "m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf")
    with pytest.raises(BadInput) as caught:
        chosen(*names)
    assert caught.value.info.details["allowed"] == ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]
    assert "m-Q4_K_M*.gguf" in caught.value.info.suggestion
    assert chosen(*names, patterns=("m-Q4_K_M*.gguf", "*.json")) == {"config.json", "m-Q4_K_M.gguf"}
    assert chosen(*names, patterns=("m-Q8_0*.gguf",)) == set(names[2:])


def test_named_files_are_taken_whatever_they_are() -> None:
    assert chosen("a.onnx", "b.bin", "original/c.pth", patterns=("*.pth", "a.onnx")) == {"a.onnx", "original/c.pth"}


def test_a_pattern_that_fits_nothing_is_named_with_what_there_is() -> None:
    with pytest.raises(FileNotInRepository) as caught:
        chosen("config.json", patterns=("config.json", "*.nothing"))
    assert "*.nothing" in caught.value.info.message
    assert caught.value.info.details["available"] == ["config.json"]
    with pytest.raises(FileNotInRepository):
        chosen("picture.png")


NAMES = st.lists(
    st.tuples(
        st.sampled_from(("", "onnx/", "original/", "sub/")),
        st.sampled_from(("model", "pytorch_model", "consolidated", "model-00001-of-00002", "optimizer", "config")),
        st.sampled_from((".safetensors", ".bin", ".pt", ".pth", ".json", ".h5", ".gguf")),
    ).map("".join),
    unique=True,
    max_size=12,
)


@given(NAMES)
def test_the_weights_that_vllm_would_load_are_always_among_the_chosen(names: list[str]) -> None:
    """`weights.names` says, by another rule, which files of a repository vLLM loads."""
    loads = set(weight_names(names))
    if all(name.startswith("consolidated") for name in loads) or any("gguf" in name for name in loads):
        return
    try:
        got = chosen(*names)
    except FileNotInRepository:
        assert loads <= {"optimizer.safetensors", "optimizer.pth"}
        return
    assert {name for name in loads if not name.startswith(("consolidated", "optimizer"))} <= got


def test_one_content_under_two_names_is_counted_once() -> None:
    files = [WantedFile(name=name, size_bytes=5, blob="same") for name in ("a", "b")]
    assert total_bytes([*files, WantedFile(name="c", size_bytes=7, blob="other"), WantedFile(name="d")]) == 12


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10**12))
def test_a_download_starts_exactly_when_what_is_missing_fits(missing: int, free: int, spare: int) -> None:
    fits = missing == 0 or free - missing >= spare
    try:
        check_room("org/model", "/cache", missing, free, Limits(spare_bytes=spare))
    except DiskFull as error:
        assert not fits
        assert "/cache" in error.info.message  # noqa: PT017
    else:
        assert fits


@given(st.integers(0, 10_000), st.floats(0.001, 10), st.floats(10, 100), st.none() | st.floats(0, 100))
def test_waits_grow_to_their_bound_and_are_never_shorter_than_the_site_asks(
    attempt: int, base_s: float, most_s: float, asked_s: float | None
) -> None:
    limits = Limits(backoff_s=base_s, most_backoff_s=most_s)
    wait_s = backoff_s(attempt, limits, asked_s)
    assert wait_s >= (asked_s or 0)
    assert wait_s <= max(most_s, asked_s or 0)
    assert backoff_s(attempt + 1, limits, asked_s) >= wait_s
    assert backoff_s(0, limits) == base_s


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**15)), max_size=6))
def test_the_speed_is_a_number_or_nothing(samples: list[tuple[float, int]]) -> None:
    found = speed(sorted(samples))
    assert found is None or (found >= 0 and not math.isnan(found))


def test_the_speed_of_the_last_seconds() -> None:
    assert speed([(1.0, 100), (3.0, 150), (5.0, 500)]) == 100


WORDS = st.text(st.characters(codec="utf-8"), max_size=30)


@given(WORDS, WORDS, st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=3))
def test_job_names_are_safe_and_the_same_for_the_same_wish(
    one: str, other: str, files: list[str], others: list[str]
) -> None:
    name = job_name(one, "main", files, "/cache")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith(".")
    assert len(name) <= 80
    assert name == job_name(one, "main", list(reversed(files)), "/cache")
    assert name != job_name(one, "v1", files, "/cache") != job_name(one, "v1", files, "/other")


SPEC = Spec(
    model_id="org/model",
    revision="main",
    commit="c",
    site="s",
    cache_dir="/cache",
    files=(WantedFile(name="a", size_bytes=100),),
    total_bytes=100,
    resumed_from_bytes=10,
    started_s=0,
)
PROGRESS = Progress(bytes_done=60, files_done=0, current=("a",), bytes_per_second=20)


@pytest.mark.parametrize(
    ("spec", "progress", "outcome", "held", "status", "done"),
    [
        (None, None, None, True, "starting", 0),
        (None, None, None, False, "failed", 0),
        (SPEC, None, None, True, "starting", 10),
        (SPEC, PROGRESS, None, True, "downloading", 60),
        (SPEC, PROGRESS, None, False, "failed", 60),
        (SPEC, None, None, False, "failed", 10),
        (SPEC, PROGRESS, Outcome(status="complete", bytes_done=100, path="/p"), False, "complete", 100),
        (SPEC, PROGRESS, Outcome(status="cancelled", bytes_done=70), False, "cancelled", 70),
    ],
)
def test_what_a_folder_shows(
    spec: Spec | None, progress: Progress | None, outcome: Outcome | None, held: bool, status: str, done: int
) -> None:
    download = seen("job", spec, progress, outcome, held=held)
    assert (download.status, download.bytes_done) == (status, done)
    assert download.running is held
    assert (download.error is not None) is (status == "failed")
    assert download.seconds_left == (2.0 if status == "downloading" else None)
