"""The read-only scan: what a cache says, what it must survive, where it must not look."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.caches import age
from vllm_mcp_protocol.checkpoint.config import context_window, kv_bytes_per_token
from vllm_mcp_protocol.hf.cache import (
    CONFIG_LIMIT_BYTES,
    ModelCatalog,
    facts_of,
    facts_of_folder,
    find,
    formats,
    missing_files,
    scan,
)
from vllm_mcp_protocol.hf.inventory import CachedRepo
from vllm_mcp_protocol.hf.scanner import scan_folder
from vllm_mcp_protocol.model import ModelFacts
from vllm_mcp_protocol.weights.names import missing_shards

COMMIT = "a" * 40
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


class Repo:
    """A repository in a cache, written the way huggingface_hub does: links into blobs."""

    def __init__(self, cache: Path, model_id: str, commit: str = COMMIT, ref: str | None = "main") -> None:
        self.path = cache / ("models--" + model_id.replace("/", "--"))
        self.snapshot = self.path / "snapshots" / commit
        (self.path / "blobs").mkdir(parents=True, exist_ok=True)
        (self.path / "refs").mkdir(exist_ok=True)
        self.snapshot.mkdir(parents=True)
        if ref:
            (self.path / "refs" / ref).write_text(commit)

    def add(self, name: str, content: bytes | dict[str, Any], blob: str | None = None) -> Path:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        target = self.path / "blobs" / (blob or f"{name}.{self.snapshot.name[:6]}")
        target.write_bytes(data)
        (self.snapshot / name).symlink_to(os.path.relpath(target, self.snapshot))
        return target


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


def llama(cache: Path, model_id: str = "org/llama", **changes: Any) -> Repo:
    repo = Repo(cache, model_id)
    repo.add("config.json", LLAMA | changes)
    repo.add("model.safetensors", b"w" * 1000)
    return repo


def only(cache: Path) -> ModelFacts:
    found = scan([cache])
    assert len(found.models) == 1, found.warnings
    return found.models[0]


def test_facts_of_a_plain_model(cache: Path) -> None:
    repo = llama(cache)
    repo.add("chat_template.jinja", b"{{ messages }}")
    assert only(cache) == ModelFacts(
        model_id="org/llama",
        path=str(repo.snapshot),
        revision=COMMIT,
        complete=True,
        weights_bytes=1000,
        architectures=("LlamaForCausalLM",),
        model_type="llama",
        dtype="bfloat16",
        context_window=8192,
        attention_heads=32,
        kv_bytes_per_token=32 * 2 * 8 * 128 * 2,
        has_chat_template=True,
    )


def test_names_with_dashes_and_without_organisation(cache: Path) -> None:
    llama(cache, "my-org/a--b")
    llama(cache, "gpt2")
    assert [m.model_id for m in scan([cache]).models] == ["gpt2", "my-org/a--b"]


def test_main_decides_and_other_revisions_are_found_by_branch_or_commit(cache: Path) -> None:
    llama(cache)
    other = Repo(cache, "org/llama", "b" * 40, ref="dev")
    other.add("config.json", LLAMA | {"max_position_embeddings": 1})
    assert only(cache).revision == COMMIT
    for revision in ("dev", "b" * 40):
        facts = find("org/llama", [cache], revision)
        assert facts is not None
        assert (facts.revision, facts.context_window, facts.complete) == ("b" * 40, 1, False)
    assert find("org/llama", [cache], "no-such") is None
    assert find("org/llama", [cache], "../../../etc") is None


def test_without_main_the_newest_snapshot_counts(cache: Path) -> None:
    old = Repo(cache, "org/llama", "b" * 40, ref=None)
    os.utime(old.snapshot, (1, 1))
    new = Repo(cache, "org/llama", "c" * 40, ref=None)
    new.add("config.json", LLAMA)
    assert only(cache).revision == "c" * 40


def test_blob_with_two_names_counts_once(cache: Path) -> None:
    repo = llama(cache)
    (repo.snapshot / "copy.safetensors").symlink_to("model.safetensors")
    assert only(cache).weights_bytes == 1000


def test_safetensors_are_preferred_and_training_leftovers_ignored(cache: Path) -> None:
    repo = llama(cache)
    repo.add("pytorch_model.bin", b"w" * 5000)
    repo.add("training_args.bin", b"w" * 70)
    assert only(cache).weights_bytes == 1000


def test_index_that_names_missing_shards_is_incomplete(cache: Path) -> None:
    repo = Repo(cache, "org/big")
    repo.add("config.json", LLAMA)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    repo.add("model.safetensors.index.json", {"weight_map": {f"t{n}": n for n in names}})
    repo.add(names[0], b"w" * 10)
    found = scan([cache])
    assert (found.models[0].complete, found.models[0].weights_bytes) == (False, 10)
    assert "2 of 3 weight files are missing" in found.warnings[0]
    for name in names[1:]:
        repo.add(name, b"w" * 10)
    assert only(cache).complete


def test_shards_without_an_index_are_counted_by_their_names(cache: Path) -> None:
    repo = Repo(cache, "org/big")
    repo.add("config.json", LLAMA)
    repo.add("model-00001-of-00002.safetensors", b"w")
    assert not only(cache).complete
    repo.add("model-00002-of-00002.safetensors", b"w")
    assert only(cache).complete


def test_unfinished_download(cache: Path) -> None:
    repo = Repo(cache, "org/half")
    repo.add("config.json", LLAMA)
    (repo.path / "blobs" / "abc.incomplete").write_bytes(b"x" * 2048)
    found = scan([cache])
    assert not found.models[0].complete
    assert found.models[0].weights_bytes is None
    assert any("unfinished, 2.0 KiB" in warning for warning in found.warnings)


@pytest.mark.parametrize("target", ["../../blobs/gone", "../../blobs/part.incomplete", "model.safetensors"])
def test_broken_links_are_missing_files(cache: Path, target: str) -> None:
    repo = Repo(cache, "org/broken")
    repo.add("config.json", LLAMA)
    (repo.path / "blobs/part.incomplete").write_bytes(b"x")
    (repo.snapshot / "model.safetensors").symlink_to(target)
    found = scan([cache])
    assert not found.models[0].complete
    assert any("model.safetensors is missing" in warning for warning in found.warnings)


def test_links_out_of_the_cache_are_not_followed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(json.dumps(LLAMA | {"model_type": "stolen"}))
    (tmp_path / "elsewhere").mkdir()
    repo = llama(cache)
    (repo.snapshot / "config.json").unlink()
    (repo.snapshot / "config.json").symlink_to(tmp_path / "secret.json")
    (cache / "models--org--linked").symlink_to(tmp_path / "elsewhere")
    found = scan([cache])
    assert [m.model_type for m in found.models] == [None]
    assert sum("link out of the cache" in warning for warning in found.warnings) == 2
    assert find("org/linked", [cache]) is None


def test_bad_entries_warn_and_do_not_hide_the_rest(cache: Path) -> None:
    llama(cache, "org/good")
    Repo(cache, "org/junk").add("config.json", b"{not json")
    Repo(cache, "org/list").add("config.json", b"[1]")
    Repo(cache, "org/huge").add("config.json", b" " * (CONFIG_LIMIT_BYTES + 1))
    Repo(cache, "org/deep").add("config.json", b"[" * 200_000)
    (cache / "models--org--empty").mkdir()
    (cache / "models--org--file").write_text("")
    (cache / os.fsdecode(b"models--org--\xff")).mkdir()
    fifo = Repo(cache, "org/fifo")
    os.mkfifo(fifo.snapshot / "config.json")
    found = scan([cache, cache / "absent"])
    assert next(m for m in found.models if m.model_id == "org/good").complete
    assert not any(m.complete for m in found.models if m.model_id != "org/good")
    for name in ("org/junk", "org/list", "org/huge", "org/deep", "org/empty", "org--file"):
        assert any(name in warning for warning in found.warnings), name
    json.dumps(found.warnings).encode()


def test_unreadable_repository_is_a_warning(cache: Path) -> None:
    repo = llama(cache)
    (repo.path / "snapshots").rename(repo.path / "away")
    (repo.path / "snapshots").write_text("a file")
    found = scan([cache])
    assert found.models == ()
    assert "org/llama: no snapshot" in found.warnings[0]


def test_same_repository_in_two_caches_prefers_the_complete_one(cache: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    Repo(cache, "org/llama").add("config.json", LLAMA)
    complete = llama(second)
    assert scan([cache, second]).models[0].path == str(complete.snapshot)
    facts = find("org/llama", [cache, second])
    assert facts is not None
    assert facts.path == str(complete.snapshot)


def test_local_folder(tmp_path: Path) -> None:
    assert find(str(tmp_path), []) is None
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(b"w" * 7)
    facts = find(str(tmp_path), [])
    assert facts is not None
    assert (facts.complete, facts.weights_bytes, facts.revision) == (True, 7, None)


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "/nowhere", "a\0b", "x" * 5000, "org/none", "\ud800"])
def test_names_that_find_nothing(cache: Path, name: str) -> None:
    assert find(name, [cache]) is None


def test_adapter(cache: Path) -> None:
    repo = Repo(cache, "org/lora")
    repo.add("adapter_config.json", {"r": 8})
    repo.add("adapter_model.safetensors", b"w" * 5)
    facts = only(cache)
    assert (facts.is_adapter, facts.complete, facts.weights_bytes) == (True, True, 5)


def test_chat_template_in_the_tokenizer_configuration(cache: Path) -> None:
    repo = llama(cache)
    assert not only(cache).has_chat_template
    repo.add("tokenizer_config.json", {"chat_template": "{{ messages }}"})
    assert only(cache).has_chat_template


def test_quantization(cache: Path) -> None:
    llama(cache, quantization_config={"quant_method": "AWQ", "bits": 4})
    assert only(cache).quantization == "awq"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 32 * 2 * 8 * 128 * 2),
        ({"num_key_value_heads": None}, 32 * 2 * 32 * 128 * 2),
        ({"head_dim": 64}, 32 * 2 * 8 * 64 * 2),
        ({"torch_dtype": "float32"}, 32 * 2 * 8 * 128 * 4),
        ({"torch_dtype": None, "dtype": "torch.float16"}, 32 * 2 * 8 * 128 * 2),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 32 * (512 + 64) * 2),
        ({"layer_types": ["linear_attention", "full_attention"] * 16}, 16 * 2 * 8 * 128 * 2),
        ({"layer_types": ["sliding_attention", "full_attention"] * 16}, 32 * 2 * 8 * 128 * 2),
        ({"num_key_value_heads": None, "multi_query": True}, 32 * 2 * 1 * 128 * 2),
        ({"num_hidden_layers": None}, None),
        ({"num_attention_heads": 0}, None),
        ({"num_hidden_layers": 10**30}, None),
    ],
)
def test_kv_bytes_per_token(changes: dict[str, Any], expected: int | None) -> None:
    assert kv_bytes_per_token(LLAMA | changes) == expected
    assert kv_bytes_per_token({"text_config": LLAMA | changes}) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 8192),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 32768),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 16384),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 8192),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}}, 8192),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 8192),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2}}}, 16384),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8}}, 8192),
        ({"rope_scaling": {"type": "linear", "factor": None}}, 8192),
        ({"max_seq_len": 100}, 100),
        ({"model_max_length": 131072}, 131072),
        ({"max_position_embeddings": "many"}, None),
        ({"max_position_embeddings": 2048.0}, 2048),
    ],
)
def test_context_window(changes: dict[str, Any], expected: int | None) -> None:
    assert context_window(LLAMA | changes) == expected


def test_encoder_heeds_the_tokenizers_limit() -> None:
    config = {"max_position_embeddings": 514, "position_embedding_type": "absolute"}
    assert context_window(config, 512) == 512
    assert context_window({"max_position_embeddings": 514}, 512) == 514


_KEYS = (
    *LLAMA,
    "text_config",
    "layer_types",
    "rope_scaling",
    "rope_parameters",
    "factor",
    "type",
    "head_dim",
)
_KEYS += ("kv_lora_rank", "quantization_config", "quant_method", "model_max_length", "chat_template", "dtype")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS) | st.text(), inner, max_size=8),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(config=_JSON, index=_JSON, raw=st.binary(max_size=64))
def test_junk_never_raises(tmp_path_factory: pytest.TempPathFactory, config: Any, index: Any, raw: bytes) -> None:
    cache = tmp_path_factory.mktemp("junk")
    repo = Repo(cache, "org/junk")
    repo.add("config.json", json.dumps(config).encode())
    repo.add("model.safetensors.index.json", json.dumps({"weight_map": index}).encode())
    repo.add("tokenizer_config.json", raw)
    for facts in (*scan([cache]).models, find(str(repo.snapshot), [])):
        assert facts is not None
        ModelFacts.model_validate_json(facts.model_dump_json())


# --- a catalog, which remembers ---


def test_a_catalog_reads_again_only_what_changed(cache: Path) -> None:
    """A configuration that is written in place shows in no folder: only who reads it again sees it."""
    repo = llama(cache)
    llama(cache, "org/other")
    age(cache)
    catalog = ModelCatalog()
    before = catalog.scan([cache]).models
    config = repo.path / "blobs" / f"config.json.{COMMIT[:6]}"
    written = config.stat()
    config.write_text(json.dumps(LLAMA | {"model_type": "mamba"}))
    os.utime(config, ns=(written.st_atime_ns, written.st_mtime_ns))
    warm = catalog.scan([cache]).models
    assert all(model is known for model, known in zip(warm, before, strict=True))
    assert [model.facts.model_type for model in catalog.scan([cache], fresh=True).models] == ["mamba", "llama"]
    repo.add("chat_template.jinja", b"{{ messages }}")
    after = catalog.scan([cache]).models
    assert [model.facts.has_chat_template for model in after] == [True, False]
    assert catalog.scan([]).models == ()


def test_scan_and_find_with_a_catalog_say_the_same_as_without(cache: Path) -> None:
    llama(cache)
    other = Repo(cache, "org/llama", "b" * 40, ref="dev")
    other.add("config.json", LLAMA)
    catalog = ModelCatalog()
    assert scan([cache], catalog) == scan([cache])
    for revision in (None, "dev", "b" * 40, "no-such"):
        assert find("org/llama", [cache], revision, catalog) == find("org/llama", [cache], revision)


def test_a_catalog_has_plain_folders_and_repositories_without_a_snapshot_and_scan_has_not(cache: Path) -> None:
    llama(cache)
    Repo(cache, "org/half", ref=None).snapshot.rmdir()
    Repo(cache, "org/data").path.rename(cache / "datasets--org--data")
    (cache / "own").mkdir()
    (cache / "own/config.json").write_text(json.dumps(LLAMA))
    (cache / "own/model.safetensors").write_bytes(b"w" * 5)
    found = ModelCatalog().scan([cache])
    assert {model.facts.model_id: model.facts.complete for model in found.models} == {
        str(cache / "own"): True,
        "org/half": False,
        "org/llama": True,
    }
    assert [repo.kind for repo in found.inventory.repos] == ["dataset", "model", "model"]
    assert [facts.model_id for facts in scan([cache]).models] == ["org/llama"]


def test_what_is_missing_is_known_by_name(cache: Path) -> None:
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    indexed, numbered = Repo(cache, "org/indexed"), Repo(cache, "org/numbered")
    indexed.add("model.safetensors.index.json", {"weight_map": {f"t{name}": name for name in names}})
    for repo in (indexed, numbered):
        repo.add("config.json", LLAMA)
        repo.add(names[0], b"w")
        (repo.snapshot / names[1]).symlink_to("../../blobs/gone")
        (repo.snapshot / "tokenizer.json").symlink_to("../../blobs/gone")
    for model in ModelCatalog().scan([cache]).models:
        assert model.missing == (names[1], names[2], "tokenizer.json")
        assert isinstance(model.source, CachedRepo)
        assert missing_files(model.source) == model.missing
        assert facts_of(model.source) == model.facts == facts_of(model.source, model.revision)


def test_facts_of_a_plain_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    folder = scan_folder(str(tmp_path))
    assert folder is not None
    assert facts_of_folder(folder) == find(str(tmp_path), [])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["config.json", "model-00001-of-00002.safetensors"], ["safetensors"]),
        (["params.json", "consolidated.safetensors", "tekken.json"], ["safetensors", "mistral"]),
        (["params.json", "consolidated.00.pth"], ["pytorch", "mistral"]),
        (["adapter_config.json", "adapter_model.safetensors"], ["safetensors", "adapter"]),
        (["adapter_config.json", "adapter_model.bin"], ["pytorch", "adapter"]),
        (["q4/model-Q4_K_M.gguf"], ["gguf"]),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx"], ["pytorch", "onnx"]),
        (["config.json", "training_args.bin", "params.json", "original/consolidated.00.pth"], []),
        ([], []),
    ],
)
def test_formats(names: list[str], expected: list[str]) -> None:
    assert [kind for kind in formats(names) if kind not in ("tensorflow", "flax")] == expected


@given(st.lists(st.sampled_from(range(1, 6)), unique=True), st.integers(1, 5))
def test_missing_shards_are_those_of_the_count_that_are_not_there(numbers: list[int], count: int) -> None:
    there = [f"model-{number:05d}-of-{count:05d}.bin" for number in numbers if number <= count]
    absent = [f"model-{number:05d}-of-{count:05d}.bin" for number in range(1, count + 1) if number not in numbers]
    assert missing_shards(there) == tuple(absent if there else ())
