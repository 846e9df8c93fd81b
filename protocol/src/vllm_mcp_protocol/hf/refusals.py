"""Why the Hugging Face Hub, or a mirror, did not give what it was asked for: the library's errors in our words."""

import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from vllm_mcp_protocol.errors import (
    BadInput,
    FileNotInRepository,
    GatedRepository,
    HuggingFaceRateLimited,
    HuggingFaceUnauthorized,
    HuggingFaceUnreachable,
    ModelNotFound,
    Offline,
    RevisionNotFound,
    SuiteError,
)
from vllm_mcp_protocol.redaction import redact_text
from vllm_mcp_protocol.units import format_seconds

MISSHAPEN = (KeyError, TypeError, AttributeError, RecursionError)
"""A mirror may answer anything; huggingface_hub trips over the parts that are missing or of another shape."""

_MOST_WORDS_CHARS = 300


@dataclass(frozen=True)
class Asked:
    """What was asked of which site, for words about a refusal."""

    model_id: str
    revision: str | None
    site: str
    has_token: bool

    @property
    def at(self) -> str:
        return f"{self.model_id} at revision {self.revision}" if self.revision else self.model_id

    @property
    def url(self) -> str:
        return f"{self.site}/{self.model_id}"


def failures() -> tuple[type[Exception], ...]:
    """What a request to the Hub may raise, beside `MISSHAPEN`, where an answer is read; `explained` knows all."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return (HTTPError, OSError, ValueError)


def explained(error: Exception, what: Asked) -> SuiteError:
    """Our error for one of huggingface_hub's (see `failures`)."""
    from huggingface_hub import errors as hf

    if isinstance(error, hf.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache either"; what kept it from being fetched is the cause
    match error:
        case hf.OfflineModeIsEnabled():
            return Offline(
                f"{what.at} cannot be looked up: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set.",
                model_id=what.model_id,
                suggestion="unset it for this server",
            )
        case hf.GatedRepoError():
            return _gated(what)
        case hf.RevisionNotFoundError():
            return _no_revision(what)
        case hf.HFValidationError():
            return _no_name(what, str(error))
        case hf.EntryNotFoundError():
            return _no_file(what)
        case hf.RepositoryNotFoundError():
            return _no_model(what)
        case hf.HfHubHTTPError():
            return _by_status(error, what)
        case hf.HTTPError() | OSError():  # type: ignore[attr-defined]
            return unreachable(what, _reason(error))
    return unreachable(what, "its answer is not the one of a Hugging Face Hub; check HF_ENDPOINT")


def _by_status(error: Any, what: Asked) -> SuiteError:
    status = int(error.response.status_code)
    words = redact_text(" ".join((error.server_message or "").split()))[:_MOST_WORDS_CHARS]
    if status == 429:
        return _rate_limited(what, error.response.headers)
    if status in (401, 403):
        return _unauthorized(what, status, words)
    if status in (404, 410):
        return _no_model(what)
    return unreachable(what, f"it answered {status}" + (f": {words}" if words else ""), status=status)


def _gated(what: Asked) -> GatedRepository:
    lacking = "the account of HF_TOKEN has no access yet" if what.has_token else "HF_TOKEN is not set"
    return GatedRepository(
        f"{what.model_id} is gated: its authors ask for agreement to their terms, and {lacking}.",
        model_id=what.model_id,
        url=what.url,
        variable="HF_TOKEN",
        suggestion=f"accept the terms at {what.url}"
        + ("" if what.has_token else ", then set HF_TOKEN for this server"),
    )


def _no_model(what: Asked) -> ModelNotFound:
    private = "" if what.has_token else "; a private one needs HF_TOKEN"
    return ModelNotFound(
        f"{what.at} is not at {what.site}{private}.",
        model_id=what.model_id,
        site=what.site,
        suggestion="correct the name (org/name)" + ("" if what.has_token else ", or set HF_TOKEN for this server"),
    )


def _no_revision(what: Asked) -> RevisionNotFound:
    return RevisionNotFound(
        f"{what.model_id} has no revision {what.revision or 'main'} at {what.site}.",
        model_id=what.model_id,
        revision=what.revision or "main",
        suggestion=f"leave revision out for main, or take a branch, tag or commit of {what.url}/commits/main",
    )


def _no_name(what: Asked, why: str) -> BadInput:
    return BadInput(
        f"model_id={what.model_id[:200]!r} is not a repository's name: {why.rstrip('.')[:_MOST_WORDS_CHARS]}.",
        parameter="model_id",
        value=what.model_id[:200],
        allowed="org/name",
        suggestion="correct the name (org/name)",
    )


def _no_file(what: Asked) -> FileNotInRepository:
    return FileNotInRepository(
        f"A file that {what.at} listed is not at {what.site} any more.",
        model_id=what.model_id,
        suggestion="call again: the repository was changed meanwhile",
    )


def _unauthorized(what: Asked, status: int, words: str) -> HuggingFaceUnauthorized:
    said = f" ({words})" if words else ""
    if not what.has_token:
        message, suggestion = "asks for a token, and HF_TOKEN is not set", "set HF_TOKEN for this server"
    elif status == 401:
        message, suggestion = "does not accept HF_TOKEN", f"make a new token at {what.site}/settings/tokens"
    else:
        message = "does not let the account of HF_TOKEN read it"
        suggestion = f"give the token the right to read this repository at {what.site}/settings/tokens"
    return HuggingFaceUnauthorized(
        f"{what.at}: {what.site} {message}{said}.",
        model_id=what.model_id,
        status=status,
        variable="HF_TOKEN",
        suggestion=suggestion,
    )


def _rate_limited(what: Asked, headers: Mapping[str, str]) -> HuggingFaceRateLimited:
    wait_s = retry_after_s(headers)
    when = f"in {format_seconds(wait_s)}" if wait_s is not None else "in a few minutes"
    return HuggingFaceRateLimited(
        f"{what.site} gets too many requests from here and answers {what.model_id} again {when}.",
        model_id=what.model_id,
        status=429,
        retry_after_s=wait_s,
        suggestion=f"call again {when}" + ("" if what.has_token else "; with HF_TOKEN more requests are allowed"),
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until the site wants to be asked again: `Retry-After` (seconds or a date), else `RateLimit`'s reset."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value[:9])
    if value:
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    reset = re.search(r";\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit", ""))
    return float(reset[1]) if reset else None


def unreachable(what: Asked, why: str, **details: Any) -> HuggingFaceUnreachable:
    """The error for a site that does not answer, or not as a Hub does."""
    return HuggingFaceUnreachable(
        f"{what.site} cannot be asked for {what.at}: {why}.",
        model_id=what.model_id,
        site=what.site,
        reason=why,
        suggestion="try again later; HF_ENDPOINT names another site, HF_HUB_OFFLINE=1 works from the cache alone",
        **details,
    )


def _reason(error: Exception) -> str:
    """A network's failure in a few words. `error` names addresses, so its own words are not repeated."""
    chain = list(_causes(error))
    if any(isinstance(cause, socket.gaierror) or "Name or service" in str(cause) for cause in chain):
        return "its name cannot be resolved (no network?)"
    if any("CERTIFICATE_VERIFY_FAILED" in str(cause) for cause in chain):
        return "its certificate is not trusted here (SSL_CERT_FILE names other authorities)"
    kind = type(error).__name__
    words = {
        "ConnectError": "no connection",
        "ConnectTimeout": "no connection in time",
        "ReadTimeout": "it went silent",
        "RemoteProtocolError": "the connection was cut",
        "ReadError": "the connection was cut",
        "ProxyError": "the proxy refuses",
    }
    return words.get(kind, f"{kind} (the connection failed)")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
