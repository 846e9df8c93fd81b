"""Which program answers at an address, told from its answers to a few GETs. Pure; the answers may be lies or garbage.

What each program says (checked against its sources and documentation, 2026):

    vLLM        /v1/models: `owned_by: "vllm"`, `max_model_len`; /version; /metrics holds `vllm:…`, also without the key
    SGLang      /v1/models: `owned_by: "sglang"`, `max_model_len`; /get_server_info, later /server_info: `version`
    llama.cpp   header `Server: llama.cpp`; /props: `build_info`, `default_generation_settings.n_ctx` (of one slot);
                /v1/models needs no key, /props does; 503 "Loading model" until it is ready
    Ollama      / says "Ollama is running"; /api/version; /api/tags: all models; /api/ps: loaded ones, `context_length`
    LM Studio   /api/v0/models: `state`, `max_context_length`, `loaded_context_length`; any unknown path gets 200 with
                `error: "Unexpected endpoint or method. (GET /x)"`; without its token 401 that names LM Studio

SGLang and llama.cpp also answer some of Ollama's routes, so they are asked about first.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Provider = Literal[
    "vllm", "ollama", "lmstudio", "llamacpp", "sglang", "openai-compatible", "unknown-http", "unknown", "nothing"
]
"""`unknown-http` speaks HTTP but is no engine that is known here; `unknown` listens but gives no HTTP answer."""

FIRST_PATH = "/v1/models"
"""Asked alone: what does not answer it sensibly is asked nothing more."""

MAX_MODELS = 500
MAX_TEXT_CHARS = 200
_LARGEST_CONTEXT = 2**40
"""Tokens. Nobody serves a trillion: such a number is a mistake or a joke."""

_OLLAMA_PATHS = ("/", "/api/version", "/api/tags", "/api/ps")
_SGLANG_PATHS = ("/get_server_info", "/server_info")
_LM_STUDIO_PATHS = ("/api/v0/models",)
_VLLM_PATHS = ("/version", "/metrics")
_ALL_PATHS = (*_VLLM_PATHS, "/props", *_SGLANG_PATHS, *_LM_STUDIO_PATHS, *_OLLAMA_PATHS)
TEXT_PATHS = frozenset({"/", "/metrics"})
"""Paths of which the first few KiB say enough; they are not JSON."""

_CONTEXT_FIELDS = ("max_model_len", "loaded_context_length", "max_context_length", "context_length", "context_window")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one GET brought."""

    status: int | None = None
    """None: no HTTP answer."""
    body: bytes = b""
    server: str = ""
    """The header `Server`."""
    trouble: str = ""
    """What went wrong with it, in words; empty for a whole answer."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its server names it."""

    id: str
    context_window: int | None = None
    """Tokens that a request may have, where the server tells."""
    loaded: bool | None = None
    """Whether it is in memory; None where the server does not tell."""
    parent: str | None = None
    """The base model of an adapter."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What answers, and how that is known."""

    provider: Provider
    version: str | None = None
    models: tuple[ServedModel, ...] = ()
    needs_key: bool = False
    """It refused to list its models, or to tell about itself, without a (right) key."""
    evidence: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def further_paths(first: Answer) -> tuple[str, ...]:
    """What to ask after `FIRST_PATH`: nothing of what speaks no HTTP, little of what already said what it is."""
    if first.status is None:
        return ()
    told = _Told({FIRST_PATH: first})
    owners = told.owners()
    if told.has_server("llama.cpp") or "llamacpp" in owners:
        return ("/props",)
    if "vllm" in owners:
        return ("/version",)
    return _SGLANG_PATHS if "sglang" in owners else _ALL_PATHS


def fingerprint(answers: Mapping[str, Answer], *, key: str = "") -> Fingerprint:
    """What these answers (by path, `FIRST_PATH` among them) say. Whatever is in them, it never raises.

    `key` is what was sent as API key: where an answer repeats it, it is hidden.
    """
    told = _Told(answers, key)
    found = next((made for look in _LOOKS if (made := look(told))), None)
    return _with_notes(found or _unknown(told), told, bool(key))


