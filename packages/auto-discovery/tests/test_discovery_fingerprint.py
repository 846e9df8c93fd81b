"""What answers say: any answers at all end in a fingerprint, and the parts that are shown are clean."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_auto_discovery.core.engines.fingerprint import (
    FIRST_PATH,
    MAX_MODELS,
    MAX_TEXT_CHARS,
    Answer,
    fingerprint,
    further_paths,
    shown,
)
from vllm_auto_discovery.core.engines.probe_targets import Target, targets

PATHS = (FIRST_PATH, *further_paths(Answer(status=404)))
_KEYS = ("data", "models", "id", "name", "owned_by", "version", "error", "message", "state", "details", "max_model_len")
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "vllm",
            "sglang",
            "llamacpp",
            "Unexpected endpoint or method",
            "LM Studio API token",
            "loaded",
            "\ud800",
            "\x1b[2J",
        ]
    )
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=25,
)
_BODIES = _VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
_ANSWERS = st.builds(
    Answer,
    st.none() | st.sampled_from([200, 200, 200, 401, 403, 404, 503]),
    _BODIES,
    st.sampled_from(["", "uvicorn", "llama.cpp", "\x1b]0;x\x07"]),
    st.text(max_size=20),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(PATHS), _ANSWERS), st.text(max_size=5))
def test_any_answers_end_in_a_clean_fingerprint(answers: dict[str, Answer], key: str) -> None:
    made = fingerprint(answers, key=key)
    texts = [made.version or "", *made.evidence, *made.notes, *(model.id for model in made.models)]
    for text in texts:
        text.encode()
        assert text.isprintable()
        assert len(text) <= 2 * MAX_TEXT_CHARS
    assert len({model.id for model in made.models}) == len(made.models) <= MAX_MODELS
    assert all(model.context_window is None or model.context_window > 0 for model in made.models)


@given(_ANSWERS)
def test_what_gives_no_http_answer_is_asked_nothing_more(first: Answer) -> None:
    assert (further_paths(first) == ()) == (first.status is None)


def _listing(*entries: object) -> Answer:
    return Answer(200, json.dumps({"object": "list", "data": entries}).encode())


def test_of_many_models_the_first_are_listed_and_the_cut_is_told() -> None:
    made = fingerprint({FIRST_PATH: _listing(*({"id": f"m{n}", "owned_by": "vllm"} for n in range(MAX_MODELS + 9)))})
    assert len(made.models) == MAX_MODELS
    assert made.notes == (f"only the first {MAX_MODELS} models are listed",)


def test_context_windows_that_are_none_are_not_believed() -> None:
    odd = (0, -1, True, 1.5, "4096", 2**60, None)
    entries = ({"id": f"m{n}", "owned_by": "vllm", "max_model_len": value} for n, value in enumerate(odd))
    made = fingerprint({FIRST_PATH: _listing(*entries)})
    assert [model.context_window for model in made.models] == [None] * len(odd)


def test_an_adapter_names_its_base_model() -> None:
    entry = {"id": "lora", "owned_by": "vllm", "parent": "base", "max_model_len": None}
    (model,) = fingerprint({FIRST_PATH: _listing(entry)}).models
    assert (model.parent, model.context_window) == ("base", None)


def test_vllm_wins_over_ollamas_words_and_sglang_over_both() -> None:
    """SGLang answers Ollama's routes, and a gateway of this suite will."""
    root = Answer(200, b"Ollama is running")
    for owner in ("vllm", "sglang", "llamacpp"):
        made = fingerprint({FIRST_PATH: _listing({"id": "m", "owned_by": owner}), "/": root})
        assert made.provider == owner


def test_a_metric_that_only_mentions_vllm_is_no_evidence() -> None:
    metrics = Answer(200, b'# HELP requests_total of vllm: backends\nrequests_total{to="vllm:x"} 1\n')
    assert fingerprint({FIRST_PATH: Answer(404), "/metrics": metrics}).provider == "unknown-http"


def test_text_of_strangers_is_one_short_printable_line() -> None:
    assert shown("a\nb\x1b[31m\u202ec") == "a b [31m c"
    assert len(shown("x" * 10_000)) == MAX_TEXT_CHARS


def test_addresses_are_each_asked_once() -> None:
    made = targets(["127.0.0.1", "LOCALHOST.", "localhost", "[::1]"], [8000, 8000])
    assert made == (Target("127.0.0.1", 8000), Target("localhost", 8000), Target("::1", 8000))
    assert made[2].url == "http://[::1]:8000"


def test_names_and_addresses_of_one_machine_are_accepted() -> None:
    hosts = ["10.0.0.7", "gpu-box.local", "a_b", "xn--bcher-kva.example", "2001:db8::1", "host1", "1and1.com"]
    assert [target.host for target in targets(hosts, [8000])] == hosts
