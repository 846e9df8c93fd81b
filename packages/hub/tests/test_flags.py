"""Which flags reach vLLM. The oracle for `extra_args` is argparse itself, with vLLM's own list of flags."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_hub.core import flag_table as table
from vllm_mcp_hub.core.extra_args import check_extra_args, human_int, parse_flags, written_flags
from vllm_mcp_hub.core.flag_table import Kind
from vllm_mcp_hub.core.flags import OPTION_FLAGS, vllm_flags
from vllm_mcp_protocol.errors import (
    BadInput,
    BadQuantization,
    ConflictingFlags,
    ContextTooLong,
    FlagNotAllowed,
    FlagNotSupported,
    ParallelSizeInvalid,
    SuiteError,
)
from vllm_mcp_protocol.model import LoadOptions, ModelFacts

KNOWN = frozenset((Path(__file__).parent / "data" / "vllm_0_32_flags.txt").read_text().split())
"""Every flag of vLLM 0.32, long and short."""

NOTHING: frozenset[str] = frozenset()
LLAMA = ModelFacts(
    model_id="org/llama",
    architectures=("LlamaForCausalLM",),
    model_type="llama",
    dtype="bfloat16",
    context_window=8192,
    attention_heads=32,
)


def options(*extra_args: str, **given: Any) -> LoadOptions:
    return LoadOptions(extra_args=extra_args, **given)


def flags_of(given: LoadOptions, facts: ModelFacts | None = LLAMA, kind: Any = "cuda") -> tuple[str, ...]:
    return vllm_flags(given, facts, kind, KNOWN)[0]


def refusal(given: LoadOptions, facts: ModelFacts | None = LLAMA, kind: Any = "cuda") -> SuiteError:
    with pytest.raises(SuiteError) as caught:
        vllm_flags(given, facts, kind, KNOWN)
    assert caught.value.info.suggestion
    return caught.value


# -- the table


@pytest.mark.parametrize("flag", sorted(KNOWN))
def test_every_flag_of_vllm_was_decided_on(flag: str) -> None:
    """A flag of a new vLLM that nobody has looked at is refused; here it also fails, so that somebody looks."""
    positive = flag.replace("--no-", "--", 1)
    allowed = flag in table.ALLOWED or table.ALLOWED.get(positive) is Kind.SWITCH
    assert sum((allowed, flag in table.REFUSED or positive in table.REFUSED, flag in table.SHORT_FORMS)) == 1


def test_the_table_names_only_flags_that_exist() -> None:
    named = {*table.ALLOWED, *table.REFUSED, *table.SHORT_FORMS} - {"-O"}
    assert named <= KNOWN
    assert table.REMOVED.keys().isdisjoint(KNOWN)
    assert table.CHOICES.keys() | table.JSON_KEYS.keys() <= table.ALLOWED.keys()
    assert set(OPTION_FLAGS.values()) <= KNOWN
    assert set(OPTION_FLAGS) <= set(LoadOptions.model_fields)


# -- extra_args


VALUES: dict[Kind, st.SearchStrategy[list[str]]] = {
    Kind.SWITCH: st.just([]),
    Kind.INT: st.sampled_from(["1", "16", "8k", "2G"]).map(lambda text: [text]),
    Kind.FLOAT: st.sampled_from(["0.5", "1", "1e-3"]).map(lambda text: [text]),
    Kind.NAME: st.sampled_from(["auto", "FLASH_ATTN", "sha256_cbor"]).map(lambda text: [text]),
    Kind.REPO: st.sampled_from(["org/model", "a-b/c.d_e"]).map(lambda text: [text]),
    Kind.ENDPOINTS: st.sampled_from(["/health", "/health,/metrics"]).map(lambda text: [text]),
    Kind.TEMPLATE: st.sampled_from(["{{ messages }}", "{% if x %}y{% endif %}"]).map(lambda text: [text]),
    Kind.NAMES: st.lists(st.sampled_from(["1", "2", "q_proj", "*.bin"]), min_size=1, max_size=3),
    Kind.JSON: st.sampled_from([["{}"], ['{"a": [1, {"b": null}]}']]),
}


@st.composite
def allowed_tokens(draw: st.DrawFn) -> list[str]:
    tokens: list[str] = []
    for flag in draw(st.lists(st.sampled_from(sorted(table.ALLOWED)), unique=True, max_size=8)):
        kind = table.ALLOWED[flag]
        if flag in table.CHOICES:
            values = [draw(st.sampled_from(sorted(table.CHOICES[flag])))]
        elif flag in table.SIGNED:
            values = ["-1"]
        else:
            values = ["{}"] if flag in table.JSON_KEYS else draw(VALUES[kind])
        if f"--no-{flag[2:]}" in KNOWN and draw(st.booleans()):
            tokens.append(f"--no-{flag[2:]}")
        elif len(values) == 1 and draw(st.booleans()):
            tokens.append(f"{flag}={values[0]}")
        else:
            tokens += [flag, *values]
    return tokens


def vllms_parser() -> argparse.ArgumentParser:
    """What vLLM would understand: argparse with all of its flags, abbreviations included."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("model", nargs="?")
    positive = {flag for flag in KNOWN if f"--no-{flag[2:]}" in KNOWN}
    negative = {f"--no-{flag[2:]}" for flag in positive}
    for flag in sorted(KNOWN - negative):
        if flag in positive:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        elif table.ALLOWED.get(flag) is Kind.SWITCH:
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS)
        else:
            many = table.ALLOWED.get(flag, Kind.NAMES) is Kind.NAMES
            parser.add_argument(flag, nargs="+" if many else None, default=argparse.SUPPRESS)
    return parser


