"""Metadata of models from the Hub, kept on the disk. Nothing waits for it long, and nothing fails without it."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from anyio import to_thread

from vllm_auto_discovery.core.metadata import (
    Enriched,
    Metadata,
    Remembered,
    enriched,
    file_name,
    is_fresh,
    is_remembered,
)
from vllm_mcp_protocol.errors import HuggingFaceRateLimited, HuggingFaceUnreachable, SuiteError
from vllm_mcp_protocol.files import write_atomic
from vllm_mcp_protocol.hf import site as hf_hub
from vllm_mcp_protocol.model_names import is_path
from vllm_mcp_protocol.paths import prepare_state_dir, state_dir
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import KIB

_ASK_LIMIT_S = 5.0
"""Shorter than the protocol's: what the Hub says is an extra, and its caller waits."""
QUIET_S = 60.0
"""After a site that did not answer nobody is asked for so long: without a network each question costs its limit."""

_FILE_LIMIT_BYTES = 256 * KIB
_MOST_FILES = 4000
_PRUNE_EVERY = 100


class Enricher:
    """Asks the Hub about models when the settings allow it, and remembers the answers. Never raises.

    `now_s` tells unix seconds, `clock_s` seconds that only grow.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now_s: Callable[[], float] = time.time,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._folder = state_dir(settings) / "metadata"
        self._site = hf_hub.site(settings)
        self._ttl_s = settings.metadata_cache_ttl_hours * 3600.0
        self._now_s = now_s
        self._clock_s = clock_s
        self._quiet_until_s = 0.0
        self._why_quiet = ""
        self._written = 0

    async def one(self, model_id: str, *, refresh: bool = False) -> Enriched:
        """What is known of a model; `refresh` asks even when the answer is young."""
        if is_path(model_id):
            return Enriched(model_id=model_id, reason="a folder is not at the Hub")
        known = await to_thread.run_sync(self._read, model_id)
        if known is not None and not refresh and is_fresh(known, self._now_s(), self._ttl_s):
            return self._tell(model_id, known, None)
        if why_not := self._why_not():
            return self._tell(model_id, known, why_not)
        return await self._asked(model_id, known)

    def _why_not(self) -> str | None:
        """Why the Hub is not asked, if it is not."""
        if not self._settings.enable_model_metadata_enrichment:
            return "ENABLE_MODEL_METADATA_ENRICHMENT is false"
        if self._settings.hf_hub_offline:
            return "HF_HUB_OFFLINE is set"
        return self._why_quiet if self._clock_s() < self._quiet_until_s else None

    async def _asked(self, model_id: str, known: Remembered | None) -> Enriched:
        try:
            answer = await hf_hub.ask_within(self._settings, model_id, check_access=False, limit_s=_ASK_LIMIT_S)
        except SuiteError as error:
            self._note_trouble(error)
            if not is_remembered(error.info):
                return self._tell(model_id, known, error.info.message)
            known = Remembered(model_id=model_id, site=self._site, asked_s=self._now_s(), refusal=error.info)
        else:
            known = Remembered(model_id=model_id, site=self._site, asked_s=self._now_s(), answer=_metadata(answer))
        await to_thread.run_sync(self._write, known)
        return Enriched(
            model_id=model_id,
            answer=known.answer,
            age_s=0.0,
            reason=known.refusal.message if known.refusal is not None else None,
            refusal=known.refusal,
        )

    def _note_trouble(self, error: SuiteError) -> None:
        """A site that is away, or has had enough of us, is left alone for a while."""
        if isinstance(error, HuggingFaceUnreachable | HuggingFaceRateLimited):
            quiet_s = max(QUIET_S, error.info.details.get("retry_after_s") or 0.0)
            self._quiet_until_s = self._clock_s() + quiet_s
            self._why_quiet = error.info.message

    def _tell(self, model_id: str, known: Remembered | None, why_not: str | None) -> Enriched:
        return enriched(model_id, known, self._now_s(), self._ttl_s, why_not)

    def _read(self, model_id: str) -> Remembered | None:
        """A file that cannot be read, or is another model's, is as good as none."""
        try:
            with self._path(model_id).open("rb") as file:
                data = file.read(_FILE_LIMIT_BYTES + 1)
            known = Remembered.model_validate_json(data) if len(data) <= _FILE_LIMIT_BYTES else None
        except (OSError, ValueError):
            return None
        return known if known is not None and (known.model_id, known.site) == (model_id, self._site) else None

    def _write(self, known: Remembered) -> None:
        """A full or read-only disk costs the memory, not the answer."""
        with suppress(OSError, SuiteError):
            prepare_state_dir(self._folder.parent)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            write_atomic(self._path(known.model_id), known.model_dump_json().encode())
            self._written += 1
            if self._written % _PRUNE_EVERY == 1:
                prune(self._folder, _MOST_FILES)

    def _path(self, model_id: str) -> Path:
        return self._folder / file_name(model_id, self._site)


def prune(folder: Path, keep: int) -> None:
    """Remove the oldest files of `folder` but for `keep`."""
    with os.scandir(folder) as entries:
        files = sorted((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in entries)
    for _, path in files[: max(0, len(files) - keep)]:
        with suppress(OSError):
            os.unlink(path)


def _metadata(answer: hf_hub.HubModel) -> Metadata:
    sizes = [file.size_bytes for file in answer.files]
    known = [size for size in sizes if size is not None]
    return Metadata(
        size_bytes=sum(known) if len(known) == len(sizes) else None,
        **answer.model_dump(include=set(Metadata.model_fields) - {"size_bytes", "url"}),
        url=answer.url,
    )
