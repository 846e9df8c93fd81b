"""A reader of stores and exports that knows nothing but docs/state-format.md: the page must be enough."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, scrypt
from pathlib import Path
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Record = tuple[str, str, str, bytes]
"""Kind, key, role, content."""


class Bytes:
    """Takes what the page says from the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        assert len(part) == count
        self.at += count
        return part

    def little(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def big(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def number(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def texts(self, count: int) -> list[str]:
        lengths = [self.little(4) for _ in range(count)]
        return [self.take(length).decode("utf-8", "surrogatepass") for length in lengths]

    def reference(self) -> tuple[bytes, bool]:
        value, _, pieces = self.take(20), self.little(8), self.take(1)
        return value, pieces == b"\1"


def unwrapped(wrapped: bytes, passphrase: bytes) -> bytes:
    """A data key."""
    head = Bytes(wrapped)
    assert (head.take(3), head.big(1), head.big(1)) == (b"VSK", 1, 1)
    key_id, (log_n, r, p), salt, nonce = head.take(8), head.take(3), head.take(16), head.take(12)
    key = scrypt(passphrase, salt=salt, n=1 << log_n, r=r, p=p, maxmem=1 << 30, dklen=32)
    assert blake2b(key=key, digest_size=8, person=b"vllm-state-keyid").digest() == key_id
    wraps = blake2b(key=key, digest_size=32, person=b"vllm-state-wrap").digest()
    return AESGCM(wraps).decrypt(nonce, wrapped[44:], wrapped[:32])


@dataclass
class Envelopes:
    """Opens what was sealed in a store, or an export, of this name."""

    name: bytes
    keys: dict[int, bytes]

    def derived(self, number: int, purpose: bytes) -> bytes:
        return HKDF(SHA256(), 32, self.name, b"vllm-state " + purpose).derive(self.keys[number])

    def opened(self, what: str, envelope: bytes) -> bytes:
        context = f"{what} of store {self.name.hex()}".encode()
        head = Bytes(envelope)
        assert (head.take(3), head.big(1)) == (b"VSE", 1)
        if head.big(1) == 0:
            assert head.big(4) == 0
            checksum, content = head.take(16), envelope[25:]
            public = b"vllm-state: this finds damage and stops no forger"
            told = envelope[:9] + len(context).to_bytes(8, "big") + context + content
            assert blake2b(told, digest_size=16, key=public).digest() == checksum
            return content
        key = self.derived(head.big(4), b"seal")
        return AESGCM(key).decrypt(head.take(12), envelope[21:], envelope[:9] + context)


def expanded(block: bytes, dictionaries: dict[int, bytes]) -> bytes:
    head = Bytes(block)
    method, dictionary, length = head.big(1), head.big(4), head.big(8)
    content = block[13:]
    if method == 1:
        known = zstandard.ZstdCompressionDict(dictionaries[dictionary]) if dictionary else None
        content = zstandard.ZstdDecompressor(dict_data=known).decompress(content)
    assert len(content) == length
    return content


class Store:
    """A store, locked with a passphrase."""

    def __init__(self, path: Path, passphrase: bytes) -> None:
        self.database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        assert self.row("PRAGMA application_id") == (0x76535031,)
        assert self.row("PRAGMA user_version") == (1,)
        (name,) = self.row("SELECT value FROM meta WHERE name = 'store'")
        keys = {n: unwrapped(wrapped, passphrase) for n, wrapped in self.rows("SELECT number, wrapped FROM data_keys")}
        self.envelopes = Envelopes(name, keys)
        self.id_key = self.envelopes.derived(min(keys), b"ids")
        self.dictionaries: dict[int, bytes] = {}
        for number, sealed in self.rows("SELECT number, sealed FROM dictionaries"):
            self.dictionaries[number] = expanded(self.envelopes.opened(f"dictionary {number}", sealed), {})

    def rows(self, query: str) -> list[Any]:
        return self.database.execute(query).fetchall()

    def row(self, query: str) -> Any:
        return self.database.execute(query).fetchone()

    def id_of(self, value: bytes) -> bytes:
        return blake2b(value, digest_size=20, key=self.id_key, person=b"vllm-state-value").digest()

    def name_id(self, *texts: str) -> bytes:
        return self.id_of("\0".join(["", "name", *(f"{len(text)}:{text}" for text in texts)]).encode())

    @cached_property
    def values(self) -> dict[bytes, bytes]:
        """All of them; each where the index says."""
        found: dict[bytes, bytes] = {}
        for number, entries, raw_bytes, sealed in self.rows("SELECT number, entries, raw_bytes, sealed FROM packs"):
            content = Bytes(expanded(self.envelopes.opened(f"pack {number}", sealed), self.dictionaries))
            count = content.big(4)
            ids = [content.take(20) for _ in range(count)]
            lengths = [content.big(4) for _ in range(count)]
            assert (count, sum(lengths)) == (entries, raw_bytes)
            for one, length in zip(ids, lengths, strict=True):
                found[one] = content.take(length)
                assert one == self.id_of(found[one])
            assert content.at == len(content.data)
        assert {value for (value,) in self.rows("SELECT id FROM vals")} <= found.keys()
        return found

    def content(self, value: bytes, pieces: bool) -> bytes:
        if not pieces:
            return self.values[value]
        listing, parts = Bytes(self.values[value]), []
        while listing.at < len(listing.data):
            piece, length = listing.take(20), listing.little(4)
            parts.append(self.values[piece])
            assert len(parts[-1]) == length
        return b"".join(parts)

    def snapshots(self) -> Iterator[tuple[dict[str, Any], list[bytes | None], list[Record]]]:
        """Facts; header, engines and metrics; records."""
        rows = self.rows("SELECT number, state_id, session, mark, at, dropped, sealed FROM states ORDER BY number")
        names, count = 0, 0
        for number, state_id, session, mark, at, dropped, sealed in rows:
            data = Bytes(self.envelopes.opened(f"state {number}", sealed))
            assert data.little(1) == 1
            facts: dict[str, Any] = json.loads(data.take(data.little(4)))
            assert (facts["state_id"], facts["at"]) == (f"s-{state_id.hex()}", at)
            assert session == self.name_id("session", facts["source"], facts["session_id"])
            assert mark == self.name_id("mark", session.hex(), facts["marker"])
            names ^= int.from_bytes(self.name_id("state", state_id.hex(), "dropped" if dropped else ""), "big")
            count += 1
            if not dropped:
                yield facts, *self.manifest(data)
        (census,) = self.row("SELECT value FROM meta WHERE name = 'census'")
        told = json.loads(self.envelopes.opened("census of all", census))
        assert (told["rows"], int(told["names"], 16)) == (count, names)

    def manifest(self, data: Bytes) -> tuple[list[bytes | None], list[Record]]:
        assert data.little(1) == 1
        given, count = data.little(4), data.little(4)
        there = (True, given & 1, given & 2)
        parts = [self.content(*data.reference()) if one else None for one in there]
        records: list[Record] = []
        for _ in range(count):
            segment, first, entries, messages, size = data.take(20), *(data.little(n) for n in (4, 4, 4, 8))
            span = self.segment(Bytes(self.values[segment]))[first : first + entries]
            assert sum(bool(role) for _, _, role, _ in span) == messages
            assert sum(len(content) for *_, content in span) == size
            records += span
        return parts, records

    def segment(self, data: Bytes) -> list[Record]:
        assert data.little(1) == 1
        count, label_count = data.little(4), data.little(4)
        names = data.texts(2 * label_count)
        labels = [data.little(2) for _ in range(count)]
        lengths = [data.little(8) for _ in range(count)]
        pieces = data.take(count)
        contents = [self.content(data.take(20), one == 1) for one in pieces]
        assert [len(one) for one in contents] == lengths
        keys = data.texts(count)
        kinds_roles = [(names[2 * one], names[2 * one + 1]) for one in labels]
        return [(kind, key, role, one) for (kind, role), key, one in zip(kinds_roles, keys, contents, strict=True)]


def read_export(path: Path, passphrase: bytes) -> tuple[dict[str, Any], list[bytes | None], list[Record]]:
    """Head; header, engines and metrics; records."""
    data = Bytes(path.read_bytes())
    assert (data.take(8), data.big(2)) == (b"VSEXPORT", 1)
    name = data.take(16)
    envelopes = Envelopes(name, {1: unwrapped(data.take(data.big(2)), passphrase)})
    parts, last, number = [], 0, 0
    while not last:
        number += 1
        frame = envelopes.opened(f"frame {number}", data.take(data.big(4)))
        last = frame[0]
        parts.append(expanded(frame[1:], {}))
    assert data.at == len(data.data)
    stream = Bytes(b"".join(parts))
    head: dict[str, Any] = json.loads(stream.take(stream.number()))
    beside = [None if head[one] is None else stream.take(head[one]) for one in ("header", "engines", "metrics")]
    records: list[Record] = []
    for _ in range(head["records"]):
        lengths = [stream.number() for _ in range(4)]
        kind, key, role = (stream.take(length).decode("utf-8", "surrogatepass") for length in lengths[:3])
        records.append((kind, key, role, stream.take(lengths[3])))
    assert stream.at == len(stream.data)
    return head, beside, records
