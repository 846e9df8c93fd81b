"""The suite's one error tree. Each class is a stable code that programs may rely on.

    SuiteError
    ├── BadInput               INVALID_ARGUMENT · UNKNOWN_ARGUMENT · CONFLICTING_FLAGS · FLAG_NOT_ALLOWED
    │                          FLAG_NOT_SUPPORTED · PATH_NOT_ALLOWED · INVALID_SETTING · CLIENT_CONFIG_INVALID
    ├── NotThere               TOOL_NOT_FOUND · MODEL_NOT_FOUND · REVISION_NOT_FOUND · FILE_NOT_FOUND
    │                          MODEL_NOT_LOADED · METRIC_NOT_FOUND · ENGINE_NOT_FOUND · LORA_NOT_FOUND
    │                          SESSION_NOT_FOUND · STATE_NOT_FOUND
    ├── NoRoom                 GPU_MEMORY_INSUFFICIENT · GPU_MEMORY_HELD · NO_SUCH_GPU · TOO_FEW_DEVICES
    │                          DISK_FULL · PORT_IN_USE
    ├── NotNow                 MODEL_BUSY · DEVICE_SETTLING · REMOTE_ENGINE · NOT_SUPPORTED · FORCE_REQUIRED
    │                          FILES_IN_USE · OFFLINE
    ├── Refused                TOOL_NOT_ALLOWED · UNAUTHORIZED
    ├── EngineFailed           ENGINE_OUT_OF_MEMORY · … (see `EngineFailed`) · ENGINE_START_FAILED
    ├── EngineRequestFailed    ENGINE_REQUEST_FAILED · ENGINE_UNREACHABLE · ENGINE_TIMEOUT
    ├── HuggingFaceFailed      HF_UNREACHABLE · HF_UNAUTHORIZED · HF_RATE_LIMITED · DOWNLOAD_FAILED
    ├── StateTrouble           KEY_MISSING · KEY_WRONG · STORE_DAMAGED · STORE_TOO_NEW · STORE_BUSY · SOURCE_UNREADABLE
    └── HubTrouble             HUB_UNAVAILABLE · HUB_TOO_NEW · HUB_TOO_OLD · STATE_DIR_REFUSED · VLLM_NOT_INSTALLED

A message names the thing, the value, the limit and who holds it; `suggestion` is a next step that works.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field


class ErrorInfo(BaseModel):
    """An error as it travels: between hub and servers, and to MCP clients."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    details: dict[str, Any] = Field(default_factory=dict)

    @property
    def suggestion(self) -> str:
        """The next step, or an empty string."""
        return str(self.details.get("suggestion", ""))


class SuiteError(Exception):
    """A failure that the suite foresaw. Raise a subclass; `details` are JSON values."""

    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, message: str, *, suggestion: str = "", **details: Any) -> None:
        super().__init__(message)
        if suggestion:
            details["suggestion"] = suggestion
        self.info = ErrorInfo(code=self.code, message=message, details=details)

    def with_details(self, message: str | None = None, **details: Any) -> Self:
        """The same error with more (or other) details, and with another message where one is given."""
        text = self.info.message if message is None else message
        error = type(self)(text)
        error.info = ErrorInfo(code=self.info.code, message=text, details={**self.info.details, **details})
        return error

    def __str__(self) -> str:
        suggestion = self.info.suggestion
        return f"{self.info.message} Next: {suggestion}" if suggestion else self.info.message


class BadInput(SuiteError):
    """The caller gave something that cannot be used; calling again with it can never work."""

    code = "INVALID_ARGUMENT"


class UnknownArgument(BadInput):
    code = "UNKNOWN_ARGUMENT"


class ConflictingFlags(BadInput):
    code = "CONFLICTING_FLAGS"


class FlagNotAllowed(BadInput):
    """An `extra_args` flag that could load code, open a port or read a file that the user did not name."""

    code = "FLAG_NOT_ALLOWED"


class FlagNotSupported(BadInput):
    """A flag that the installed vLLM does not have (renamed, removed, or misspelt)."""

    code = "FLAG_NOT_SUPPORTED"