PARSER = vllms_parser()


@given(allowed_tokens())
def test_allowed_flags_are_read_as_argparse_reads_them(tokens: list[str]) -> None:
    read = check_extra_args(tokens, KNOWN)
    written = written_flags(tokens)
    understood = vars(PARSER.parse_args(["model", *written]))
    assert understood == vars(PARSER.parse_args(["model", *tokens]))
    assert not any(word.startswith("-") and not word.startswith("--") for word in written)
    del understood["model"]
    plain = {flag[2:].replace("-", "_"): value for flag, value in read.items()}
    assert plain.keys() == understood.keys()
    for name, value in plain.items():
        if isinstance(value, dict):
            assert value == json.loads(understood[name])
        else:
            assert value == (tuple(understood[name]) if isinstance(understood[name], list) else understood[name])


HOSTILE = st.sampled_from(
    [
        *sorted(KNOWN),
        *("--middle", "--middleware=x.y", "--hos=0.0.0.0", "--api-k", "--tool-parser-p", "--worker-c=x", "--load"),
        *("--block_size", "-tp", "-O3", "-cc.mode=3", "--", "-", "x.py", "/etc/passwd", "a/b", "1", "{}", "org/model"),
        *("--hf-overrides.auto_map", "--block-size=16", "--seed=--middleware=x", "@args", "--s", "--no-block-size"),
        *('{"auto_map": "x"}', '{"method": "custom_class"}', "mp", "auto", "--no-enable-log-requests"),
    ]
)


@given(st.lists(HOSTILE, max_size=6))
def test_what_is_accepted_sets_only_allowed_flags(tokens: list[str]) -> None:
    try:
        read = check_extra_args(tokens, KNOWN)
    except BadInput:
        return
    understood = vars(PARSER.parse_args(["model", *tokens]))
    assert understood.pop("model") == "model"
    assert understood.keys() == {flag[2:].replace("-", "_") for flag in read}
    assert read.keys() <= table.ALLOWED.keys()


@given(st.lists(st.text(max_size=30), max_size=4), st.sampled_from([NOTHING, KNOWN]))
def test_any_text_is_read_or_refused(tokens: list[str], supported: frozenset[str]) -> None:
    with contextlib.suppress(BadInput):
        check_extra_args(tokens, supported)


