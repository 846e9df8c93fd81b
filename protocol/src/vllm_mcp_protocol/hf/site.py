"""The Hugging Face Hub, or a mirror of it: how the settings reach it, and what it says of a model.

huggingface_hub reads endpoint, cache, token and offline mode from the environment when it is imported; here each is
passed on from the settings, and without HF_TOKEN no token is sent, not even one that `hf auth login` left behind.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import anyio
from anyio import to_thread
from pydantic import BaseModel, ConfigDict

from vllm_mcp_protocol.checkpoint.values import short_text
from vllm_mcp_protocol.errors import BadInput, Offline
from vllm_mcp_protocol.hf.refusals import MISSHAPEN, Asked, explained, failures, unreachable
from vllm_mcp_protocol.model_names import check_model_id, is_path
from vllm_mcp_protocol.reading import printable
from vllm_mcp_protocol.settings import Settings
from vllm_mcp_protocol.units import format_seconds

SITE = "https://huggingface.co"

ASK_LIMIT_S = 10.0
"""For connecting, and for each wait for the site to send something."""

_NAME_LOOKUP_S = 2.0
"""On top: a request's own limit does not cover the resolution of the host's name."""

_MOST_TAGS = 200
_MOST_FILES = 20_000
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


class HubFile(BaseModel):
    """A file of a repository."""

    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: int | None = None
    blob: str | None = None
    """Its name among the blobs of a cache: the SHA-256 of what LFS stores, else the git object."""
    sha256: str | None = None
    """Checksum of the content; None where the repository keeps the file in git itself."""


class HubModel(BaseModel):
    """What the Hub says of a model at one revision."""

    model_config = ConfigDict(frozen=True)

    model_id: str
    site: str
    commit: str
    files: tuple[HubFile, ...] = ()
    gated: str | None = None
    """`auto` or `manual`: who decides about a request for access. None: everybody may read it."""
    private: bool = False
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    library: str | None = None
    license: str | None = None
    downloads: int | None = None
    """In the last 30 days."""
    likes: int | None = None
    last_modified: str | None = None
    """ISO 8601, UTC."""
    config: Mapping[str, Any] = {}
    """The part of config.json that the Hub repeats: `architectures`, `model_type`, `tokenizer_config`, …"""

    @property
    def url(self) -> str:
        """Its page, where terms are accepted."""
        return f"{self.site}/{self.model_id}"


class Access(NamedTuple):
    """How the settings reach the site. `endpoint` may hold a user and a password, `token` is a secret."""

    endpoint: str
    token: str | bool


def access(settings: Settings) -> Access:
    """Endpoint and token, the way huggingface_hub takes them: False is "none at all", not "look for one"."""
    secret = settings.hf_token
    return Access(
        (settings.hf_endpoint or SITE).rstrip("/"), secret.get_secret_value() if secret is not None else False
    )


def site(settings: Settings) -> str:
    """The site as it may be shown: without a user and a password."""
    parts = urlsplit(access(settings).endpoint)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def asked(settings: Settings, model_id: str, revision: str | None = None) -> Asked:
    """For `explained`."""
    return Asked(model_id, revision, site(settings), settings.hf_token is not None)


def ask(
    settings: Settings,
    model_id: str,
    revision: str | None = None,
    *,
    check_access: bool = True,
    limit_s: float = ASK_LIMIT_S,
) -> HubModel:
    """What the Hub says of a model. Blocking: for a thread.

    With `check_access` a gated model is an answer only for those who may download it.
    Raises Offline (and asks nobody), BadInput, ModelNotFound, RevisionNotFound, GatedRepository,
    HuggingFaceUnauthorized, HuggingFaceRateLimited or HuggingFaceUnreachable.
    """
    what = asked(settings, model_id, revision)
    _check_asked(settings, what)
    from huggingface_hub import HfApi

    endpoint, token = access(settings)
    try:
        api = HfApi(endpoint=endpoint, token=token, library_name="vllm-mcp")
        info = api.model_info(model_id, revision=revision, timeout=limit_s, files_metadata=True)
        answer = _answer(what, info)
        if answer.gated and check_access:
            _check_access(endpoint, token, model_id, limit_s)
    except failures() + MISSHAPEN as error:
        raise explained(error, what) from error
    return answer


async def ask_within(
    settings: Settings,
    model_id: str,
    revision: str | None = None,
    *,
    check_access: bool = True,
    limit_s: float = ASK_LIMIT_S,
) -> HubModel:
    """`ask` in a thread that is given up after `limit_s` and a little, whatever it hangs on. Raises the same."""
    question = partial(ask, settings, model_id, revision, check_access=check_access, limit_s=limit_s)
    try:
        with anyio.fail_after(limit_s + _NAME_LOOKUP_S):
            return await to_thread.run_sync(question, abandon_on_cancel=True)
    except TimeoutError as error:
        raise unreachable(asked(settings, model_id, revision), f"no answer within {format_seconds(limit_s)}") from error


def offline(settings: Settings, model_id: str) -> Offline:
    """The error for what the settings forbid to ask."""
    return Offline(
        f"{model_id} cannot be looked up at {site(settings)}: HF_HUB_OFFLINE is set.",
        model_id=model_id,
        suggestion="unset HF_HUB_OFFLINE for this server, or use a model that is in the cache",
    )


def _check_asked(settings: Settings, what: Asked) -> None:
    check_model_id(what.model_id)
    if is_path(what.model_id):
        raise BadInput(
            f"model_id={what.model_id[:200]!r} is a folder; the Hub is asked for org/name.",
            parameter="model_id",
            value=what.model_id[:200],
            suggestion="give the model's name at the Hugging Face Hub, org/name",
        )
    if settings.hf_hub_offline:
        raise offline(settings, what.model_id)


def _check_access(endpoint: str, token: str | bool, model_id: str, limit_s: float) -> None:
    """`HfApi.auth_check`, which in 1.33 would wait for ever."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    headers = build_hf_headers(token=token, library_name="vllm-mcp")
    hf_raise_for_status(
        get_session().get(f"{endpoint}/api/models/{model_id}/auth-check", headers=headers, timeout=limit_s)
    )


