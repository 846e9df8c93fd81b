"""The process of one download: `python -m vllm_auto_discovery.downloads.worker FOLDER`, in a session of its own.

It inherits the folder's lock, which is how others see that it lives, and finds the token in its environment alone.
SIGTERM ends it at once: what is on the disk by then is a part that the next one goes on with.
"""

import logging
import os
import signal
import sys
import time
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType

from vllm_auto_discovery.core.downloads.jobs import SPEED_WINDOW_S, Outcome, Progress, Spec, speed, stopped
from vllm_auto_discovery.downloads.fetch import Fetcher
from vllm_auto_discovery.downloads.folder import JobFolder
from vllm_mcp_protocol.errors import SuiteError
from vllm_mcp_protocol.redaction import redact_text
from vllm_mcp_protocol.settings import Settings

logger = logging.getLogger(__name__)

_REPORT_S = 0.5


class Job:
    """One run of a download."""

    def __init__(self, folder: JobFolder, spec: Spec, settings: Settings) -> None:
        self._folder = folder
        self._spec = spec
        self._fetcher = Fetcher(spec, settings)
        self._files_done = 0
        self._samples: deque[tuple[float, int]] = deque()

    def run(self) -> Outcome:
        """Fetch everything; how it ended."""
        try:
            self._fetch_all()
            self._fetcher.finish()
        except SuiteError as error:
            return self.outcome("failed", error)
        except Exception as error:
            logger.exception("the download failed in a way that was not foreseen")
            words = redact_text(f"{type(error).__name__}: {error}")[:300]
            return self.outcome("failed", stopped(self._spec, self._fetcher.bytes_done, words))
        return self.outcome("complete")

    def _fetch_all(self) -> None:
        """Small files first: they say what the model is while the large ones come."""
        pool = ThreadPoolExecutor(self._spec.limits.at_once)
        order = sorted(self._spec.files, key=lambda file: (file.sha256 is not None, file.name))
        running = {pool.submit(self._fetcher.fetch, file) for file in order}
        while running:
            done, running = wait(running, timeout=_REPORT_S, return_when=FIRST_EXCEPTION)
            self._report(done)
            for future in done:
                future.result()

    def _report(self, done: set[Future[None]]) -> None:
        self._files_done += sum(future.exception() is None for future in done)
        now_s, bytes_done = time.monotonic(), self._fetcher.bytes_done
        self._samples.append((now_s, bytes_done))
        while now_s - self._samples[0][0] > SPEED_WINDOW_S:
            self._samples.popleft()
        self._folder.write_progress(
            Progress(
                bytes_done=bytes_done,
                files_done=self._files_done,
                current=tuple(sorted(self._fetcher.current.copy())),
                bytes_per_second=speed(tuple(self._samples)),
            )
        )

    def outcome(self, status: str, error: SuiteError | None = None) -> Outcome:
        """As it is now, ended with `status`."""
        return Outcome.model_validate(
            {
                "status": status,
                "bytes_done": self._fetcher.bytes_done,
                "path": str(self._fetcher.snapshot) if status == "complete" else None,
                "error": error.info if error is not None else None,
                "ended_s": time.time(),
            }
        )


def main(path: str) -> None:
    """Never returns: threads that still wait for the network would keep the process for as long."""
    logging.basicConfig(level=logging.WARNING)
    folder = JobFolder(Path(path))
    spec = folder.spec()
    if spec is None:
        raise SystemExit(f"{path}: no spec.json that can be read")
    job = Job(folder, spec, Settings.from_environment(os.environ))

    def stop(_number: int, _frame: FrameType | None) -> None:
        _end(folder, job.outcome("cancelled"))

    signal.signal(signal.SIGTERM, stop)
    folder.record_self()
    _end(folder, job.run())


def _end(folder: JobFolder, outcome: Outcome) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder.write_outcome(outcome)
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
