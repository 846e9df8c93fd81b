"""sync-client-config: a client's configuration lists exactly the models that can be served."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from anyio import to_thread
from pydantic import Field

from vllm_auto_discovery import parameters as p
from vllm_auto_discovery.clients import files as client_files
from vllm_auto_discovery.clients.files import Change, Synced
from vllm_auto_discovery.clients.places import Places, config_path, places
from vllm_auto_discovery.core.abilities.claims import Capability
from vllm_auto_discovery.core.bounds import bounded, fitting
from vllm_auto_discovery.core.clients.offers import Offer, of_engines, of_server
from vllm_auto_discovery.core.clients.plans import Client, ListedModel
from vllm_auto_discovery.core.clients.servable import Endpoint, KeyVariable
from vllm_auto_discovery.probing import probe_url
from vllm_auto_discovery.results import SyncedModel, SyncResult, SyncStatus
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.errors import BadInput, ModelNotLoaded
from vllm_mcp_protocol.serving.server import WRITE, SuiteServer

GATEWAY = "http://127.0.0.1:8099"
_LIST_BYTES = 4000
_NOTHING_SERVED = "no model is served now, so none is listed: load-model with port=8000, then call again"
Through = Literal["auto", "gateway", "engines"]


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tool."""

    @server.tool("sync-client-config", title="Tell a client which models there are", annotations=WRITE)
    async def sync_client_config(
        client: Annotated[Literal["crush", "opencode", "claude-code"], Field(description="Whose configuration")],
        path: Annotated[
            str | None,
            Field(min_length=1, max_length=1000, description="Its file (default: the project's, else the user's own)"),
        ] = None,
        through: Annotated[
            Through,
            Field(description="Where the client sends requests; auto: the gateway when it runs, else each engine"),
        ] = "auto",
        undo: Annotated[bool, Field(description="Take the last change of that file back instead")] = False,
        force: Annotated[bool, Field(description="Also replace what the user set; only if the user agreed")] = False,
        dry_run: p.DryRun = False,
    ) -> SyncResult:
        """Write into a client's configuration exactly the models that can be served now, with context windows and
        capabilities; everything else in the file stays byte for byte. Shows the diff; undo takes it back.
        """
        chosen = Client(client)
        target = config_path(chosen, _places(work, chosen, path), path)
        if undo:
            change = await to_thread.run_sync(
                lambda: client_files.undo(target, work.hub.folder, dry_run=dry_run, force=force)
            )
            return undone_result(chosen, change)
        offer = await servable(work, through)
        _check_offer(offer)
        synced = await to_thread.run_sync(
            lambda: client_files.sync(chosen, target, offer.models, work.hub.folder, dry_run=dry_run, force=force)
        )
        return synced_result(chosen, synced, offer)


def _places(work: Workplace, client: Client, path: str | None) -> Places:
    """Where files may be changed; without a project only the client's own folder, when a path is given."""
    if work.project_dir is not None:
        return places(work.project_dir, os.environ)
    if path is None:
        raise BadInput(
            "The server runs in /, which is no project: there is no project's configuration to write.",
            suggestion="start the server in the project's folder, as clients do, or give path",
        )
    own = places(Path.home(), os.environ)
    return replace(own, project=own.config[client])


def _check_offer(offer: Offer) -> None:
    if offer.models or not offer.left_out:
        return
    raise ModelNotLoaded(
        f"No model can be offered to a client: {'; '.join(offer.left_out[:5])}.",
        left_out=offer.left_out[:20],
        suggestion="load-model with port=8000 (unload-model first), or start the gateway",
    )


async def servable(work: Workplace, through: Through) -> Offer:
    """Models that a client could use now. Raises ModelNotLoaded when a gateway that was asked for does not answer."""
    claims = await _claims(work)
    if through != "engines":
        gateway = await probe_url(GATEWAY)
        if gateway.models:
            return Offer(of_server(gateway, Endpoint(f"{GATEWAY}/v1"), claims))
        if through == "gateway":
            raise ModelNotLoaded(
                f"The gateway at {GATEWAY} does not answer with models.",
                endpoint=GATEWAY,
                suggestion="start it, or call again with through=engines",
            )
    state, _ = await work.hub_state()
    views = work.live_engines(state)
    keys = {view.id: work.hub.folder / "engines" / view.id / "api.key" for view in views if not view.remote}
    offer = of_engines(views, claims, {name: str(key) for name, key in keys.items() if key.exists()})
    known = {model.endpoint.base_url for model in offer.models}
    for remote, found in zip(work.settings.remote_engines(), await work.configured_engines(), strict=True):
        base_url = f"{found.url}/v1"
        if base_url not in known:
            key = KeyVariable("VLLM_API_KEY") if remote.api_key is not None else None
            offer.models += of_server(found, Endpoint(base_url, key), claims)
    return offer


async def _claims(work: Workplace) -> dict[str, Sequence[Capability]]:
    models = (await work.scan()).models
    claims = await work.claims(models, ask_vllm=True)
    return {model.facts.model_id: of_model for model, of_model in zip(models, claims, strict=True)}


def synced_result(client: Client, synced: Synced, offer: Offer) -> SyncResult:
    """What the caller is told of a change."""
    change, plan = synced.change, synced.plan
    status: SyncStatus = "written" if change.done else "planned" if change.diff else "unchanged"
    return SyncResult(
        client=client,
        path=str(change.path),
        status=status,
        models=fitting([_synced(one) for one in plan.listed], _LIST_BYTES),
        left_out=bounded([*offer.left_out, *plan.left_out]),
        diff=change.diff,
        undo=f"sync-client-config with client={client} and undo=true" if change.done else None,
        warnings=bounded([*([] if plan.listed else [_NOTHING_SERVED]), *plan.warnings]),
    )


def _synced(one: ListedModel) -> SyncedModel:
    return SyncedModel(
        id=one.model.model_id,
        provider=one.provider,
        context_window=one.model.context_window_tokens,
        capabilities=list(one.model.capabilities),
    )


def undone_result(client: Client, change: Change) -> SyncResult:
    """What the caller is told of an undo."""
    return SyncResult(
        client=client,
        path=str(change.path),
        status="undone" if change.done else "planned",
        models=[],
        diff=change.diff,
    )
