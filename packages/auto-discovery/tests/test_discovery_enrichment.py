"""What the Hub adds to what the files say: cached, never waited for long, never needed."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.fake_hf_site import HfSite
from vllm_auto_discovery.core.metadata import Metadata, Remembered, enriched, file_name, is_fresh
from vllm_auto_discovery.enrichment import QUIET_S, Enricher, prune
from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.settings import Settings

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0
SECRET = "hf_ThisIsNobodysToken123"


class Place:
    """A Hub, a state folder, and clocks that stand until they are moved."""

    def __init__(self, hub: HfSite, folder: Path) -> None:
        self.hub = hub
        self.folder = folder / "s" / "metadata"
        self.env = {"HF_ENDPOINT": hub.url, "VLLM_HUB_DIR": str(folder / "s")}
        self.time_s = 1_800_000_000.0

    def enricher(self, **variables: str) -> Enricher:
        """A new one has only the disk to remember by."""
        settings = Settings.from_environment(self.env | variables)
        return Enricher(settings, now_s=lambda: self.time_s, clock_s=lambda: self.time_s)

    def asked(self, model_id: str = "") -> int:
        return len(self.hub.asked(f"/api/models/{model_id}"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read from the environment once, at its import
    with HfSite() as hub:
        card = {"tags": ["text-generation"], "cardData": {"license": "mit"}, "downloads": 7}
        hub.add("org/model", {"config.json": b"{}", "model.safetensors": b"w" * 98}, more=card)
        hub.add("org/gated", {"config.json": b"{}"}, gated="auto", allowed_token=SECRET)
        yield Place(hub, tmp_path)


async def test_an_answer_is_asked_once_and_then_read_from_the_disk(place: Place) -> None:
    first = await place.enricher().one("org/model")
    assert first.answer is not None
    assert (first.answer.license, first.answer.downloads, first.answer.size_bytes) == ("mit", 7, 100)
    assert (first.age_s, first.stale, first.reason) == (0, False, None)
    place.time_s += HOUR_S
    again = await place.enricher().one("org/model")
    assert (again.answer, again.age_s, again.stale) == (first.answer, HOUR_S, False)
    assert place.asked() == 1


async def test_an_old_answer_is_asked_for_again_and_so_is_a_young_one_on_demand(place: Place) -> None:
    enricher = place.enricher(METADATA_CACHE_TTL_HOURS="2")
    await enricher.one("org/model")
    place.time_s += 2 * HOUR_S
    assert (await enricher.one("org/model")).age_s == 0
    assert (await enricher.one("org/model", refresh=True)).age_s == 0
    assert place.asked() == 3
    zero = place.enricher(METADATA_CACHE_TTL_HOURS="0")
    await zero.one("org/model")
    assert place.asked() == 4


@pytest.mark.parametrize(
    ("variables", "mentions"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"ENABLE_MODEL_METADATA_ENRICHMENT": "false"}, "ENABLE_MODEL_METADATA_ENRICHMENT"),
    ],
)
async def test_where_asking_is_forbidden_the_old_answer_is_told_as_old(
    place: Place, variables: dict[str, str], mentions: str
) -> None:
    first = await place.enricher().one("org/model")
    place.time_s += 30 * HOUR_S
    old = await place.enricher(**variables).one("org/model", refresh=True)
    assert (old.answer, old.age_s, old.stale) == (first.answer, 30 * HOUR_S, True)
    assert mentions in (old.reason or "")
    none = await place.enricher(**variables).one("org/other")
    assert (none.answer, none.age_s, none.stale) == (None, None, False)
    assert mentions in (none.reason or "")
    assert place.asked() == 1


@pytest.mark.parametrize("status", [500, 429, 503])
async def test_a_site_in_trouble_leaves_the_old_answer_and_is_left_alone_for_a_while(place: Place, status: int) -> None:
    enricher = place.enricher()
    await enricher.one("org/model")
    place.time_s += 30 * HOUR_S
    place.hub.answer("org/", status)
    old = await enricher.one("org/model")
    assert old.stale
    assert old.answer is not None
    found = [await enricher.one(f"org/m{number}") for number in range(20)]
    assert {entry.answer for entry in found} == {None}
    assert place.asked() == 2
    place.time_s += QUIET_S
    place.hub.answers.clear()
    assert (await enricher.one("org/model")).age_s == 0


async def test_a_site_that_asks_for_ten_minutes_gets_them(place: Place) -> None:
    enricher = place.enricher()
    place.hub.answer("org/", 429, headers={"Retry-After": "600"}, times=1)
    await enricher.one("org/model")
    place.time_s += 599
    assert (await enricher.one("org/model")).answer is None
    place.time_s += 1
    assert (await enricher.one("org/model")).answer is not None


async def test_without_a_network_nothing_is_known_and_nothing_fails(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    enricher = place.enricher(HF_ENDPOINT=f"http://127.0.0.1:{port}")
    found = [await enricher.one(name) for name in ("a/b", "c/d")]
    assert {entry.answer for entry in found} == {None}
    assert all("no connection" in (entry.reason or "") for entry in found)


async def test_a_refusal_is_remembered_but_not_for_long(place: Place) -> None:
    enricher = place.enricher()
    refused = await enricher.one("org/none")
    assert refused.refusal is not None
    assert (refused.answer, refused.refusal.code, refused.stale) == (None, "MODEL_NOT_FOUND", False)
    again = await place.enricher().one("org/none")
    assert (again.refusal, again.reason) == (refused.refusal, refused.reason)
    assert place.asked("org/none") == 1
    place.time_s += HOUR_S
    place.hub.add("org/none", {})
    assert (await enricher.one("org/none")).answer is not None


async def test_of_a_gated_model_everybody_learns_what_everybody_may_read(place: Place) -> None:
    found = await place.enricher().one("org/gated")
    assert found.answer is not None
    assert (found.answer.gated, found.answer.url) == ("auto", f"{place.hub.url}/org/gated")


async def test_answers_of_two_sites_are_not_mixed_up(place: Place) -> None:
    await place.enricher().one("org/model")
    with HfSite() as mirror:
        mirror.add("org/model", {}, more={"downloads": 1})
        found = await place.enricher(HF_ENDPOINT=mirror.url).one("org/model")
    assert found.answer is not None
    assert found.answer.downloads == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{}", b'{"version": 2}', b"9" * 300_000])
async def test_a_damaged_memory_is_as_good_as_none(place: Place, data: bytes) -> None:
    await place.enricher().one("org/model")
    (path,) = place.folder.iterdir()
    path.write_bytes(data)
    assert (await place.enricher().one("org/model")).answer is not None
    assert place.asked() == 2


async def test_an_answer_that_cannot_be_remembered_is_told_all_the_same(place: Place) -> None:
    place.folder.parent.mkdir()
    place.folder.write_bytes(b"a file where the folder should be")
    assert (await place.enricher().one("org/model")).answer is not None


@pytest.mark.parametrize("name", ["/a/folder", "not a name", "", "../up", "x" * 500])
async def test_what_is_no_name_gets_a_reason_and_no_question(place: Place, name: str) -> None:
    found = await place.enricher().one(name)
    assert found.answer is None
    assert found.reason
    assert place.asked() == 0


async def test_the_memory_is_for_its_user_alone(place: Place) -> None:
    await place.enricher(HF_TOKEN=SECRET).one("org/gated")
    (path,) = place.folder.iterdir()
    assert path.stat().st_mode & 0o077 == 0
    assert (place.folder.stat().st_mode | place.folder.parent.stat().st_mode) & 0o077 == 0
    assert SECRET.encode() not in path.read_bytes()


def test_the_oldest_of_too_many_files_are_removed(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"{number}.json"
        path.write_bytes(b"")
        os.utime(path, (number, number))
    prune(tmp_path, 3)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["7.json", "8.json", "9.json"]


NAMES = st.text(st.characters(codec="utf-8"), max_size=80)


@given(NAMES, NAMES, st.sampled_from(["https://a", "https://b"]), st.sampled_from(["https://a", "https://b"]))
def test_file_names_are_safe_and_different(one: str, other: str, here: str, there: str) -> None:
    name = file_name(one, here)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith(".")
    assert len(name) <= 80
    assert (name == file_name(other, there)) == ((one, here) == (other, there))


@given(st.floats(0, 1e9), st.floats(-1e9, 1e9), st.floats(0, 1e6), st.booleans())
def test_what_is_told_is_stale_exactly_when_it_would_be_asked_again(
    asked_s: float, later_s: float, ttl_s: float, refused: bool
) -> None:
    parts: dict[str, Any] = (
        {"refusal": ErrorInfo(code="MODEL_NOT_FOUND", message="none.")}
        if refused
        else {"answer": Metadata(commit="c", url="u")}
    )
    known = Remembered(model_id="a/b", site="s", asked_s=asked_s, **parts)
    now_s = asked_s + later_s
    told = enriched("a/b", known, now_s, ttl_s, "no network")
    assert told.stale is not is_fresh(known, now_s, ttl_s)
    assert told.stale is (max(0.0, now_s - asked_s) >= (min(ttl_s, 900) if refused else ttl_s))
    assert (told.age_s or 0) >= 0
    assert ("no network" in (told.reason or "")) is told.stale