@pytest.mark.parametrize("flag", sorted({*table.REFUSED, *table.SHORT_FORMS}))
@pytest.mark.parametrize("supported", [NOTHING, KNOWN])
def test_refused_flags_say_why_and_what_instead(flag: str, supported: frozenset[str]) -> None:
    with pytest.raises(FlagNotAllowed) as caught:
        check_extra_args([flag, "x"], supported)
    info = caught.value.info
    assert flag in info.message
    assert info.details["why"]
    assert info.suggestion


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--tensor-parallel-size", "4"], "the parameter tensor_parallel_size"),
        (["--lora-modules", "a=/x"], "load-lora"),
        (["--api-key=s3cr3t"], "0600"),
        (["-tp", "2"], "--tensor-parallel-size"),
        (["-O3"], "--optimization-level"),
        (["-cc.mode=3"], "--compilation-config"),
        (["--block_size", "16"], "--block-size"),
        (["--hf-overrides.rope_theta", "1"], "one JSON object"),
        (["--distributed-executor-backend", "ray"], "Leave"),
        (["--generation-config", "/x"], "Leave"),
        (["--spec-method", "custom_class"], "Leave"),
    ],
)
def test_refusals_name_the_way(args: list[str], words: str) -> None:
    with pytest.raises(FlagNotAllowed) as caught:
        check_extra_args(args, KNOWN)
    assert words in caught.value.info.suggestion
    assert "s3cr3t" not in str(caught.value.info)


@pytest.mark.parametrize("flag", sorted(table.REMOVED))
def test_flags_of_older_guides_name_their_successor(flag: str) -> None:
    with pytest.raises(FlagNotSupported) as caught:
        check_extra_args([flag], KNOWN)
    assert table.REMOVED[flag] in caught.value.info.suggestion


def test_a_flag_that_another_vllm_lacks_or_nobody_has() -> None:
    with pytest.raises(FlagNotSupported) as caught:
        check_extra_args(["--block-sise", "16"], KNOWN)
    assert caught.value.info.details["close_matches"][0] == "--block-size"
    with pytest.raises(FlagNotSupported):
        check_extra_args(["--block-size", "16"], KNOWN - {"--block-size"})
    with pytest.raises(FlagNotAllowed, match="known to be harmless"):
        check_extra_args(["--brand-new"], KNOWN | {"--brand-new"})


@pytest.mark.parametrize(
    "value",
    [
        '{"auto_map": {"AutoModel": "x.Y"}}',
        '{"text_config": {"auto_map": {}}}',
        '{"a": [{"trust_remote_code": true}]}',
        '{"worker_cls": "x"}',
        '{"reasoning_parser_plugin": "x"}',
        '{"x": "/etc/passwd"}',
        '{"x": ["~/a"]}',
        '{"x": "a/../b"}',
        '{"x": "http://169.254.169.254/"}',
        '{"x": "evil.py"}',
        '{"cache_dir": "a"}',
        '{"AUTO_MAP": 1}',
        '{"method": "custom_class"}',
    ],
)
def test_json_that_names_code_or_places_is_refused(value: str) -> None:
    with pytest.raises(FlagNotAllowed):
        check_extra_args(["--hf-overrides", value], KNOWN)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--hf-overrides", '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}, "architectures": ["X"]}'),
        ("--speculative-config", '{"model": "org/draft", "num_speculative_tokens": 5, "method": "eagle3"}'),
        ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}'),
        ("--speculative-config", '{"model": "ngram", "num_speculative_tokens": 3, "rejection_sample_method": "block"}'),
        ("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1, "revision": "v1.0"}'),
        ("--hf-overrides", '{"quantization_config": {"modules_to_not_convert": ["model.layers.0"]}, "x": "v1.0"}'),
        ("--quantization-config", '{"linear": {"weight": "mxfp8"}, "ignore": ["model.layers.0.mlp"]}'),
        ("--reasoning-config", '{"reasoning_start_str": "<think>", "reasoning_end_str": "Done. </think>"}'),
        ("--structured-outputs-config", '{"backend": "lm-format-enforcer"}'),
        ("--attention-config", '{"backend": "FLASH_ATTN"}'),
        ("--limit-mm-per-prompt", '{"image": {"count": 5, "width": 512}}'),
        ("--default-chat-template-kwargs", '{"enable_thinking": false}'),
        ("--compilation-config", '{"cudagraph_mode": "FULL", "mode": 3}'),
        ("--chat-template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ],
)
def test_tuning_by_json_is_allowed(flag: str, value: str) -> None:
    assert check_extra_args([flag, value], KNOWN).keys() == {flag}


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--speculative-config", '{"model": "this.s", "num_speculative_tokens": 2}'),
        ("--speculative-config", '{"model": "this.s", "method": null}'),
        ("--speculative-config", '{"model": ["this.s"]}'),
        ("--speculative-config", '{"model": "/tmp/draft"}'),
        ("--speculative-config", '{"model": "draft"}'),
        ("--speculative-config", '{"method": "custom_class", "model": "org/m"}'),
        ("--speculative-config", '{"method": "brand_new"}'),
        ("--speculative-config", '{"target_model_config": {}}'),
        ("--speculative-config", '{"draft_load_config": {"load_format": "x"}}'),
        ("--speculative-config", '{"quantization": "a.b"}'),
        ("--spec-method", "this.s"),
        ("--hf-overrides", '{"sbert_ce_default_activation_function": "torch.nn.modules.x"}'),
        ("--hf-overrides", '{"quantization_config_dict_json": "{}"}'),
        ("--hf-overrides", '{"_attn_implementation": "org/kernel"}'),
        ("--hf-overrides", '{"attn_implementation": "org/kernel"}'),
        ("--mm-processor-kwargs", '{"video_backend": "os.path"}'),
        ("--mm-processor-kwargs", '{"proxies": {"https": "example:8080"}}'),
        ("--mm-processor-kwargs", '{"token": "x"}'),
        ("--structured-outputs-config", '{"reasoning_parser_plugin": "x"}'),
        ("--structured-outputs-config", '{"backend": "my.module"}'),
        ("--pooler-config", '{"activation": "x"}'),
        ("--reasoning-config", '{"reasoning_parser": "a.b"}'),
        ("--attention-config", '{"backend": "a.b.C"}'),
        ("--kernel-config", '{"moe_backend": "a.b"}'),
        ("--eplb-config", '{"policy": "a.b"}'),
        ("--compilation-config", '{"backend": "a.b"}'),
        ("--quantization-config", '{"config_groups": {}}'),
    ],
)
def test_what_vllm_would_import_is_refused(flag: str, value: str) -> None:
    with pytest.raises(FlagNotAllowed):
        check_extra_args([flag, value], KNOWN)


