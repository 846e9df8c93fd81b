"""A real browser for tests: Chromium as Debian has it, driven by Playwright.

Playwright's own builds come from a server of their own; the distribution's one is signed, known to its administrators
and found by every mirror. It is installed only where the tests run as root, as in a container.
"""

import fcntl
import os
import shutil
import subprocess

import pytest

from tests.interop.node_programs import cache

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "chromium")
_LIMIT_S = 600
"""For 150 MB from a slow mirror."""


def chromium() -> str:
    """Its path. Skips the test where there is none and none can be installed."""
    return _found() or _installed() or pytest.skip(f"no Chromium: as root, {' '.join(_INSTALL)}")


def _found() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def _installed() -> str | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The list of packages may be older than the mirror, or not be there at all.
        for command in (_INSTALL, ("apt-get", "update"), _INSTALL):
            if _found() is None:
                subprocess.run(
                    command, check=False, capture_output=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
                )
    return _found()
