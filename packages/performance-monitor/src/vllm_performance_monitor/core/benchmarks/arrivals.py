"""When requests are sent: as many at a time as users there are, or as they come, whoever is still waiting."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from vllm_mcp_protocol.model import Value
from vllm_performance_monitor.core.benchmarks.dice import Dice

_ARRIVALS_STREAM = 4


class ClosedLoop(Value):
    """So many users, each of whom asks again as soon as the answer is there."""

    mode: Literal["closed"] = "closed"
    concurrency: Annotated[int, Field(ge=1, le=10_000)]

    @property
    def at_once(self) -> int:
        return self.concurrency

    @property
    def shown(self) -> str:
        return str(self.concurrency)


class OpenLoop(Value):
    """Requests at a rate, however long the answers take: what a server meets whose users do not know of each other."""

    mode: Literal["open"] = "open"
    per_second: Annotated[float, Field(gt=0, le=100_000)]
    pattern: Literal["poisson", "constant"] = "poisson"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    at_once: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """More are not sent before one is answered; they count as late."""

    @property
    def shown(self) -> str:
        return f"{self.per_second:g}/s"


Load = Annotated[ClosedLoop | OpenLoop, Field(discriminator="mode")]


def due_times(load: OpenLoop) -> Iterator[float]:
    """Seconds from the start at which requests are due, for ever. The first is due at once."""
    dice = Dice(_ARRIVALS_STREAM, load.seed)
    due_s, number = 0.0, 0
    while True:
        yield due_s
        number += 1
        # A constant rate is multiplied, not added up: ten thousand roundings would move the last request.
        due_s = due_s + dice.exponential() / load.per_second if load.pattern == "poisson" else number / load.per_second
