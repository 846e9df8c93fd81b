"""What is kept of samples, and for how long. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from vllm_mcp_hub.core.monitoring.timeline import MINUTE, QUARTER, RAW, Finished, Tier

KEPT_RAW_S = 2 * 3600.0
KEPT_MINUTES_S = 48 * 3600.0


class HistoryTrouble(Exception):
    """The history cannot be read or written, and why. What runs is sampled all the same."""


class Kept(NamedTuple):
    """A point as it is written down."""

    subject: str
    finished: Finished


@dataclass(frozen=True, slots=True)
class Ages:
    """How long points are kept, by tier; seconds."""

    raw_s: float
    minutes_s: float
    quarters_s: float

    @classmethod
    def of_retention(cls, hours: int) -> "Ages":
        """METRICS_RETENTION_HOURS is the age of the coarsest; the finer ones go earlier, so that a week stays small."""
        whole_s = hours * 3600.0
        return cls(min(whole_s, KEPT_RAW_S), min(whole_s, KEPT_MINUTES_S), whole_s)

    def of(self, tier: Tier) -> float:
        return {RAW: self.raw_s, MINUTE: self.minutes_s, QUARTER: self.quarters_s}[tier]