@dataclass
class _Told:
    """The answers, readable."""

    answers: Mapping[str, Answer]
    key: str = ""
    _parsed: dict[str, Any] = field(default_factory=dict)

    def status(self, path: str) -> int | None:
        return self.answers.get(path, Answer()).status

    def refused(self, path: str) -> bool:
        return self.status(path) in (401, 403)

    def value(self, path: str) -> Any:
        """The JSON of an answer, of an error too; None where there is none."""
        if path not in self._parsed:
            self._parsed[path] = _json(self.answers.get(path, Answer()).body)
        return self._parsed[path]

    def record(self, path: str) -> Mapping[str, Any]:
        """The JSON object of a good answer, else empty."""
        value = self.value(path) if self.status(path) == 200 else None
        return value if isinstance(value, dict) else {}

    def entries(self, path: str, name: str) -> tuple[Mapping[str, Any], ...]:
        """Objects in the list `name` of a good answer."""
        value = self.record(path).get(name)
        return tuple(entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else ()

    def text(self, path: str) -> str:
        answer = self.answers.get(path, Answer())
        return answer.body.decode(errors="replace") if answer.status == 200 else ""

    def errors(self) -> Iterator[str]:
        """The words of every error that an answer holds."""
        for path in self.answers:
            value = self.value(path) if path not in TEXT_PATHS or self.answers[path].body[:1] == b"{" else None
            error = value.get("error") if isinstance(value, dict) else None
            words = error.get("message") if isinstance(error, dict) else error
            if isinstance(words, str):
                yield words

    def owners(self) -> set[str]:
        """All `owned_by` of the models."""
        named = {entry.get("owned_by") for entry in self.entries(FIRST_PATH, "data")[:MAX_MODELS] if _has_id(entry)}
        return {owner.lower() for owner in named if isinstance(owner, str)}

    def has_server(self, name: str) -> bool:
        return any(answer.server.lower() == name for answer in self.answers.values())

    def shown(self, value: object) -> str:
        """Text of a stranger: printable, short, without our key."""
        return shown(value, self.key) if isinstance(value, str) else ""

    def models(self, contexts: Mapping[str, int] | None = None) -> tuple[ServedModel, ...]:
        """The OpenAI list. `contexts` are windows by model that another route told."""
        made = {}
        for entry in filter(_has_id, self.entries(FIRST_PATH, "data")[:MAX_MODELS]):
            name = self.shown(entry["id"])
            if not name:
                continue  # nothing in it can be shown
            window = (contexts or {}).get(entry["id"]) or _context(entry)
            made[name] = ServedModel(name, window, parent=self.shown(entry.get("parent")) or None)
        return tuple(made.values())


def _lm_studio(told: _Told) -> Fingerprint | None:
    own = [entry for entry in told.entries("/api/v0/models", "data") if _has_id(entry) and "state" in entry]
    evidence = [
        (bool(own), "/api/v0/models lists models with a `state`"),
        (
            any(word.startswith("Unexpected endpoint or method") for word in told.errors()),
            "its words for unknown paths",
        ),
        (any("LM Studio API token" in word for word in told.errors()), "it asks for an LM Studio API token"),
    ]
    if not any(holds for holds, _ in evidence):
        return None
    listed = {told.shown(entry["id"]): entry for entry in own[:MAX_MODELS]}
    models = tuple(ServedModel(name, _context(entry), entry["state"] == "loaded") for name, entry in listed.items())
    return Fingerprint("lmstudio", None, models or told.models(), told.refused(FIRST_PATH), _held(evidence))


def _llama_cpp(told: _Told) -> Fingerprint | None:
    props = told.record("/props")
    settings = props.get("default_generation_settings")
    evidence = [
        (told.has_server("llama.cpp"), "header Server: llama.cpp"),
        ("llamacpp" in told.owners(), "/v1/models: owned_by llamacpp"),
        (isinstance(settings, dict), "/props tells default_generation_settings"),
    ]
    if not any(holds for holds, _ in evidence):
        return None
    window = _size(settings.get("n_ctx")) if isinstance(settings, dict) else None
    models = told.models()
    if len(models) == 1 and window:
        models = (ServedModel(models[0].id, window),)
    version = told.shown(props.get("build_info")) or None
    return Fingerprint("llamacpp", version, models, _any_refused(told, "/props"), _held(evidence))


def _sglang(told: _Told) -> Fingerprint | None:
    infos = [told.record(path) for path in _SGLANG_PATHS]
    info = next((info for info in infos if "model_path" in info and "tp_size" in info), {})
    evidence = [
        ("sglang" in told.owners(), "/v1/models: owned_by sglang"),
        (bool(info), "/get_server_info tells model_path and tp_size"),
        (_has_metrics(told, "sglang:"), "/metrics holds sglang: names"),
    ]
    if not any(holds for holds, _ in evidence):
        return None
    version = told.shown(info.get("version")) or None
    return Fingerprint("sglang", version, told.models(), _any_refused(told, *_SGLANG_PATHS), _held(evidence))


def _vllm(told: _Told) -> Fingerprint | None:
    version = told.shown(told.record("/version").get("version"))
    evidence = [
        ("vllm" in told.owners(), "/v1/models: owned_by vllm"),
        (_has_metrics(told, "vllm:"), "/metrics holds vllm: names"),
        (bool(version) and _refuses_like_vllm(told), "/version answers, /v1/models is refused in vLLM's words"),
    ]
    if not any(holds for holds, _ in evidence):
        return None
    evidence.append((bool(version), f"/version: {version}"))
    return Fingerprint("vllm", version or None, told.models(), told.refused(FIRST_PATH), _held(evidence))


def _refuses_like_vllm(told: _Told) -> bool:
    return told.refused(FIRST_PATH) and told.value(FIRST_PATH) == {"error": "Unauthorized"}


def _ollama(told: _Told) -> Fingerprint | None:
    version = told.shown(told.record("/api/version").get("version"))
    says_so = told.text("/").strip() == "Ollama is running"
    tags = [entry for entry in told.entries("/api/tags", "models") if isinstance(entry.get("name"), str)]
    if not says_so and not (version and any("digest" in entry for entry in tags)):
        return None
    evidence = [
        (says_so, "/ says: Ollama is running"),
        (bool(version), f"/api/version: {version}"),
        (bool(tags), f"/api/tags lists {len(tags)} models"),
    ]
    return Fingerprint("ollama", version or None, _ollama_models(told, tags), evidence=_held(evidence))


def _ollama_models(told: _Told, tags: list[Mapping[str, Any]]) -> tuple[ServedModel, ...]:
    """What is loaded has the window that requests get; of the others the files' own, where Ollama tells it."""
    running = {
        entry["name"]: entry for entry in told.entries("/api/ps", "models") if isinstance(entry.get("name"), str)
    }
    knows = told.status("/api/ps") == 200
    made = {}
    for entry in tags[:MAX_MODELS]:
        details = entry.get("details")
        window = _context(running.get(entry["name"], {})) or _context(details if isinstance(details, dict) else {})
        name = told.shown(entry["name"])
        made[name] = ServedModel(name, window, entry["name"] in running if knows else None)
    return tuple(made.values()) or told.models()


def _openai_compatible(told: _Told) -> Fingerprint | None:
    listing = told.record(FIRST_PATH).get("data")
    if isinstance(listing, list) and all(isinstance(entry, dict) and _has_id(entry) for entry in listing):
        return Fingerprint("openai-compatible", None, told.models(), evidence=("/v1/models is an OpenAI model list",))
    refusal = told.value(FIRST_PATH) if told.refused(FIRST_PATH) else None
    error = refusal.get("error") if isinstance(refusal, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        words = "/v1/models asks for a key with an OpenAI error object"
        return Fingerprint("openai-compatible", needs_key=True, evidence=(words,))
    return None


_LOOKS: tuple[Callable[[_Told], Fingerprint | None], ...] = (
    *(_lm_studio, _llama_cpp, _sglang, _vllm, _ollama, _openai_compatible),
)


def _unknown(told: _Told) -> Fingerprint:
    status = told.status(FIRST_PATH)
    if status is None:
        return Fingerprint("unknown", evidence=("something listens, but gave no HTTP answer",))
    server = next((answer.server for answer in told.answers.values() if answer.server), "")
    evidence = (f"/v1/models answers {status}", *([f"header Server: {told.shown(server)}"] if server else []))
    return Fingerprint("unknown-http", needs_key=told.refused(FIRST_PATH), evidence=evidence)


def _with_notes(found: Fingerprint, told: _Told, key_sent: bool) -> Fingerprint:
    notes = [f"{path}: {told.shown(answer.trouble)}" for path, answer in told.answers.items() if answer.trouble]
    if found.needs_key:
        notes.append("the key that was sent is refused" if key_sent else "it asks for an API key")
    if any("Loading model" in words for words in told.errors()):
        notes.append("it is still loading its model")
    if len(told.entries(FIRST_PATH, "data")) > MAX_MODELS:
        notes.append(f"only the first {MAX_MODELS} models are listed")
    return replace(found, notes=tuple(notes))


def shown(text: str, key: str = "") -> str:
    """A stranger's text for people and JSON: one printable line of at most `MAX_TEXT_CHARS`, without `key`."""
    hidden = text.replace(key, "(hidden)") if key else text
    line = "".join(char if char.isprintable() else " " for char in hidden[: 4 * MAX_TEXT_CHARS]).strip()
    return line if len(line) <= MAX_TEXT_CHARS else line[: MAX_TEXT_CHARS - 1] + "…"


def _held(evidence: list[tuple[bool, str]]) -> tuple[str, ...]:
    return tuple(words for holds, words in evidence if holds)


def _any_refused(told: _Told, *paths: str) -> bool:
    return any(told.refused(path) for path in (FIRST_PATH, *paths))


def _has_metrics(told: _Told, prefix: str) -> bool:
    return any(line.startswith((prefix, f"# HELP {prefix}")) for line in told.text("/metrics").splitlines())


def _has_id(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("id"), str) and bool(entry["id"])


def _context(entry: Mapping[str, Any]) -> int | None:
    return next((size for name in _CONTEXT_FIELDS if (size := _size(entry.get(name)))), None)


def _size(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value <= _LARGEST_CONTEXT else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
