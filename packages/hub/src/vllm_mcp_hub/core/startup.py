"""A start as vLLM's log tells it: which phase has begun, how long each took, what was measured. Pure.

vLLM has no other way to say so; the words are those of 0.32 and, where they differ, of the versions before it.
Several processes write one log, so a late line of a slower worker adds facts but leads to no earlier phase.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from vllm_mcp_protocol.model import Phase, PhaseTime, StartFacts
from vllm_mcp_protocol.units import GIB

MAX_LINE_CHARS = 2_000
"""The longest line of interest has 162; vLLM also prints its whole configuration in one of 3,498."""

_ORDER = {phase: float(rank) for rank, phase in enumerate(Phase)} | {Phase.DOWNLOAD: 2.5}
"""Phases as they follow each other; the worker downloads after the configuration was read."""

_FILES = r"\.safetensors|\.bin|\.gguf|Fetching \d{1,9} files|Downloading"
_BEGINS: tuple[tuple[Phase, re.Pattern[str]], ...] = (
    (Phase.CONFIG, re.compile(r"version \d+\.\d+|non-default args:|Resolved architecture:|Initializing a V1 LLM")),
    (
        Phase.DOWNLOAD,
        re.compile(rf"(?:{_FILES})[^%|]{{0,200}}?:\s{{1,9}}\d{{1,3}}%\|"),
    ),
    (Phase.WEIGHTS, re.compile(r"Starting to load model|Loading \w+ checkpoint shards|Time spent downloading weights")),
    (Phase.PROFILE, re.compile(r"Loading weights took|Model loading took|Explicitly set .* for KV cache")),
    (Phase.GRAPHS, re.compile(r"Capturing CUDA graph|Graph capturing finished")),
    (Phase.SERVER, re.compile(r"init engine \(profile|Starting vLLM (?:API )?server|Started server process")),
    (Phase.READY, re.compile(r"Application startup complete")),
)

_NUMBER = r"([0-9][0-9,]{0,19}(?:\.[0-9]{1,9})?)"
_SAID: tuple[tuple[str, re.Pattern[str], Callable[[float], Any]], ...] = (
    ("weights_bytes", re.compile(rf"Model loading took {_NUMBER} ?Gi?B"), lambda gib: round(gib * GIB)),
    ("kv_cache_bytes", re.compile(rf"Available KV cache memory: {_NUMBER} GiB"), lambda gib: round(gib * GIB)),
    ("kv_cache_bytes", re.compile(rf"(?:Explicitly|Auto) set \({_NUMBER}/"), lambda gib: round(gib * GIB)),
    ("kv_cache_tokens", re.compile(rf"KV cache size: {_NUMBER} tokens"), int),
    ("max_concurrency", re.compile(rf"Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x"), float),
    ("graph_bytes", re.compile(rf"Graph capturing finished in .* took {_NUMBER} GiB"), lambda gib: round(gib * GIB)),
    ("max_model_len", re.compile(rf"Using max model len {_NUMBER}"), int),
)
"""Field of StartFacts, the words, and its value from the number. The largest of several workers counts."""

PROGRESS_CHARS = 200
"""A progress bar is redrawn to the width of a terminal: what it says stands at the end of the line."""

_COUNT = r"\d{1,9}(?:\.\d{1,3})?[A-Za-z]?"
# Every quantifier is bounded: a line of an engine's log may hold anything, and the hub reads it in its event loop.
_PROGRESS = re.compile(rf"(\d{{1,3}})%(?: Completed)?\s{{0,9}}\|.{{0,150}}?({_COUNT}/{_COUNT})")


class StartupLog:
    """Feed it every line with the time it was read (monotonic seconds); it keeps no line."""

    def __init__(self) -> None:
        self.phase: Phase | None = None
        self.detail = ""
        """How far the phase is, in words: `45% of 3/7`; empty when vLLM does not say."""
        self._phases: list[tuple[Phase, float]] = []
        self._end_s: float | None = None
        self._said: dict[str, Any] = {}

    def begin(self, now_s: float) -> None:
        """The process was started; otherwise the launch counts from the first line."""
        if self.phase is None:
            self._enter(Phase.LAUNCH, now_s)

    def feed(self, line: str, now_s: float) -> Phase | None:
        """The phase that begins with this line, if one does."""
        self.begin(now_s)
        # Progress bars are redrawn within one line; only the last state matters.
        text = line.rstrip("\r\n").rpartition("\r")[2][:MAX_LINE_CHARS]
        self._note(text)
        for phase, words in _BEGINS:
            if self._follows(phase) and words.search(text):
                self._enter(phase, now_s)
                return phase
        return None

    def finish(self, now_s: float) -> None:
        """The engine answers; what the log says afterwards is no part of the start."""
        if self._end_s is None:
            self.begin(now_s)
            if self.phase is not Phase.READY:
                self._enter(Phase.READY, now_s)
            self._end_s = now_s

    def facts(self) -> StartFacts:
        """What vLLM has said so far, with the seconds of each phase that has ended."""
        seconds: dict[Phase, float] = {}
        for (phase, begin_s), (_, end_s) in pairwise(self._phases):
            seconds[phase] = seconds.get(phase, 0.0) + end_s - begin_s
        times = (PhaseTime(phase=phase, seconds=round(taken, 3)) for phase, taken in seconds.items())
        return StartFacts(**self._said, phases=tuple(times))

    def _follows(self, phase: Phase) -> bool:
        if self._end_s is not None or self.phase is None:
            return False
        # "Starting to load model" comes before the first byte is fetched, so a download may interrupt the loading.
        late = phase is Phase.DOWNLOAD and self.phase is Phase.WEIGHTS
        return _ORDER[phase] > _ORDER[self.phase] or (late and all(p is not phase for p, _ in self._phases))

    def _enter(self, phase: Phase, now_s: float) -> None:
        self.phase, self.detail = phase, ""
        self._phases.append((phase, now_s))

    def _note(self, text: str) -> None:
        if self._end_s is not None:
            return
        if progress := _PROGRESS.search(text[-PROGRESS_CHARS:]):
            self.detail = f"{progress[1]}% ({progress[2]})"
        for field, words, value_of in _SAID:
            if found := words.search(text):
                value = value_of(float(found[1].replace(",", "")))
                self._said[field] = max(value, self._said.get(field, value))