@given(st.from_regex(r"[a-z_]{1,8}(\.[A-Za-z_]{1,8}){1,3}", fullmatch=True), st.sampled_from(sorted(table.ALLOWED)))
def test_no_flag_carries_an_import_path_as_model(path: str, flag: str) -> None:
    """The rule by which vLLM 0.32 takes a draft model for a class: no slash, all parts identifiers."""
    with contextlib.suppress(BadInput):
        read = check_extra_args([flag, json.dumps({"model": path})], KNOWN)
        assert flag != "--speculative-config"
        assert table.ALLOWED[flag] is Kind.JSON
        assert flag not in table.JSON_KEYS
        assert read


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(BadInput):
        check_extra_args(["--speculative-config", '{"model": "this.s", "model": "org/m"}'], KNOWN)


@pytest.mark.parametrize("text", ["a\ud800", '{"a": "\\ud800"}', '{"\\ud800": 1}'])
def test_half_characters_are_refused(text: str) -> None:
    for args in (["--hf-overrides", text], [f"--{text}"]):
        with pytest.raises(BadInput) as caught:
            check_extra_args(args, KNOWN)
        caught.value.info.model_dump_json().encode()


@pytest.mark.parametrize(
    "args",
    [
        ["--watermark", "-1.5"],
        ["--watermark=-1.5"],
        ["--kv-cache-memory-bytes", "-1"],
        ["--kv-cache-memory-bytes", "0"],
        ["--cpu-offload-gb", "-0.5"],
        ["--data-parallel-size", "0"],
        ["--max-num-active-seqs", "-1"],
        ["--seed", "1" * 19],
        ["--cpu-offload-gb", "1e100"],
    ],
)
def test_numbers_out_of_range_are_refused(args: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        check_extra_args(args, KNOWN)
    assert args[0].partition("=")[0] in caught.value.info.message


def test_each_value_is_one_word_with_its_flag() -> None:
    given = options("--seed", "-5", "--ignore-patterns", "a", "b", "--enable-log-requests", "--watermark", "0.5")
    assert flags_of(given) == ("--seed=-5", "--ignore-patterns", "a", "b", "--enable-log-requests", "--watermark=0.5")


@pytest.mark.parametrize(
    "args",
    [
        ["--block-size"],
        ["--block-size", "many"],
        ["--block-size", "16", "17"],
        ["--enable-log-requests", "true"],
        ["--enable-log-requests=true"],
        ["--tokenizer", "/etc"],
        ["--tokenizer", "../x"],
        ["--chat-template", "template.jinja"],
        ["--attention-backend", "my.module.Backend"],
        ["--speculative-config", "[1]"],
        ["--speculative-config", "{"],
        ["--speculative-config", "{" * 5000],
        ["--seed", "1\0"],
        ["loose"],
        ["--"],
        ["--chat-template", "{{" + "x" * 30_000],
    ],
)
def test_values_that_do_not_fit_are_refused(args: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        check_extra_args(args, KNOWN)
    assert caught.value.info.suggestion
    assert len(caught.value.info.message) < 400


def test_the_same_flag_twice() -> None:
    for again in (["--seed=2"], ["--seed", "2"]):
        with pytest.raises(ConflictingFlags, match="--seed twice"):
            check_extra_args(["--seed", "1", *again], KNOWN)
    with pytest.raises(ConflictingFlags, match="--enable-log-requests twice"):
        check_extra_args(["--enable-log-requests", "--no-enable-log-requests"], KNOWN)


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), ("8k", 8000), ("8K", 8192), ("16M", 16 * 2**20), ("25.6k", 25_600), ("-1", -1), ("2G", 2**31)],
)
def test_numbers_are_read_as_vllm_reads_them(text: str, value: int) -> None:
    assert human_int(text) == value


