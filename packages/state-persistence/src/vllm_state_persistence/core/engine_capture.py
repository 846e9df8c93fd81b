"""The engines of a hub as a snapshot keeps them: what a load has to ask for to get the same engine again. Pure.

Nothing in a capture changes while nobody changes the engines (no ids, times, figures), so that two captures of the
same set-up are the same bytes. No key of an engine, and none of a remote one, is ever in it.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_mcp_protocol.model import CPU, EngineStatus, EngineView, HubState, JsonObject

FORMAT = 1

_GONE = (EngineStatus.DRAINING, EngineStatus.STOPPING, EngineStatus.STOPPED)
_ASLEEP = (EngineStatus.SLEEPING, EngineStatus.SUSPENDING)

_IN_CACHE = re.compile(r"/models--(?P<repo>[^/]+)/snapshots/(?P<revision>[^/]+)/?$")
"""Where huggingface_hub lays a repository down; the same repository has another path on another machine."""


class _Kept(BaseModel):
    """Immutable. A later version may have added to it, and what it added is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CapturedLora(_Kept):
    """An adapter that an engine served."""

    name: str
    path: str | None = None
    """Folder that it was loaded from; None: the engine could not be asked."""
    repo: str | None = None
    revision: str | None = None
    """Repository and snapshot, where the folder lies in a Hugging Face cache."""


class CapturedEngine(_Kept):
    """One engine of the hub's own."""

    model_id: str
    served_name: str
    revision: str | None = None
    """Commit of the files that it ran, whatever revision was asked for."""
    options: JsonObject = Field(default_factory=dict)
    """`LoadOptions` that differ from their defaults; kept as they are, so that an option of a later version is seen."""
    devices: tuple[str, ...] = ()
    pinned: bool = False
    ttl_s: float | None = None
    asleep: bool = False
    loras: tuple[CapturedLora, ...] = ()

    @property
    def on_cpu(self) -> bool:
        return self.devices == (CPU,)


class EngineCapture(_Kept):
    """Everything of a hub that a restore brings back."""

    format: int = FORMAT
    suite_version: str = ""
    engines: tuple[CapturedEngine, ...] = ()
    """By served name."""
    remotes: tuple[str, ...] = ()
    """Addresses of engines that run elsewhere, without their keys."""
    defaults: dict[str, JsonObject] = Field(default_factory=dict)
    """Model id → its request defaults (`set-model-config`), without what is not set."""

    def to_bytes(self) -> bytes:
        """As a snapshot keeps it; the same set-up gives the same bytes."""
        return self.model_dump_json(exclude_defaults=True).encode()


def read_capture(data: bytes) -> EngineCapture:
    """The capture that `to_bytes` wrote, of this or another version. Raises StoreDamaged."""
    try:
        return EngineCapture.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the whole"
        raise StoreDamaged(
            f"The engines of this snapshot cannot be read: {where}: {problem['msg']}.",
            suggestion="load-state with restore_models=false brings back the conversation alone",
        ) from error


def capture(state: HubState, lora_paths: Mapping[str, Mapping[str, str]] | None = None) -> EngineCapture:
    """What of `state` a later restore needs. `lora_paths`: engine id → adapter → folder, as the engines told it.

    An engine that starts or wakes counts as awake, one that is on its way out is not captured.
    """
    paths = lora_paths or {}
    alive = [view for view in state.engines if view.status not in _GONE]
    own = [_captured(view, paths.get(view.id, {})) for view in alive if not view.remote]
    return EngineCapture(
        suite_version=state.version,
        engines=tuple(sorted(own, key=lambda engine: engine.served_name)),
        remotes=tuple(sorted({remote_address(view) for view in alive if view.remote})),
        defaults={
            model: config.model_dump(mode="json", exclude_none=True)
            for model, config in sorted(state.model_configs.items())
        },
    )


def remote_address(view: EngineView) -> str:
    """What `Hub.attach` was given: the hub shows it with `/v1` behind it."""
    return view.endpoint.removesuffix("/v1")


def options_of(view: EngineView) -> JsonObject:
    """The engine's options, as a capture has them."""
    return view.options.model_dump(mode="json", exclude_defaults=True)


def _captured(view: EngineView, paths: Mapping[str, str]) -> CapturedEngine:
    return CapturedEngine(
        model_id=view.model_id,
        served_name=view.served_name,
        revision=view.facts.revision if view.facts is not None else None,
        options=options_of(view),
        devices=view.devices,
        pinned=view.pinned,
        ttl_s=view.ttl_s,
        asleep=view.status in _ASLEEP,
        loras=tuple(_lora(name, paths.get(name) or None) for name in sorted(view.loras)),
    )


def _lora(name: str, path: str | None) -> CapturedLora:
    match = _IN_CACHE.search(path or "")
    if match is None:
        return CapturedLora(name=name, path=path)
    return CapturedLora(name=name, path=path, repo=match["repo"].replace("--", "/", 1), revision=match["revision"])


Part = Literal["option", "pin", "idle limit", "asleep", "devices", "files", "model", "adapter", "default"]
"""What of an engine, or of a model's request defaults, two set-ups differ in."""


class Change(_Kept):
    """One value that two set-ups have differently; None: it is not set."""

    model: str
    """Served name of the engine, or model id of the defaults."""
    part: Part
    name: str
    before: Any = None
    after: Any = None


def engine_changes(before: CapturedEngine, after: CapturedEngine) -> tuple[Change, ...]:
    """What is different between two engines of one name, in a fixed order."""
    name = after.served_name
    found = [Change(model=name, part="model", name="model_id", before=before.model_id, after=after.model_id)]
    found += value_changes(name, "option", before.options, after.options)
    found += [
        Change(model=name, part="pin", name="pin", before=before.pinned, after=after.pinned),
        Change(model=name, part="idle limit", name="ttl_s", before=before.ttl_s, after=after.ttl_s),
        Change(model=name, part="asleep", name="asleep", before=before.asleep, after=after.asleep),
        Change(model=name, part="devices", name="devices", before=before.devices, after=after.devices),
        Change(model=name, part="files", name="revision", before=before.revision, after=after.revision),
    ]
    found += value_changes(name, "adapter", _folders(before), _folders(after))
    return tuple(change for change in found if change.before != change.after)


def value_changes(model: str, part: Part, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """One change for each name that the two have differently, by name."""
    return [
        Change(model=model, part=part, name=name, before=before.get(name), after=after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _folders(engine: CapturedEngine) -> dict[str, str]:
    return {lora.name: lora.path or "a folder that is not known" for lora in engine.loras}
