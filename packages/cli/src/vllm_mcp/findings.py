"""What `doctor` says about one thing: a level, a sentence, and a next step. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing is wrong."""
    WARNING = "warning"
    """Something works worse than it could."""
    BLOCKING = "blocking"
    """Models cannot be loaded before this is put right."""


@dataclass(frozen=True)
class Finding:
    """One line of `doctor`."""

    check: str
    level: Level
    message: str
    next: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def note(check: str, message: str, next: str = "") -> Finding:
    return Finding(check, Level.NOTE, message, next)


def warning(check: str, message: str, next: str) -> Finding:
    return Finding(check, Level.WARNING, message, next)


def blocking(check: str, message: str, next: str) -> Finding:
    return Finding(check, Level.BLOCKING, message, next)
