"""verify-states, export-state and import-state: a store that can be trusted, and snapshots that travel."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vllm_mcp_protocol.errors import PathNotAllowed
from vllm_mcp_protocol.paths import confine, state_dir
from vllm_mcp_protocol.serving.server import READ, WRITE, SuiteServer
from vllm_state_persistence import parameters as p
from vllm_state_persistence.results import DamagedPart, TransferResult, VerifyResult
from vllm_state_persistence.store.results import Verified
from vllm_state_persistence.store.transfer import export, import_
from vllm_state_persistence.store.verifying import verify
from vllm_state_persistence.workplace import Workplace

SUFFIX = ".vllmstate"
_SHOWN = 40


def register(server: SuiteServer, work: Workplace) -> None:
    """Add the tools."""

    @server.tool("verify-states", title="Check the store", annotations=READ)
    async def verify_states(
        session_id: Annotated[str | None, Field(min_length=1, max_length=400, description="Only of this one")] = None,
        read_data: Annotated[bool, Field(description="Read every byte; false: only the structure")] = True,
    ) -> VerifyResult:
        """Read the snapshots back and hold them against their checksums and seals; name what is damaged."""
        return verify_result(await verify(await work.store(), read_data=read_data, session_id=session_id))

    @server.tool("export-state", title="Export a snapshot", annotations=WRITE)
    async def export_state(state_id: p.StateId, path: p.ExportPath) -> TransferResult:
        """Write a snapshot into one encrypted file, for another machine that has the same key. An existing file is not
        replaced.
        """
        store = await work.store()
        info = await store.info(state_id)
        target = allowed_file(work, path)
        size = await export(store, state_id, target)
        return TransferResult(
            state_id=state_id, path=str(target), size_bytes=size, session_id=info.session_id, messages=info.messages
        )

    @server.tool("import-state", title="Import a snapshot", annotations=WRITE)
    async def import_state(path: p.ExportPath) -> TransferResult:
        """Take a snapshot from an exported file into the store. load-state then brings it back."""
        store = await work.store()
        source = allowed_file(work, path)
        saved = await import_(store, source)
        info = await store.info(saved.state_id)
        return TransferResult(
            state_id=saved.state_id,
            path=str(source),
            size_bytes=os.path.getsize(source),
            session_id=info.session_id,
            messages=info.messages,
        )


_ELSEWHERE = "give a path in the project; `vllm-state-persistence export` and `import` on the command line take any"


def allowed_file(work: Workplace, path: str) -> Path:
    """The real path, in the project or the state folder. Raises PathNotAllowed."""
    project = (work.project_dir,) if work.project_dir is not None else ()
    given = Path(path).expanduser()
    absolute = given if given.is_absolute() else work.project / given
    real = confine(str(absolute), (*project, state_dir(work.settings)), parameter="path", suggestion=_ELSEWHERE)
    if real.suffix != SUFFIX:
        raise PathNotAllowed(
            f"path={path[:200]!r} does not end in {SUFFIX}.",
            parameter="path",
            value=path[:200],
            suggestion=f"name it {real.stem[:100] or 'session'}{SUFFIX}",
        )
    return real


def verify_result(found: Verified) -> VerifyResult:
    """What the caller is told."""
    more = f" {found.more_damaged} more are not listed." if found.more_damaged else ""
    return VerifyResult(
        status="ok" if found.sound else "damaged",
        checked=found.states,
        values_checked=found.values,
        damaged=[
            DamagedPart(state_id=one.state_id or None, what=f"{one.what} {one.name}"[:200], detail=one.reason[:200])
            for one in found.damaged[:_SHOWN]
        ],
        repairable=not found.sound,
        suggestion=None
        if found.sound
        else f"`vllm-state-persistence repair` saves what can be saved and lists the rest.{more}",
    )
