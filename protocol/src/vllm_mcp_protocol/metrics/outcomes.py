"""How the requests to an engine ended. Pure.

The engine counts those that reached it by their reason, of which `abort` is the client's doing: chat users stop answers
and close windows. What its server could not serve (overloaded, or the engine died) shows in the answers of 5xx alone,
what it would not serve (a wrong request, a wrong key) in those of 4xx.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Outcomes(NamedTuple):
    """Numbers of requests in some stretch of time."""

    total: float
    """Those that ended in the engine, and those that failed before they reached it; not those of 4xx."""
    aborted: float
    """Their clients went away."""
    errors: float
    """Those that the engine gave up."""
    server_errors: float
    """Answers of 5xx."""
    refused: float
    """Answers of 4xx."""

    @property
    def failed(self) -> float:
        """An error of the engine is mostly answered with 500, and is no two: at least this many."""
        return max(self.errors, self.server_errors)


def outcomes(counters: Mapping[str, float]) -> Outcomes | None:
    """Of the increases of counters by canonical name; None where requests were not counted."""
    server_errors, refused = (_of_class(counters, status) for status in "54")
    ended = counters.get("request_success")
    if ended is None and not server_errors:
        return None
    errors = counters.get("request_success:error", 0.0)
    return Outcomes(
        total=(ended or 0.0) + max(0.0, server_errors - errors),
        aborted=counters.get("request_success:abort", 0.0),
        errors=errors,
        server_errors=server_errors,
        refused=refused,
    )


def _of_class(counters: Mapping[str, float], status: str) -> float:
    """Of 5xx, 500, 503, …"""
    return sum(amount for name, amount in counters.items() if name.startswith(f"http_requests:{status}"))
