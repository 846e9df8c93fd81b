"""What is open of a store: its file, its keys, its dictionaries. Each transaction begins by looking whether others,
in other processes, have added some."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from anyio import to_thread
from sqlalchemy import Integer, cast, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vllm_mcp_protocol.errors import StoreDamaged, SuiteError
from vllm_state_persistence.core.packs import Compressor, Decompressor, Dictionary, expand, squeeze, train
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.store.cipher import STORE_ID_BYTES, Cipher, make_cipher, new_secret, wrap
from vllm_state_persistence.store.database import Database
from vllm_state_persistence.store.reading import PackCache, Reader, unreadable
from vllm_state_persistence.store.schema import data_keys, dictionaries, meta, packs
from vllm_state_persistence.store.states import Census, Standing, read_census, standing, write_census
from vllm_state_persistence.store.writing import Writer

TRAIN_BYTES = 1024 * 1024
"""So much content makes a dictionary worth its 64 KiB."""

SAMPLE_BYTES = 512 * 1024
"""Of 4 MiB zstd learns six times as long, and what it has learnt is no better."""

_LARGEST_SAMPLE_BYTES = 32 * 1024


@dataclass
class Desk:
    """An open store."""

    database: Database
    ring: KeyRing
    cipher: Cipher
    compression: bool
    dictionaries: Mapping[int, Dictionary]
    damaged_dictionaries: Mapping[int, str]
    compressor: Compressor | None = None
    untrained_bytes: int | None = None
    """Content of a store without a dictionary; None: not looked yet."""
    cache: PackCache = field(default_factory=PackCache)
    follows_others: bool = True
    """False for a store that is salvaged: the pages that tell what was added may be among those that are gone."""
    index: Mapping[bytes, int] = field(default_factory=dict)
    """Where values are that the store's own index has lost: only while a damaged store is read."""

    def reader(self, connection: AsyncConnection) -> Reader:
        return Reader(connection, self.cipher, self.dictionaries, self.index, self.cache)

    @asynccontextmanager
    async def reading(self, *, refresh: bool = True) -> AsyncIterator[AsyncConnection]:
        """Without `refresh` keys and dictionaries that others have added since are not known."""
        async with self.database.reading() as connection:
            if refresh:
                await self.refresh(connection)
            yield connection

    async def refresh(self, connection: AsyncConnection) -> bool:
        """Learn what others have added; whether there was anything."""
        if not self.follows_others:
            return False
        return await self._refresh(connection, await standing(connection))

    @asynccontextmanager
    async def reading_on(self, connection: AsyncConnection) -> AsyncIterator[None]:
        """`reading`, on a connection that is in no transaction."""
        async with connection.begin():
            await self.refresh(connection)
            yield

    @asynccontextmanager
    async def writing(self) -> AsyncIterator["Work"]:
        async with self.database.writing() as connection, self._work(connection) as work:
            yield work

    @asynccontextmanager
    async def writing_on(self, connection: AsyncConnection) -> AsyncIterator["Work"]:
        """`writing`, on a connection that is in no transaction."""
        async with self.database.writing_on(connection), self._work(connection) as work:
            yield work

    @asynccontextmanager
    async def _work(self, connection: AsyncConnection) -> AsyncIterator["Work"]:
        stands = await standing(connection)
        await self._refresh(connection, stands)
        # Not the shared cache: what is undone gives its numbers back.
        reader = Reader(connection, self.cipher, self.dictionaries, self.index, PackCache())
        writer = Writer(connection, reader, self.cipher, self.compressor, stands.last_pack)
        try:
            yield Work(connection, self, reader, writer, stands)
        finally:
            await writer.let_go()

    async def _refresh(self, connection: AsyncConnection, stands: Standing) -> bool:
        before = self.cipher, self.dictionaries
        if stands.newest_key != self.cipher.newest:
            self.cipher = await read_cipher(connection, self.ring)
        if stands.dictionary is not None and stands.dictionary not in (*self.dictionaries, *self.damaged_dictionaries):
            await self.read_dictionaries(connection)
        return (self.cipher, self.dictionaries) != before

    async def read_dictionaries(self, connection: AsyncConnection) -> None:
        """One that cannot be read is left out: packs that need it are then damaged, and new ones use none."""
        found: dict[int, Dictionary] = {}
        damaged: dict[int, str] = {}
        for number, sealed in await connection.execute(select(dictionaries.c.number, dictionaries.c.sealed)):
            try:
                content = expand(self.cipher.unseal("dictionary", number, sealed), Decompressor())
                found[number] = Dictionary(number, content)
            except StoreDamaged as error:
                damaged[number] = str(error.info.details.get("why", error.info.message))
        self.dictionaries, self.damaged_dictionaries = found, damaged
        if self.compression:
            self.compressor = Compressor(found[max(found)] if found else None)

    async def train_if_worth_it(self) -> None:
        """Make the store's dictionary once there is enough to learn from. Takes some hundredths of a second, once."""
        if not self.compression or self.dictionaries or self.damaged_dictionaries:
            return
        with suppress(SuiteError):  # the next save tries again; this one is done
            if self.untrained_bytes is None:
                self.untrained_bytes = await self._content_bytes()
            if self.untrained_bytes < TRAIN_BYTES:
                return
            self.untrained_bytes = -self.untrained_bytes  # once more when it has doubled
            dictionary = await to_thread.run_sync(train, await self._samples(), 1)
            if dictionary is not None:
                await self._add_dictionary(dictionary)

    async def _content_bytes(self) -> int:
        async with self.reading() as connection:
            return sum((await connection.execute(select(cast(packs.c.raw_bytes, Integer)))).scalars())

    async def _samples(self) -> list[bytes]:
        async with self.reading() as connection:
            reader = self.reader(connection)
            samples: list[bytes] = []
            total = 0
            for number in (await connection.execute(select(packs.c.number).limit(100))).scalars().all():
                if total >= SAMPLE_BYTES:
                    break
                for content in (await reader.pack(number)).values():
                    if total < SAMPLE_BYTES and len(content) <= _LARGEST_SAMPLE_BYTES:
                        samples.append(bytes(content))
                        total += len(content)
            return samples

    async def _add_dictionary(self, dictionary: Dictionary) -> None:
        async with self.writing() as work:
            if work.stands.dictionary is None:
                sealed = self.cipher.seal("dictionary", dictionary.number, squeeze(dictionary.content, Compressor()))
                await work.connection.execute(insert(dictionaries), {"number": dictionary.number, "sealed": sealed})
                await self.read_dictionaries(work.connection)