@pytest.mark.parametrize("text", ["", "k", "1.5K", "0x10", "1e3", "\u0661k"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        human_int(text)


# -- options


def test_options_become_flags() -> None:
    given = options(
        "--seed", "1", tensor_parallel_size=2, dtype="float16", max_model_len=4096, enable_prefix_caching=False,
        enforce_eager=True, trust_remote_code=True, revision="main", profile="throughput", enable_lora=True,
    )  # fmt: skip
    flags = parse_flags(flags_of(given))
    assert flags == {
        "--revision": ("main",), "--trust-remote-code": (), "--tensor-parallel-size": ("2",),
        "--max-model-len": ("4096",), "--dtype": ("float16",), "--enforce-eager": (),
        "--no-enable-prefix-caching": (), "--enable-lora": (), "--performance-mode": ("throughput",),
        "--seed": ("1",),
    }  # fmt: skip


def test_nothing_asked_is_nothing_passed() -> None:
    assert vllm_flags(LoadOptions(), LLAMA, "cuda", KNOWN) == ((), ())


def test_the_cpu_device_starts_eagerly_unless_told_otherwise() -> None:
    flags, reasons = vllm_flags(LoadOptions(), LLAMA, "cpu", KNOWN)
    assert flags == ("--enforce-eager",)
    assert "enforce_eager" in reasons[0]
    assert flags_of(options(enforce_eager=False), kind="cpu") == ("--no-enforce-eager",)
    compiled = options("--compilation-config", '{"mode": 3}')
    assert flags_of(compiled, kind="cpu") == ('--compilation-config={"mode": 3}',)


OPTIONS = st.builds(
    LoadOptions,
    max_model_len=st.none() | st.integers(1, 8192),
    max_num_seqs=st.none() | st.integers(1, 64),
    enforce_eager=st.none() | st.booleans(),
    trust_remote_code=st.booleans(),
    dtype=st.sampled_from([None, "auto", "half"]),
)


@given(OPTIONS)
def test_vllm_reads_back_what_was_asked(given: LoadOptions) -> None:
    understood = vars(PARSER.parse_args(["model", *flags_of(given)]))
    for name, flag in OPTION_FLAGS.items():
        value, read = getattr(given, name), understood.get(flag[2:].replace("-", "_"))
        read = read[0] if isinstance(read, list) else read
        if value is None or (name == "trust_remote_code" and not value):
            assert read is None
        else:
            assert str(value) == str(read)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (options("--dtype", "half", dtype="half"), "CONFLICTING_FLAGS"),
        (options("--max_model_len=1", max_model_len=2), "CONFLICTING_FLAGS"),
        (options("--no-enforce-eager", enforce_eager=True), "CONFLICTING_FLAGS"),
        (options("--dtype", "half"), "FLAG_NOT_ALLOWED"),
        (options("--compilation-config", "{}", enforce_eager=True), "CONFLICTING_FLAGS"),
        (options("--no-enable-chunked-prefill", max_num_batched_tokens=512, max_model_len=1024), "CONFLICTING_FLAGS"),
        (options(max_num_batched_tokens=8, max_num_seqs=16), "CONFLICTING_FLAGS"),
        (options("--max-loras", "2"), "CONFLICTING_FLAGS"),
        (options("--enable-auto-tool-choice"), "CONFLICTING_FLAGS"),
        (options("--spec-tokens", "2", "--speculative-config", "{}"), "CONFLICTING_FLAGS"),
        (options(served_model_name="--middleware=x"), "INVALID_ARGUMENT"),
        (options(revision="--headless"), "INVALID_ARGUMENT"),
        (options(served_model_name="a\nb"), "INVALID_ARGUMENT"),
    ],
)
def test_contradictions_are_refused(given: LoadOptions, code: str) -> None:
    assert refusal(given).code == code