def _answer(what: Asked, info: Any) -> HubModel:
    """Raises ValueError, TypeError or AttributeError for what no Hub would say."""
    commit = short_text(info.sha)
    if commit is None or not _COMMIT.fullmatch(commit):  # it becomes a folder's name
        raise ValueError("no commit in the answer")
    return HubModel(
        model_id=what.model_id,
        site=what.site,
        commit=commit,
        files=tuple(_files(info.siblings or ())),
        gated=short_text(info.gated) or ("manual" if info.gated else None),
        private=bool(info.private),
        tags=tuple(text for tag in (info.tags or ())[:_MOST_TAGS] if (text := short_text(tag))),
        pipeline_tag=short_text(info.pipeline_tag),
        library=short_text(info.library_name),
        license=_license(info),
        downloads=info.downloads if isinstance(info.downloads, int) else None,
        likes=info.likes if isinstance(info.likes, int) else None,
        last_modified=info.last_modified.astimezone(UTC).isoformat() if info.last_modified else None,
        config=_config(info.config),
    )


def _config(value: Any) -> Mapping[str, Any]:
    """An object that can be written as JSON: half characters, which JSON can name, cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _files(siblings: Any) -> Iterator[HubFile]:
    for file in siblings[:_MOST_FILES]:
        sha256 = file.lfs.sha256 if file.lfs is not None else None
        blob = sha256 or file.blob_id
        size = file.lfs.size if file.lfs is not None else file.size
        name = file.rfilename
        if (
            not isinstance(name, str)
            or printable(name) != name
            or name.startswith("/")
            or "\0" in name
            or ".." in name.split("/")
        ):
            raise ValueError("a file's name that leads out of the repository")
        yield HubFile(
            name=name,
            size_bytes=size if isinstance(size, int) and size >= 0 else None,
            blob=blob if isinstance(blob, str) and _BLOB.fullmatch(blob) else None,
            sha256=sha256 if isinstance(sha256, str) and len(sha256) == 64 and _BLOB.fullmatch(sha256) else None,
        )


def _is_file_name(name: object) -> bool:
    if not isinstance(name, str) or printable(name) != name:
        return False
    return not name.startswith("/") and "\0" not in name and ".." not in name.split("/")


def _license(info: Any) -> str | None:
    """From the card (`license_name` is what stands behind `other`), else from the tag that the Hub makes of it."""
    card = info.card_data
    named = short_text(getattr(card, "license", None))
    if named == "other":
        named = short_text(getattr(card, "license_name", None)) or named
    tags = [tag for tag in info.tags or () if isinstance(tag, str) and tag.startswith("license:")]
    return named or (short_text(tags[0].removeprefix("license:")) if tags else None)