@dataclass(slots=True)
class Work:
    """A writing transaction."""

    connection: AsyncConnection
    desk: Desk
    reader: Reader
    writer: Writer
    stands: Standing

    @property
    def cipher(self) -> Cipher:
        return self.desk.cipher

    def census(self) -> Census:
        """Raises StoreDamaged."""
        return read_census(self.cipher, self.stands.census)


async def open_desk(database: Database, ring: KeyRing, *, compression: bool) -> Desk:
    """Raises KeyMissing, KeyWrong, StoreDamaged, StoreBusy."""
    async with database.reading() as connection:
        made = await _store_id(connection)
    if made is None:
        await _make(database, ring)
    async with database.reading() as connection:
        cipher = await read_cipher(connection, ring)
        desk = Desk(database, ring, cipher, compression, {}, {}, Compressor() if compression else None)
        await desk.read_dictionaries(connection)
    return desk


async def _make(database: Database, ring: KeyRing) -> None:
    """Give a new store its name and its first data key."""
    secret, store_id = new_secret(), new_secret()[:STORE_ID_BYTES]
    wrapped = await to_thread.run_sync(wrap, secret, ring, ring.encrypts)
    async with database.writing() as connection:
        if await _store_id(connection) is not None:  # several may make it at once
            return
        await connection.execute(insert(meta), {"name": "store", "value": store_id})
        await connection.execute(insert(data_keys), {"number": 1, "wrapped": wrapped})
        await write_census(connection, make_cipher(store_id, [(1, wrapped)], ring, None), Census())


async def _store_id(connection: AsyncConnection) -> bytes | None:
    """None for a store that is not made yet. Raises StoreDamaged where only its name is missing."""
    found = (await connection.execute(select(meta.c.value).where(meta.c.name == "store"))).scalar()
    if found is None and (await connection.execute(select(data_keys.c.number).limit(1))).first():
        raise unreadable("its name", "it is not there")
    return found


async def read_cipher(connection: AsyncConnection, ring: KeyRing) -> Cipher:
    """Raises KeyMissing, KeyWrong, StoreDamaged."""
    store_id = await _store_id(connection)
    if not isinstance(store_id, bytes) or len(store_id) != STORE_ID_BYTES:
        raise unreadable("its name", "it is not there")
    wrapped = [(number, blob) for number, blob in await connection.execute(select(data_keys))]
    plain = (await connection.execute(select(meta.c.value).where(meta.c.name == "plain"))).scalar()
    return await to_thread.run_sync(make_cipher, store_id, wrapped, ring, plain)