class PathNotAllowed(BadInput):
    code = "PATH_NOT_ALLOWED"


class SettingError(BadInput):
    """An environment variable or a line of `hub.toml` whose value cannot be read."""

    code = "INVALID_SETTING"


class ClientConfigInvalid(BadInput):
    """A client's configuration file that cannot be read; it is left as it is."""

    code = "CLIENT_CONFIG_INVALID"


class NotThere(SuiteError):
    """The thing that was named does not exist."""

    code = "NOT_FOUND"


class ToolNotFound(NotThere):
    code = "TOOL_NOT_FOUND"


class ModelNotFound(NotThere):
    code = "MODEL_NOT_FOUND"


class RevisionNotFound(NotThere):
    """The repository exists, that branch, tag or commit of it does not."""

    code = "REVISION_NOT_FOUND"


class FileNotInRepository(NotThere):
    code = "FILE_NOT_FOUND"


class ModelNotLoaded(NotThere):
    code = "MODEL_NOT_LOADED"


class MetricNotFound(NotThere):
    code = "METRIC_NOT_FOUND"


class EngineNotFound(NotThere):
    code = "ENGINE_NOT_FOUND"


class LoraNotFound(NotThere):
    code = "LORA_NOT_FOUND"


class SessionNotFound(NotThere):
    """No client has such a session here, and no snapshot is of one."""

    code = "SESSION_NOT_FOUND"


class StateNotFound(NotThere):
    code = "STATE_NOT_FOUND"


class NoRoom(SuiteError):
    """Something finite is used up; the message says by whom."""

    code = "NO_ROOM"


class GpuMemoryInsufficient(NoRoom):
    """The memory that other engines were promised leaves too little."""

    code = "GPU_MEMORY_INSUFFICIENT"


class GpuMemoryHeld(NoRoom):
    """Processes that are not ours hold the memory."""

    code = "GPU_MEMORY_HELD"


class NoSuchGpu(NoRoom):
    code = "NO_SUCH_GPU"


class TooFewDevices(NoRoom):
    """Tensor × pipeline parallel size asks for more devices than there are."""

    code = "TOO_FEW_DEVICES"


class DiskFull(NoRoom):
    code = "DISK_FULL"


class PortInUse(NoRoom):
    code = "PORT_IN_USE"


class NotNow(SuiteError):
    """Well-formed, but the state of things forbids it."""

    code = "NOT_NOW"


class ModelBusy(NotNow):
    code = "MODEL_BUSY"


class DeviceSettling(NotNow):
    """Another engine starts, stops, sleeps or wakes on the device, and its memory moves."""

    code = "DEVICE_SETTLING"


class RemoteEngine(NotNow):
    """The engine is attached, not owned; its base model cannot be loaded or unloaded from here."""

    code = "REMOTE_ENGINE"


class NotSupported(NotNow):
    """This engine, device or vLLM cannot do it."""

    code = "NOT_SUPPORTED"


class ForceRequired(NotNow):
    """Destructive; shown, not done. Ask the user, then call again with force=true."""

    code = "FORCE_REQUIRED"


class FilesInUse(NotNow):
    """An engine or a download uses the files that would be deleted."""

    code = "FILES_IN_USE"


class Offline(NotNow):
    """It needs the Hugging Face Hub, and HF_HUB_OFFLINE forbids that."""

    code = "OFFLINE"


class Refused(SuiteError):
    code = "REFUSED"


class ToolNotAllowed(Refused):
    """`VLLM_MCP_READ_ONLY`, `VLLM_MCP_ALLOWED_TOOLS` or `VLLM_MCP_DENIED_TOOLS` forbids the tool."""

    code = "TOOL_NOT_ALLOWED"


class Unauthorized(Refused):
    code = "UNAUTHORIZED"


class EngineFailed(SuiteError):
    """An engine did not start, or died. The hub reads the cause from vLLM's own log."""

    code = "ENGINE_START_FAILED"


class EngineOutOfMemory(EngineFailed):
    code = "ENGINE_OUT_OF_MEMORY"


class ContextTooLong(EngineFailed):
    code = "CONTEXT_TOO_LONG"