def test_agreeing_options_are_not() -> None:
    assert {"--max-loras=2", "--enable-lora"} <= set(flags_of(options("--max-loras", "2", enable_lora=True)))
    tools = options("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    assert {"--enable-auto-tool-choice", "--tool-call-parser=hermes"} <= set(flags_of(tools))
    whole = options("--no-enable-chunked-prefill", max_num_batched_tokens=1024, max_model_len=1024)
    assert "--no-enable-chunked-prefill" in flags_of(whole)


@pytest.mark.parametrize(
    ("asked", "own", "kind", "fine"),
    [
        (None, None, "cpu", True), (None, "awq", "cpu", True), (None, "bitsandbytes", "cpu", False),
        ("awq", "awq", "cuda", True), ("awq_marlin", "awq", "cuda", True), ("auto_awq", "awq", "cpu", True),
        ("gptq_marlin", "gptq", "cuda", True), ("auto_gptq", "gptq", "cuda", True), ("gptq", "awq", "cuda", False),
        ("fp8", None, "cuda", True), ("bitsandbytes", None, "cuda", True), ("awq", None, "cuda", False),
        ("fp8", None, "cpu", False), ("bitsandbytes", None, "cpu", False), ("fp8", "awq", "cuda", False),
    ],
)  # fmt: skip
def test_quantization_agrees_with_the_checkpoint_and_the_device(
    asked: str | None, own: str | None, kind: str, fine: bool
) -> None:
    facts = LLAMA.model_copy(update={"quantization": own})
    if fine:
        flags_of(options(quantization=asked), facts, kind)
        return
    error = refusal(options(quantization=asked), facts, kind)
    assert isinstance(error, BadQuantization)
    assert error.info.details["checkpoint"] == own


@given(st.integers(1, 64), st.integers(1, 128))
def test_tensor_parallel_size_divides_the_heads(size: int, heads: int) -> None:
    facts = LLAMA.model_copy(update={"attention_heads": heads})
    if heads % size == 0:
        assert ("--tensor-parallel-size", str(size)) == flags_of(options(tensor_parallel_size=size), facts)[:2]
        return
    error = refusal(options(tensor_parallel_size=size), facts)
    assert isinstance(error, ParallelSizeInvalid)
    allowed = error.info.details["allowed"]
    assert all(heads % other == 0 for other in allowed)
    assert size not in allowed
    assert 1 in allowed


def test_a_context_above_the_models() -> None:
    error = refusal(options(max_model_len=8193))
    assert isinstance(error, ContextTooLong)
    assert error.info.details["limit"] == 8192
    assert "max_model_len=8192" in error.info.suggestion
    flags_of(options(max_model_len=8192))
    flags_of(options("--hf-overrides", '{"rope_parameters": {"factor": 4}}', max_model_len=32768))
    flags_of(options(max_model_len=99999), None)


def test_an_option_that_this_vllm_lacks() -> None:
    with pytest.raises(FlagNotSupported, match="--performance-mode, which profile needs"):
        vllm_flags(options(profile="balanced"), LLAMA, "cuda", KNOWN - {"--performance-mode"})
