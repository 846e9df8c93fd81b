"""Memory: that threads share where they take it from."""

import ctypes
import subprocess
import sys

import pytest

from vllm_state_persistence.allocator import ARENAS

_PROGRAM = """
import ctypes, sys, threading
from vllm_state_persistence.allocator import share_arenas

if sys.argv[1] == "shared":
    share_arenas()
took, go = threading.Barrier(9), threading.Event()

def take():
    kept = bytes(100_000)
    took.wait()
    go.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for one in threads:
    one.start()
took.wait()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
go.set()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="malloc is not glibc's")
def test_threads_take_their_memory_from_few_places() -> None:
    assert _arenas("shared") == ARENAS
    assert _arenas("as it is") > ARENAS  # else this finds nothing out


def _arenas(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
    return run.stdout.count("<heap nr=")
