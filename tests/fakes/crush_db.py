"""A real database of Crush, by its schema of version 0.90: tables, keys and triggers (those count messages)."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

SCHEMA = """
CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL,
    is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')));
INSERT INTO goose_db_version (version_id, is_applied) VALUES (20260127000000, 1);
CREATE TABLE sessions (id TEXT PRIMARY KEY, parent_session_id TEXT, title TEXT NOT NULL,
    message_count INTEGER NOT NULL DEFAULT 0 CHECK (message_count >= 0),
    prompt_tokens INTEGER NOT NULL DEFAULT 0 CHECK (prompt_tokens >= 0),
    completion_tokens INTEGER NOT NULL DEFAULT 0 CHECK (completion_tokens >= 0),
    cost REAL NOT NULL DEFAULT 0.0 CHECK (cost >= 0.0),
    updated_at INTEGER NOT NULL, created_at INTEGER NOT NULL, summary_message_id TEXT, todos TEXT);
CREATE TABLE files (id TEXT PRIMARY KEY, session_id TEXT NOT NULL, path TEXT NOT NULL, content TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE, UNIQUE (path, session_id, version));
CREATE TABLE messages (id TEXT PRIMARY KEY, session_id TEXT NOT NULL, role TEXT NOT NULL,
    parts BLOB NOT NULL DEFAULT '[]', model TEXT, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    finished_at INTEGER, provider TEXT, is_summary_message INTEGER NOT NULL DEFAULT 0,
    FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE);
CREATE TABLE read_files (session_id TEXT NOT NULL, path TEXT NOT NULL, read_at INTEGER NOT NULL,
    FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE, PRIMARY KEY (path, session_id));
CREATE INDEX idx_messages_session_id ON messages (session_id);
CREATE INDEX idx_messages_created_at ON messages (created_at);
CREATE INDEX idx_files_session_id ON files (session_id);
CREATE INDEX idx_read_files_session_id ON read_files (session_id);
CREATE TRIGGER update_sessions_updated_at AFTER UPDATE ON sessions BEGIN
    UPDATE sessions SET updated_at = strftime('%s', 'now') WHERE id = new.id; END;
CREATE TRIGGER update_files_updated_at AFTER UPDATE ON files BEGIN
    UPDATE files SET updated_at = strftime('%s', 'now') WHERE id = new.id; END;
CREATE TRIGGER update_messages_updated_at AFTER UPDATE ON messages BEGIN
    UPDATE messages SET updated_at = strftime('%s', 'now') WHERE id = new.id; END;
CREATE TRIGGER update_session_message_count_on_insert AFTER INSERT ON messages BEGIN
    UPDATE sessions SET message_count = message_count + 1 WHERE id = new.session_id; END;
CREATE TRIGGER update_session_message_count_on_delete AFTER DELETE ON messages BEGIN
    UPDATE sessions SET message_count = message_count - 1 WHERE id = old.session_id; END;
"""
BEGAN = 1_790_000_000
"""Unix time of the first row; one second passes with each message."""


class CrushDatabase:
    """A project's database, and what Crush does to it."""

    def __init__(self, project: Path) -> None:
        self.path = project / ".crush" / "crush.db"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self.connect()) as link:
            link.executescript(f"PRAGMA journal_mode=WAL; {SCHEMA}")

    def connect(self) -> sqlite3.Connection:
        """A connection as Crush has it: write-ahead log, foreign keys on."""
        link = sqlite3.connect(self.path, isolation_level=None)
        link.execute("PRAGMA foreign_keys = ON")
        link.execute("PRAGMA synchronous = OFF")  # tests need not survive a power cut
        return link

    def run(self, sql: str, *given: object) -> list[tuple[object, ...]]:
        """One statement, committed."""
        with closing(self.connect()) as link:
            return link.execute(sql, given).fetchall()

    def start(self, session_id: str, title: str = "A talk", parent: str | None = None, at: int = BEGAN) -> None:
        """A new session."""
        self.run(
            "INSERT INTO sessions (id, parent_session_id, title, updated_at, created_at) VALUES (?, ?, ?, ?, ?)",
            *(session_id, parent, title, at, at),
        )

    def say(self, session_id: str, message_id: str, text: str, at: int, role: str = "user") -> None:
        """A new message."""
        parts = json.dumps([{"type": "text", "data": {"text": text}}])
        self.run(
            "INSERT INTO messages (id, session_id, role, parts, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
            *(message_id, session_id, role, parts, at, at),
        )

    def talk(self, session_id: str, texts: Sequence[str], parent: str | None = None) -> None:
        """A whole session: user and assistant in turns, one message each second."""
        self.start(session_id, parent=parent)
        for turn, text in enumerate(texts):
            role = "assistant" if turn % 2 else "user"
            self.say(session_id, f"{session_id}-m{turn}", text, BEGAN + turn, role)
        self.run("UPDATE sessions SET title = title WHERE id = ?", session_id)

    def keep_file(self, session_id: str, path: str, content: str, version: int, at: int) -> None:
        """A version of a file that Crush changed."""
        self.run(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(f"{session_id}-{path}-{version}", session_id, path, content, version, at, at),
        )

    def has_read(self, session_id: str, path: str, at: int) -> None:
        """Crush remembers that it read a file, and when last."""
        self.run("INSERT OR REPLACE INTO read_files VALUES (?, ?, ?)", session_id, path, at)
