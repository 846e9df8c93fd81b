"""Where the suite keeps its files, and the rule that confines paths that come from tools."""

import os
import pwd
import shlex
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from vllm_mcp_protocol.errors import PathNotAllowed, StateDirRefused
from vllm_mcp_protocol.settings import Settings

SOCKET_PATH_LIMIT_BYTES = 107
"""Linux: `sun_path` is 108 bytes with its terminating zero."""

_LONGEST_SOCKET = "engines/e99999/api.sock"
_HUBS_FILES = {
    "engines",
    "hub.lock",
    "hub.starting",
    "hub.sock",
    "hub.toml",
    "models.json",
    "starts.jsonl",
    "audit.jsonl",
    "metadata",
    "downloads",
    "client-configs",
    "state.db",
    "state.key",
    "benchmarks",
}
_NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "glusterfs",
    "lustre",
    "beegfs",
    "9p",
    "afs",
    "fuse.sshfs",
}
"""File systems on which flock, unix sockets and shared memory are not this host's alone."""


def user_home() -> Path:
    """The home folder of the password database: clients pass different HOMEs, and two answers would be two hubs."""
    return Path(pwd.getpwuid(os.getuid()).pw_dir)


def state_dir(settings: Settings) -> Path:
    """The hub's state folder: `VLLM_HUB_DIR`, else one per user and host. Never from XDG variables."""
    if settings.vllm_hub_dir:
        return Path(settings.vllm_hub_dir).expanduser().absolute()
    return user_home() / ".local/state/vllm-hub" / socket.gethostname()


def managed_engine_root(settings: Settings) -> Path:
    """Folder of the engine environments that `vllm-mcp engine install` builds."""
    if settings.vllm_mcp_engine_dir:
        return Path(settings.vllm_mcp_engine_dir).expanduser().absolute()
    return user_home() / ".local/share/vllm-mcp/engine"


def socket_path_fits(folder: Path) -> bool:
    """Whether every socket of a state folder at `folder` would have a path that the kernel accepts."""
    return len(os.fsencode(folder / _LONGEST_SOCKET)) <= SOCKET_PATH_LIMIT_BYTES


def hub_runs(folder: Path) -> bool:
    """Whether a hub listens in `folder`; asks the socket, starts nothing and writes nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(folder / "hub.sock"))
        except OSError:
            return False
    return True


def prepare_state_dir(folder: Path) -> Path:
    """Make `folder` (mode 0700) and check that locks and sockets work in it.

    One that others may enter is closed when only a hub's files are in it, and else refused: it may be /tmp. Raises
    StateDirRefused with the reason: path too long, not ours, open, a network file system, not writable.
    """
    if not socket_path_fits(folder):
        raise _refused(folder, f"its sockets' paths would exceed {SOCKET_PATH_LIMIT_BYTES} bytes")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owner(folder)
        (folder / "engines").mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise _refused(folder, f"{error.strerror or error}") from error
    if kind := network_file_system(folder):
        raise _refused(folder, f"it is on a network file system ({kind}), where locks do not name one host")
    return folder


def network_file_system(folder: Path) -> str | None:
    """The file system of `folder` when hosts share it, so that locks and shared memory do not; None for a local one."""
    kind = file_system_of(folder)
    return kind if kind in _NETWORK_FILE_SYSTEMS else None


def _check_owner(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise _refused(folder, f"it belongs to user {status.st_uid}, not to {os.getuid()}")
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077:
        return
    if mode & stat.S_ISVTX or not _is_hubs(folder):
        raise _refused(
            folder,
            f"others may enter it (mode {mode:04o}), and it holds more than a hub's files",
            "set VLLM_HUB_DIR to a folder of the hub's own, for example /var/tmp/vllm-hub; if this one is meant, "
            f"close it first: chmod 700 {shlex.quote(str(folder))}",
        )
    folder.chmod(0o700)


def _is_hubs(folder: Path) -> bool:
    """Whether a hub of ours has run in it, or nothing else has written there."""
    if all(entry.name in _HUBS_FILES for entry in folder.iterdir()):
        return True
    try:
        lock = (folder / "hub.lock").lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(lock.st_mode) and lock.st_uid == os.getuid()


_ELSEWHERE = "set VLLM_HUB_DIR to a short path on a local disk, for example /var/tmp/vllm-hub"


def _refused(folder: Path, why: str, suggestion: str = _ELSEWHERE) -> StateDirRefused:
    return StateDirRefused(f"The state folder {folder} cannot be used: {why}.", path=str(folder), suggestion=suggestion)


def file_system_of(path: Path) -> str:
    """Type of the file system that `path` is on, from /proc/self/mountinfo; "" when it cannot be told."""
    target, best = str(path.resolve()), ("", "")
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mount = fields.split()[4].replace("\\040", " ")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, rest.split()[0])
    return best[1]


def model_cache_dirs(settings: Settings) -> tuple[Path, ...]:
    """Folders that may hold models, the one that vLLM downloads to first."""
    home = Path(settings.hf_home).expanduser() if settings.hf_home else user_home() / ".cache/huggingface"
    hub = Path(settings.hf_hub_cache).expanduser() if settings.hf_hub_cache else home / "hub"
    own = (Path(settings.vllm_model_cache_dir).expanduser(),) if settings.vllm_model_cache_dir else ()
    return tuple(dict.fromkeys((*own, hub)))


def _followed(path: str, parameter: str) -> Path:
    """Raises PathNotAllowed for a user who does not exist, links in a circle, half characters, too long names."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise PathNotAllowed(
            f"{parameter}={path[:200]!r} leads nowhere: {_reason(error)}.",
            parameter=parameter,
            value=_shown(path),
            suggestion="Give the absolute path of a folder that exists.",
        ) from error


def _shown(path: str | Path) -> str:
    """A name need not be UTF-8, an answer must."""
    return str(path).encode(errors="backslashreplace").decode()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not text that a path can hold"
    return (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")


MODEL_FOLDERS = "move the files into one of these folders, or add theirs as VLLM_MODEL_CACHE_DIR"
"""What to do where a model lies elsewhere."""


def confine(path: str, allowed: Iterable[Path], *, parameter: str, suggestion: str = MODEL_FOLDERS) -> Path:
    """The real path of `path`, when it lies in one of the `allowed` folders after every link is followed.

    Raises PathNotAllowed naming the parameter, the path and the folders, with `suggestion`.
    """
    folders = [folder.resolve() for folder in allowed]
    if "\0" in path:
        raise PathNotAllowed(f"{parameter} contains a NUL byte.", parameter=parameter)
    real = _followed(path, parameter)
    if any(real.is_relative_to(folder) for folder in folders):
        return real
    raise PathNotAllowed(
        f"{parameter}={path!r} leads to {_shown(real)}, outside of the allowed folders: "
        f"{', '.join(map(str, folders))}.",
        parameter=parameter,
        value=_shown(path),
        allowed=[str(folder) for folder in folders],
        suggestion=suggestion,
    )
