"""What the hub does from time to time: once, apart, and without secrets in what it shows."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from tests.hubs import HubSite
from vllm_mcp_protocol.errors import BadInput
from vllm_mcp_protocol.hub_client import Hub
from vllm_mcp_protocol.model import Chore, ChoreView

pytestmark = pytest.mark.anyio

PROBE = """
import os, sys, time
with open(os.environ["PROBE_FILE"], "a") as file:
    file.write(sys.argv[1] + chr(10))
if sys.argv[1] == "fail":
    sys.exit("it went wrong with " + os.environ["PROBE_SECRET"])
if sys.argv[1] == "hang":
    time.sleep(600)
"""


@pytest.fixture
def probe(site: HubSite) -> Path:
    """A program that writes down that it ran; the file it writes into."""
    folder = site.folder / "probe"
    folder.mkdir()
    (folder / "vllm_probe.py").write_text(PROBE)
    site.env["PYTHONPATH"] += os.pathsep + str(folder)
    return site.folder / "ran"


def chore(probe: Path, what: str, **more: Any) -> Chore:
    environment = {"PROBE_FILE": SecretStr(str(probe)), "PROBE_SECRET": SecretStr("s3cret-word")}
    return Chore(name="probe", module="vllm_probe", arguments=(what,), every_s=1, environment=environment, **more)


async def until(hub: Hub, holds: Callable[[ChoreView], bool]) -> ChoreView:
    with anyio.fail_after(60):
        while not ((views := (await hub.state()).chores) and holds(views[0])):
            await anyio.sleep(0.05)
    return views[0]


async def test_a_chore_is_done_again_and_again_however_often_it_was_asked_for(site: HubSite, probe: Path) -> None:
    async with site.client() as first, site.client() as second:
        for hub in (first, second, first):
            await hub.set_chore(chore(probe, "ok"))
        view = await until(first, lambda view: view.runs >= 2)
        assert (view.last_exit_code, view.last_words, len((await first.state()).chores)) == (0, "", 1)
        assert view.runs <= len(probe.read_text().splitlines()) <= view.runs + 1


async def test_a_chore_that_fails_says_so_without_its_secrets(site: HubSite, probe: Path) -> None:
    async with site.client() as hub:
        await hub.set_chore(chore(probe, "fail"))
        view = await until(hub, lambda view: view.runs >= 1)
    assert view.last_exit_code == 1
    assert view.last_words.strip() == "it went wrong with (hidden)"
    assert "s3cret-word" not in (site.state / "hub.log").read_text()


async def test_a_chore_that_hangs_is_ended_and_tried_again(site: HubSite, probe: Path) -> None:
    async with site.client() as hub:
        await hub.set_chore(chore(probe, "hang", limit_s=1))
        view = await until(hub, lambda view: view.runs >= 1)
        assert view.last_exit_code is None
        assert "ended after 1 s" in view.last_words
        await hub.set_chore(chore(probe, "ok"))
        await until(hub, lambda view: view.last_exit_code == 0)


async def test_only_programs_of_the_suite_are_chores(site: HubSite) -> None:
    async with site.client() as hub:
        for module in ("os", "vllm_x; import os", "../evil"):
            with pytest.raises(BadInput):
                await hub.set_chore(Chore.model_construct(name="probe", module=module, every_s=1.0, limit_s=1.0))
