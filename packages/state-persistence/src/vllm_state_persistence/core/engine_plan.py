"""How the engines of a snapshot come back on this host, decided before anything is touched. Pure.

One step for each captured engine, remote address and set of request defaults, also for what needs nothing or cannot
be done: the plan is what a dry run shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vllm_mcp_protocol.model import EngineStatus, EngineView, HubState, LoadOptions, ModelConfig, ModelFacts
from vllm_state_persistence.core.difference import change_in_words
from vllm_state_persistence.core.engine_capture import (
    CapturedEngine,
    CapturedLora,
    Change,
    EngineCapture,
    Part,
    engine_changes,
    options_of,
    remote_address,
    value_changes,
)
from vllm_state_persistence.core.engine_fit import (
    Obstacle,
    commit_note,
    files_obstacle,
    flags_obstacle,
    notes_on,
    read_values,
    room,
    same_gpus,
)

S = EngineStatus

Action = Literal["none", "load", "reload", "wake", "sleep", "load-lora", "attach", "set-config", "differs", "blocked"]
"""`differs`: something else is there and stays, because force was not given. `blocked`: it cannot be done here."""

_JOINED = (S.QUEUED, S.STARTING, S.READY, S.SUSPENDING, S.SLEEPING, S.WAKE_QUEUED, S.WAKING)
"""The hub gives a load of the same name this engine instead of a new one."""

_ASLEEP = (S.SLEEPING, S.SUSPENDING)


@dataclass(frozen=True, slots=True)
class Here:
    """What this host has, as far as the plan asks for it."""

    state: HubState
    models: Mapping[tuple[str, str], ModelFacts] = field(default_factory=dict)
    """(model id, revision that was asked for, else empty) → what the caches have of it."""
    adapters: Mapping[CapturedLora, str] = field(default_factory=dict)
    """Folder of each captured adapter that is here."""
    obstacles: Mapping[str, str] = field(default_factory=dict)
    """Path of a model or an adapter → why it may not be used."""
    flags: frozenset[str] = frozenset()
    """Flags of the installed vLLM; empty: not known, and the hub refuses what it does not have."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one thing, and why."""

    action: Action
    subject: str
    """Served name of an engine, address of a remote one, or the model id of request defaults."""
    reason: str
    """One sentence."""
    suggestion: str = ""
    """What to do about a step that is blocked or differs."""
    engine: CapturedEngine | None = None
    options: LoadOptions | None = None
    facts: ModelFacts | None = None
    gpu_ids: tuple[int, ...] = ()
    """The GPUs that it ran on, where this host has them."""
    running: str = ""
    """Engine id of what serves that name now."""
    then_sleep: bool = False
    adapters: tuple[tuple[str, str], ...] = ()
    """Name and folder of each adapter that is to be loaded."""
    config: ModelConfig | None = None
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What will not be quite as it was."""
    lacking: tuple[str, ...] = ()
    """What of the engine cannot be brought back, and what to do."""


def plan(captured: EngineCapture, here: Here, *, force: bool = False) -> tuple[Step, ...]:
    """The steps, in the order in which they are to be done.

    `force` reloads engines that run with another configuration, and replaces other request defaults. What is here
    and is not in the snapshot is left alone.
    """
    engines = [_engine_step(engine, here, force=force) for engine in _load_order(captured.engines)]
    configs = [_config_step(model, kept, here, force=force) for model, kept in captured.defaults.items()]
    remotes = [_remote_step(address, here.state) for address in captured.remotes]
    return (*configs, *remotes, *engines)


def goes_first(step: Step, steps: Sequence[Step]) -> bool:
    """Must this load be over before the others are asked for?

    An engine that is to sleep needs its whole device until it does. One that serves a model under its own name would
    join an engine that serves it under another.
    """
    own_name = step.engine is not None and step.engine.served_name == step.engine.model_id
    same = [other for other in steps if other.engine and step.engine and other.engine.model_id == step.engine.model_id]
    return step.then_sleep or (own_name and len(same) > 1)


def _load_order(engines: Sequence[CapturedEngine]) -> list[CapturedEngine]:
    return sorted(engines, key=lambda engine: (engine.served_name != engine.model_id, engine.served_name))


def _engine_step(engine: CapturedEngine, here: Here, *, force: bool) -> Step:
    step = Step("load", engine.served_name, "", engine=engine)
    running = _joined(engine, here.state)
    if running is not None:
        return _running_step(step, engine, running, here, force=force)
    return _with_adapters(_load_step(step, engine, here), engine.loras, here)


def _joined(engine: CapturedEngine, state: HubState) -> EngineView | None:
    """The engine that the hub would give to a load of this one: by its name, or by its model where that is the name."""
    own = [view for view in state.engines if not view.remote and view.status in _JOINED]
    return next((view for view in own if engine.served_name in (view.served_name, view.model_id)), None)


# -- what runs already ----------------------------------------------------------------------------------------------


def _running_step(step: Step, engine: CapturedEngine, view: EngineView, here: Here, *, force: bool) -> Step:
    step = replace(step, running=view.id)
    changes = [*_configuration_changes(engine, view)]
    differences = tuple(change_in_words(change) for change in changes)
    if not changes:
        return _settled_step(step, engine, view, here)
    if not force:
        return replace(
            step,
            action="differs",
            differences=differences,
            reason=f"{view.id} serves {engine.served_name} with another configuration, and stays as it is",
            suggestion=f"force=true unloads {view.id} and loads it as it was; diff-states shows more",
        )
    loading = _with_adapters(_load_step(step, engine, here), engine.loras, here)
    if loading.action == "blocked":
        return replace(loading, differences=differences)
    reason = f"{view.id} serves {engine.served_name} with another configuration: it is unloaded first"
    return replace(loading, action="reload", differences=differences, reason=reason)


def _configuration_changes(engine: CapturedEngine, view: EngineView) -> Iterator[Change]:
    """From the snapshot's engine to the one that runs, in what only a new start can change."""
    now = CapturedEngine(
        model_id=view.model_id,
        served_name=engine.served_name,
        options=options_of(view),
        pinned=view.pinned,
        ttl_s=view.ttl_s,
    )
    if view.served_name != engine.served_name:
        before, after = engine.served_name, view.served_name
        yield Change(model=engine.served_name, part="option", name="served_model_name", before=before, after=after)
    parts: tuple[Part, ...] = ("model", "option", "pin", "idle limit")
    named = {change.name: change for change in engine_changes(engine, now) if change.part in parts}
    if view.served_name != engine.served_name:
        named.pop("served_model_name", None)
    yield from named.values()


