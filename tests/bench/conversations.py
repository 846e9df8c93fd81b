"""Transcripts like those of Claude Code, made up: the same ones each time under one version of Python.

A developer's year: 40 projects, a few of them at a time. Lines have the client's fields (ids, folder, branch, usage).
What is said is a chain of words learnt from the docstrings of Python's standard library; what tools read and change is
its source code, of each project the same 40 files again and again, and as in the client's own files a result stands
twice in its line (for the model with line numbers, and as it was), the file before it with an edit. Thinking carries a
signature and a few results an image, both base64 of random bytes. Lengths of sessions are log-normal: half of them
under 47 kB, the longest 2.6 MB. zstd -3 on each file by itself brings all of it to 24 %.
"""

import json
import os
import random
import re
import sysconfig
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

FILES, TOTAL_BYTES = 2_193, 200_000_000
PROJECTS, FILES_OF_PROJECT = 40, 40
_SIGMA = 1.2
_HALF_A_LINE_BYTES = 5_000
"""Long ones are those that go over an end."""
_STARTS_AT, _BETWEEN_S = 1_750_000_000, 14_000
_LARGEST_SOURCE_BYTES = 60_000
_SKIPPED = {"site-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}
_DOCSTRING = re.compile(r':\n\s+r?"""(.{40,}?)"""', re.DOTALL)
_COMMANDS = ("pytest -q", "git diff --stat", "git log --oneline -20", "ls -la src", "make lint", "python -m build")

Json = dict[str, Any]


@dataclass(frozen=True)
class Library:
    """What there is to say and to read."""

    sources: Sequence[tuple[str, str]]
    """Names and texts."""
    starts: Sequence[str]
    """Words that begin a sentence."""
    followers: dict[str, list[str]]

    def prose(self, dice: random.Random, words: int) -> str:
        """Sentences and paragraphs that read like English until one thinks about them."""
        found = [word := dice.choice(self.starts)]
        while len(found) < words or not word.endswith("."):
            after = self.followers.get(word)
            word = dice.choice(after or self.starts)
            found.append(word if not word.endswith(".") or dice.random() < 0.8 else f"{word}\n\n")
            if len(found) > 2 * words + 20:
                break
        return " ".join(found)


def library() -> Library:
    """Read the standard library of this Python."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(path for path in root.rglob("*.py") if not _SKIPPED & set(path.parts))
    texts = [(str(path.relative_to(root)), path.read_text("utf-8", "replace")) for path in names]
    sources = [(name, text) for name, text in texts if 1_000 < len(text) < _LARGEST_SOURCE_BYTES]
    followers: dict[str, list[str]] = {}
    for docstring in (found for _, text in texts for found in _DOCSTRING.findall(text)):
        words = docstring.split()
        for word, after in pairwise(words):
            followers.setdefault(word, []).append(after)
    starts = [word for word in followers if word[:1].isupper() and word.isalpha()]
    return Library(sources, starts, followers)


class Conversation:
    """The lines of one session, one after the other."""

    def __init__(self, books: Library, session: int, project: int, at_s: float) -> None:
        self._books, self._dice, self._at_s = books, random.Random(session), at_s
        self._parent: str | None = None
        self.session_id = self._uuid()
        self.folder = f"/home/dev/projects/service-{project:02}"
        self._branch = self._dice.choice(("main", "main", "fix/tests", "feature/api"))
        self._files = random.Random(f"project {project}").sample(list(books.sources), FILES_OF_PROJECT)

    def lines(self) -> Iterator[bytes]:
        """Without an end."""
        first = True
        while True:
            yield self.prompt(60 if first else 25)
            first = False
            for _ in range(self._dice.randint(2, 14)):
                yield from self._step()
            yield self._assistant([{"type": "text", "text": self._prose(120)}], "end_turn")

    def prompt(self, words: int) -> bytes:
        """What the user says."""
        return self._line("user", {"role": "user", "content": self._prose(words)})

    def _step(self) -> Iterator[bytes]:
        """The model thinks, or says what it will do, then uses a tool."""
        if self._dice.random() < 0.3:
            signature = b64encode(self._dice.randbytes(self._dice.randint(200, 500))).decode()
            yield self._assistant([{"type": "thinking", "thinking": self._prose(60), "signature": signature}])
        elif self._dice.random() < 0.5:
            yield self._assistant([{"type": "text", "text": self._prose(25)}])
        name, given, shown, result = self._use()
        tool = f"toolu_01{self._letters(22)}"
        yield self._assistant([{"type": "tool_use", "id": tool, "name": name, "input": given}], "tool_use")
        content = [{"tool_use_id": tool, "type": "tool_result", "content": shown}]
        yield self._line("user", {"role": "user", "content": content}, toolUseResult=result)

    def _use(self) -> tuple[str, Json, Any, Any]:
        """Name, input, result for the model, result as the client keeps it."""
        name, text = self._dice.choice(self._files)
        path, rows = f"{self.folder}/{name}", text.splitlines()
        first = self._dice.randrange(max(1, len(rows) - 20))
        kind = self._dice.random()
        if kind < 0.40:
            return self._read(path, rows, first)
        if kind < 0.60:
            return self._edit(path, text, rows, first)
        if kind < 0.75:
            found = [f"{path}:{at + 1}:{row}" for at, row in enumerate(rows) if "return" in row or "def " in row]
            shown = "\n".join(found[:60])
            return "Grep", {"pattern": "return|def ", "path": path}, shown, {"mode": "content", "content": shown}
        if kind < 0.995:
            return self._command(rows, first)
        image = {"type": "base64", "media_type": "image/png", "data": b64encode(self._dice.randbytes(30_000)).decode()}
        return "Read", {"file_path": f"{self.folder}/shot.png"}, [{"type": "image", "source": image}], {"type": "image"}

    def _read(self, path: str, rows: Sequence[str], first: int) -> tuple[str, Json, Any, Any]:
        part = rows[first : first + self._dice.choice((30, 60, 120, 400))]
        shown = "\n".join(f"{first + at + 1:6}→{row}" for at, row in enumerate(part))
        file = {"filePath": path, "content": "\n".join(part), "numLines": len(part), "startLine": first + 1}
        return "Read", {"file_path": path, "offset": first + 1}, shown, {"type": "text", "file": file}

    def _edit(self, path: str, text: str, rows: Sequence[str], first: int) -> tuple[str, Json, Any, Any]:
        old = rows[first : first + self._dice.randint(2, 12)]
        new = [*old[:1], f"    # {self._prose(10)}", *old[1:]]
        given = {"file_path": path, "old_string": "\n".join(old), "new_string": "\n".join(new)}
        patch = [{"oldStart": first + 1, "lines": [*(f"-{row}" for row in old), *(f"+{row}" for row in new)]}]
        whole = text if self._dice.random() < 0.25 else None
        result = {"filePath": path, "originalFile": whole, "structuredPatch": patch, "userModified": False}
        return "Edit", given, f"The file {path} has been updated.", result

    def _command(self, rows: Sequence[str], first: int) -> tuple[str, Json, Any, Any]:
        command, seconds = self._dice.choice(_COMMANDS), self._dice.random() * 9
        shown = "\n".join(
            f"{self._letters(8)} {self._dice.randrange(9999):5} {row.strip()[:90]}" for row in rows[first : first + 25]
        )
        shown += f"\n{self._dice.randrange(300)} passed in {seconds:.2f}s"
        return "Bash", {"command": command, "description": self._prose(6)}, shown, {"stdout": shown, "stderr": ""}

    def _assistant(self, content: list[Json], stop: str | None = None) -> bytes:
        read = self._dice.randrange(150_000)
        usage = {"input_tokens": self._dice.randrange(9), "cache_read_input_tokens": read, "output_tokens": read % 997}
        message = {"model": "claude-sonnet-4-5-20250929", "id": f"msg_01{self._letters(22)}", "type": "message",
                   "role": "assistant", "content": content, "stop_reason": stop, "usage": usage}  # fmt: skip
        return self._line("assistant", message, requestId=f"req_011{self._letters(21)}")

    def _line(self, kind: str, message: Json, **more: object) -> bytes:
        self._at_s += self._dice.random() * 20
        parent, self._parent = self._parent, self._uuid()
        at = datetime.fromtimestamp(self._at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {"parentUuid": parent, "isSidechain": False, "userType": "external", "cwd": self.folder,
                  "sessionId": self.session_id, "version": "2.1.14", "gitBranch": self._branch, "type": kind,
                  "message": message, **more, "uuid": self._parent, "timestamp": at}  # fmt: skip
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def _prose(self, words: int) -> str:
        return self._books.prose(self._dice, self._dice.randint(words // 2, 2 * words))

    def _letters(self, count: int) -> str:
        return b64encode(self._dice.randbytes(count), b"AB").decode()[:count]

    def _uuid(self) -> str:
        return str(UUID(int=self._dice.getrandbits(128), version=4))


def make_conversations(
    projects: Path, books: Library, files: int = FILES, total_bytes: int = TOTAL_BYTES
) -> list[Path]:
    """Write the transcripts into the folders of their projects, as old as they say; the oldest first."""
    dice = random.Random("a year")
    lengths = [dice.lognormvariate(0, _SIGMA) for _ in range(files)]
    current, made = [0, 1, 2], []
    for number, length in enumerate(lengths):
        if dice.random() < 0.05:  # another project comes up
            current[dice.randrange(len(current))] = dice.randrange(PROJECTS)
        at_s = _STARTS_AT + number * _BETWEEN_S
        conversation = Conversation(books, number, dice.choice(current), at_s)
        made.append(write(projects, conversation, round(length / sum(lengths) * total_bytes)))
        os.utime(made[-1], (at_s, at_s))
    return made


def write(projects: Path, conversation: Conversation, size_bytes: int = 0, messages: int = 0) -> Path:
    """The beginning of a conversation: about so many bytes, or so many messages."""
    path = projects / conversation.folder.replace("/", "-") / f"{conversation.session_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    written, count = 0, 0
    with path.open("wb") as file:
        for line in conversation.lines():
            file.write(line)
            written, count = written + len(line), count + 1
            if count >= messages and written >= size_bytes - _HALF_A_LINE_BYTES:
                return path
    raise AssertionError("a conversation does not end by itself")
