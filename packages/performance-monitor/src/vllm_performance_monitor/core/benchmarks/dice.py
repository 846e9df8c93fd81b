"""Numbers that look random and follow from a seed alone: the same in every version of Python, and without `random`."""

from math import log

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """One of 64-bit numbers for another, each bit depending on every bit (the finalizer of SplitMix64)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Dice:
    """A stream of numbers (SplitMix64). Streams of different `seeds` have nothing to do with each other."""

    def __init__(self, *seeds: int) -> None:
        state = 0
        for seed in seeds:
            state = mix((state + _GOLDEN + (seed & _MASK)) & _MASK)
        self._state = state

    def bits(self) -> int:
        """64 bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        return mix(self._state)

    def share(self) -> float:
        """Evenly from [0, 1)."""
        return (self.bits() >> 11) * 2.0**-53

    def below(self, limit: int) -> int:
        """Evenly from 0 … limit - 1."""
        return (self.bits() * limit) >> 64

    def exponential(self) -> float:
        """With mean 1: the time to the next of events that do not know of each other."""
        return -log(1.0 - self.share())
