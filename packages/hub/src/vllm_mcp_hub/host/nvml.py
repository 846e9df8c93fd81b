"""Sessions with the NVIDIA driver through nvidia-ml-py, for everybody in the hub who asks it something.

The driver's library is loaded once per process, and after an upgrade of the driver the loaded one is refused by the
new kernel module for good. So a session that is refused for that reason, while nobody else has one, unloads the
library and tries once more with what is on disk now.
"""

import _ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

logger = logging.getLogger(__name__)

VERSION_MISMATCH = 18
"""NVML_ERROR_LIB_RM_VERSION_MISMATCH."""

_lock = threading.Lock()
_sessions = 0
"""Open ones, and those that are being opened. The lock is never held while the driver is asked: it may hang."""


class NoDriver(Exception):
    """There is no driver to talk to, or it does not answer now; says which."""


def open_session() -> Any:
    """The module pynvml with a driver that answers. Close it with `close_session`. Raises NoDriver."""
    try:
        import pynvml  # only where it is needed: servers start without it
    except ImportError as error:
        raise NoDriver("nvidia-ml-py is not installed") from error
    _count(1)
    try:
        try:
            _initialise(pynvml)
        except pynvml.NVMLError as error:
            if error.value != VERSION_MISMATCH or not _unload(pynvml):
                raise
            _initialise(pynvml)
    except pynvml.NVMLError as error:
        _count(-1)
        raise NoDriver(str(error)) from error
    except BaseException:
        _count(-1)
        raise
    return pynvml


def close_session(nvml: Any) -> None:
    """The end of what `open_session` gave."""
    with suppress(nvml.NVMLError):  # a driver that is gone has nothing to close
        nvml.nvmlShutdown()
    _count(-1)


@contextmanager
def session() -> Iterator[Any]:
    """A session for one question; None without a driver."""
    try:
        nvml = open_session()
    except NoDriver as error:
        logger.debug("no GPU: %s", error)
        yield None
        return
    try:
        yield nvml
    finally:
        close_session(nvml)


def _initialise(pynvml: Any) -> None:
    pynvml.nvmlInit()
    try:
        pynvml.nvmlDeviceGetCount()  # a driver that is being upgraded answers the first and not the second
    except pynvml.NVMLError:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
        raise


def _count(change: int) -> None:
    global _sessions
    with _lock:
        _sessions += change


def _unload(pynvml: Any) -> bool:
    """Forget the driver's library, so that the next session loads what is on disk; False while it is in use."""
    library = getattr(pynvml, "nvmlLib", None)
    with _lock:
        if _sessions > 1 or library is None:
            return False
        # The binding has no way to do this; these two are all it remembers of the library.
        pynvml.nvmlLib = None
        getattr(pynvml, "_nvmlGetFunctionPointer_cache", {}).clear()
        _ctypes.dlclose(library._handle)
    logger.info("the NVIDIA driver was replaced: its library is loaded anew")
    return True