def _settled_step(step: Step, engine: CapturedEngine, view: EngineView, here: Here) -> Step:
    """It runs as it did: what is left are its adapters, and whether it sleeps."""
    missing = tuple(lora for lora in engine.loras if lora.name not in view.loras)
    step = _with_adapters(replace(step, notes=commit_note(engine, view.facts)), missing, here)
    asleep = view.status in _ASLEEP
    if asleep and not engine.asleep:
        return replace(step, action="wake", reason=f"{view.id} runs with the same configuration, and sleeps")
    if engine.asleep and not asleep:
        reason = f"{view.id} runs with the same configuration, and is awake"
        return replace(step, action="sleep", then_sleep=True, reason=reason)
    if step.adapters and not asleep:
        names = ", ".join(name for name, _ in step.adapters)
        return replace(step, action="load-lora", reason=f"{view.id} runs with the same configuration, without {names}")
    if step.adapters:
        names = ", ".join(name for name, _ in step.adapters)
        lacking = (*step.lacking, f"{names} can only be loaded when it is awake: wake-model, then load-state again")
        step = replace(step, adapters=(), lacking=lacking)
    return replace(step, action="none", reason=f"{view.id} already runs with the same configuration")


# -- what is to be loaded -------------------------------------------------------------------------------------------


def _load_step(step: Step, engine: CapturedEngine, here: Here) -> Step:
    options, problem = read_values(LoadOptions, engine.options)
    if options is None:
        why = f"its options cannot be used here: {problem}"
        return _blocked(step, Obstacle(why, "upgrade the suite, or load-model by hand"))
    facts = here.models.get((engine.model_id, options.revision or ""))
    place = room(options, facts, here.state.devices)
    missing = files_obstacle(engine, facts, here.obstacles) or flags_obstacle(options, here.flags)
    obstacle = missing or place.obstacle
    if obstacle is not None:
        return _blocked(step, obstacle)
    gpu_ids, placed = same_gpus(engine, here.state.devices)
    notes = (*notes_on(engine, options, facts, here.state.devices), place.doubt, *placed)
    return replace(
        step,
        options=options,
        facts=facts,
        gpu_ids=gpu_ids,
        then_sleep=engine.asleep,
        reason=f"{engine.served_name} is not loaded",
        notes=tuple(note for note in notes if note),
    )


def _blocked(step: Step, obstacle: Obstacle) -> Step:
    return replace(step, action="blocked", reason=obstacle.reason, suggestion=obstacle.suggestion)


def _with_adapters(step: Step, loras: Sequence[CapturedLora], here: Here) -> Step:
    """The adapters that are here, and why the others are not."""
    if step.action == "blocked":
        return step
    found = tuple((lora.name, here.adapters[lora]) for lora in loras if lora in here.adapters)
    lacking = tuple(_no_adapter(lora, here.obstacles) for lora in loras if lora not in here.adapters)
    return replace(step, adapters=found, lacking=lacking)


def _no_adapter(lora: CapturedLora, obstacles: Mapping[str, str]) -> str:
    if lora.path is None:
        return f"adapter {lora.name} is left out: its folder was not known when it was saved; load-lora it by hand"
    if lora.path in obstacles:
        return f"adapter {lora.name} is left out: {obstacles[lora.path]}"
    what = f"download-model {lora.repo}" if lora.repo else f"put its files into {lora.path}"
    return f"adapter {lora.name} is left out, its files are not here: {what}, then load-state again"


# -- everything else ------------------------------------------------------------------------------------------------


def _remote_step(address: str, state: HubState) -> Step:
    if any(view.remote and remote_address(view) == address for view in state.engines):
        return Step("none", address, "it is attached already")
    return Step("attach", address, "it was attached; a key that it wants comes from the settings")


def _config_step(model: str, kept: Mapping[str, Any], here: Here, *, force: bool) -> Step:
    step = Step("set-config", model, f"no request defaults are set for {model}")
    config, problem = read_values(ModelConfig, kept)
    if config is None:
        why = f"its request defaults cannot be used here: {problem}"
        return _blocked(step, Obstacle(why, "set-model-config by hand"))
    present = here.state.model_configs.get(model)
    step = replace(step, config=config)
    if present is None:
        return step
    now = present.model_dump(mode="json", exclude_none=True)
    changes = value_changes(model, "default", config.model_dump(mode="json", exclude_none=True), now)
    if not changes:
        return replace(step, action="none", reason=f"{model} has the same request defaults")
    differences = tuple(change_in_words(change) for change in changes)
    if force:
        return replace(step, differences=differences, reason=f"{model} has other request defaults: they are replaced")
    return replace(
        step,
        action="differs",
        differences=differences,
        reason=f"{model} has other request defaults, and keeps them",
        suggestion="force=true replaces them",
    )