class UnsupportedArchitecture(EngineFailed):
    code = "UNSUPPORTED_ARCHITECTURE"


class BadQuantization(EngineFailed):
    code = "BAD_QUANTIZATION"


class GatedRepository(EngineFailed):
    code = "GATED_REPOSITORY"


class BadCheckpoint(EngineFailed):
    """Weights, tokenizer or config are missing, cut short or unreadable."""

    code = "BAD_CHECKPOINT"


class ParallelSizeInvalid(EngineFailed):
    """The tensor-parallel size does not divide the attention heads."""

    code = "PARALLEL_SIZE_INVALID"


class EngineDied(EngineFailed):
    """The engine was ready and then ended without having been asked to."""

    code = "ENGINE_DIED"


class SleepFailed(EngineFailed):
    """The engine did not fall asleep, or did not wake, although it answered."""

    code = "ENGINE_SLEEP_FAILED"


class StartTimedOut(EngineFailed):
    code = "ENGINE_START_TIMED_OUT"


class EngineRequestFailed(SuiteError):
    """The engine answered a request with an error; its words are in the message."""

    code = "ENGINE_REQUEST_FAILED"


class EngineUnreachable(EngineRequestFailed):
    code = "ENGINE_UNREACHABLE"


class EngineTimeout(EngineRequestFailed):
    code = "ENGINE_TIMEOUT"


class HuggingFaceFailed(SuiteError):
    """The Hugging Face Hub, or a mirror of it, did not give what it was asked for."""

    code = "HF_FAILED"


class HuggingFaceUnreachable(HuggingFaceFailed):
    """No network, no such host, a time-out, or an answer of 5xx."""

    code = "HF_UNREACHABLE"


class HuggingFaceUnauthorized(HuggingFaceFailed):
    """The token is wrong, or missing for a private repository (401, 403)."""

    code = "HF_UNAUTHORIZED"


class HuggingFaceRateLimited(HuggingFaceFailed):
    code = "HF_RATE_LIMITED"


class DownloadFailed(HuggingFaceFailed):
    """A download ended before it was complete; what was fetched is kept."""

    code = "DOWNLOAD_FAILED"


class StateTrouble(SuiteError):
    """The store of snapshots, its key, or a client's own files."""

    code = "STATE_TROUBLE"


class KeyMissing(StateTrouble):
    """The store is encrypted, and no key was given or found."""

    code = "KEY_MISSING"


class KeyWrong(StateTrouble):
    """A key is there, and it is not the store's."""

    code = "KEY_WRONG"


class StoreDamaged(StateTrouble):
    """What is read back is not what was written."""

    code = "STORE_DAMAGED"


class StoreTooNew(StateTrouble):
    """A later version wrote the store."""

    code = "STORE_TOO_NEW"


class StoreBusy(StateTrouble):
    """Another process holds the store for longer than a save takes."""

    code = "STORE_BUSY"


class SourceUnreadable(StateTrouble):
    """A client's own files are damaged, or of a version that is not known here."""

    code = "SOURCE_UNREADABLE"


class HubTrouble(SuiteError):
    code = "HUB_TROUBLE"


class HubUnavailable(HubTrouble):
    code = "HUB_UNAVAILABLE"


class HubTooNew(HubTrouble):
    """The running hub speaks a newer protocol than this program: upgrade this program."""

    code = "HUB_TOO_NEW"


class HubTooOld(HubTrouble):
    """The running hub speaks an older protocol and would not retire."""

    code = "HUB_TOO_OLD"


class StateDirRefused(HubTrouble):
    code = "STATE_DIR_REFUSED"


class VllmNotInstalled(HubTrouble):
    code = "VLLM_NOT_INSTALLED"


def error_classes(root: type[SuiteError] = SuiteError) -> Iterator[type[SuiteError]]:
    """`root` and everything below it."""
    yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


def error_from_info(info: ErrorInfo) -> SuiteError:
    """The exception of an error that came over the wire; an unknown code stays readable as `SuiteError`."""
    by_code = {cls.code: cls for cls in error_classes()}
    error = by_code.get(info.code, SuiteError)(info.message)
    error.info = info
    return error
