"""The dashboard in a real Chromium: what people see, reach by keyboard and have read to them."""

import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, Route, async_playwright, expect

from tests.hubs import HubSite, wish
from tests.interop.chromium import chromium
from tests.monitor_desk import LIMIT_S, served
from vllm_mcp_protocol.engine_http import EngineHttp

pytestmark = [pytest.mark.interop, pytest.mark.anyio]

WICKED = "<img src=x onerror=alert(1)>"
"""A model's name that would be markup, if names were."""
WIDE, NARROW = (1280, 900), (360, 740)
TOKEN = "a-token-of-the-tests"
EDGE = (52, 18)
"""Pixels beside a chart, as charts.js has them."""
expect.set_options(timeout=LIMIT_S * 1000)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=path)
        yield made
        await made.close()


@pytest.fixture
def site() -> Iterator[HubSite]:
    made = HubSite(gpus=3)
    yield made
    made.close()


@dataclass
class Watch:
    """What a page did that nobody sees."""

    origin: str
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def asked(self, url: str) -> None:
        if not url.startswith(self.origin):
            self.strangers.append(url)

    def said(self, message: ConsoleMessage) -> None:
        # The browser notes each answer that is no success; that there is no hub is one that the page expects.
        expected = "/figures" in message.location["url"] and message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not expected:
            self.errors.append(message.text)


@asynccontextmanager
async def shown(
    browser: Browser, address: str, size: tuple[int, int] = WIDE, path: str = "", **more: Any
) -> AsyncIterator[Page]:
    """The page in a window of its own; it may ask nobody else, and nothing may go wrong in it."""
    watch = Watch(address)
    context = await browser.new_context(viewport={"width": size[0], "height": size[1]}, **more)
    context.on("request", lambda request: watch.asked(request.url))
    page = await context.new_page()
    page.on("console", watch.said)
    page.on("pageerror", lambda error: watch.errors.append(str(error)))
    page.on("dialog", lambda dialog: watch.errors.append(f"dialog: {dialog.message}"))
    await page.goto(address + path)
    yield page
    await context.close()
    assert (watch.errors, watch.strangers) == ([], [])


async def load(site: HubSite, model: str, *, wait: bool = True, **knobs: Any) -> str:
    """The id of an engine, which serves unless `wait` is false."""
    site.set_knobs(**knobs)
    async with site.client() as hub:
        engine = (await hub.load(wish(model))).engine
        assert engine is not None
        while wait and engine.status != "ready":
            engine = await hub.wait(engine.id, seen_epoch=engine.epoch, timeout_s=LIMIT_S)
        return engine.id


async def chat(site: HubSite, model: str, times: int = 5) -> None:
    async with site.client() as hub, hub.lease(model) as endpoint, EngineHttp(endpoint) as http:
        for _ in range(times):
            await http.chat({"model": endpoint.served_name, "messages": [{"role": "user", "content": "hello"}]})


def kill(site: HubSite, engine_id: str) -> None:
    for pid in site.members(engine_id):
        os.kill(pid, signal.SIGKILL)


async def alerts_at_once(site: HubSite) -> None:
    """Of an engine that is down, rather than after half a minute; and over at once."""
    async with site.client() as hub:
        await hub.set_alert_rule("engine-down", {"for_seconds": 0, "clear_for_seconds": 0})


async def looked(page: Page, times: int) -> None:
    """Return when the page has been told anew so many times."""
    for _ in range(times):
        before = await page.locator("#link-time").text_content()
        await expect(page.locator("#link-time")).not_to_have_text(before or "")


async def test_the_page_follows_an_engine_through_its_life_and_a_hub_that_goes_and_comes(
    browser: Browser, site: HubSite
) -> None:
    with served(site, "dashboard") as address:
        async with shown(browser, address) as page:
            await expect(page.get_by_role("alert")).to_contain_text("no hub runs")
            assert site.hub_pids() == []  # none was started for that
            await alerts_at_once(site)
            await expect(page.get_by_role("status")).to_contain_text("Live")
            await expect(page.get_by_role("alert")).to_be_hidden()
            await expect(page.locator("#engines")).to_contain_text("No engine runs")

            engine_id = await load(site, "org/small", wait=False, load_s=4)
            row = page.locator("#engines tr[data-level]", has_text="org/small")
            await expect(row).to_contain_text("starting")
            start = page.locator("#starts > li", has_text="org/small")
            await expect(start).to_contain_text("loading for")
            await expect(start.locator("[data-state=now]")).to_have_count(1)
            await expect(row).to_contain_text("ready")
            await expect(start).to_contain_text("started in")
            await expect(start.locator("[data-state=done]", has_text="weights")).to_contain_text(" s")

            await chat(site, "org/small")
            rate = row.locator("td").nth(4)
            await expect(rate).not_to_have_text("–")
            await expect(rate).not_to_have_text("0")
            latency = row.locator("td").nth(6)
            await expect(latency.get_by_role("img", name="not measured")).to_have_text("–")  # the fake measures none
            chart = page.get_by_role("img", name="Generated tokens, the last 15 min. org/small: now")
            await expect(chart).to_be_visible()
            await expect(page.get_by_role("img", name="Time to first token")).to_contain_text("not measured")

            kill(site, engine_id)
            await expect(row).to_contain_text("failed")
            await expect(row.locator("td").nth(4)).to_have_text("–")
            await expect(page.locator("#alerts")).to_contain_text("Engine org/small does not answer")
            await expect(page.locator("#alerts")).to_contain_text("critical")
            await expect(page.locator("#alerts")).to_contain_text("Next step: list-models says")
            await expect(page).to_have_title("(1) vLLM engines")
            await expect(page.locator("#news")).to_contain_text("New alert, critical: Engine org/small")
            await page.evaluate(_COUNT_NEWS)
            await looked(page, 2)
            assert await page.evaluate("window.told") == 0  # each alert is told once

            site.kill_hub()
            await expect(page.get_by_role("alert")).to_contain_text("what was seen last")
            await expect(row).to_contain_text("failed")
            async with site.client() as hub:
                await hub.state()
            await expect(page.get_by_role("status")).to_contain_text("Live")
            await expect(page.get_by_role("alert")).to_be_hidden()
            await load(site, "org/small")
            await expect(page.locator("#alerts")).to_contain_text("Nothing is wrong")
            await expect(page.locator("#news")).to_have_text("Over: engine-down of engine:org/small.")


_COUNT_NEWS = """() => {
    window.told = 0;
    new MutationObserver(() => { window.told += 1; })
        .observe(document.getElementById("news"), {childList: true, characterData: true, subtree: true});
}"""


@pytest.fixture(scope="module")
async def fleet() -> AsyncIterator[str]:
    """The address of a dashboard of an engine that serves, one with a wicked name that loads, and a dead one."""
    site = HubSite(gpus=3)
    try:
        await load(site, "org/small")
        dead = await load(site, "org/dead")
        await load(site, WICKED, wait=False, load_s=600)
        await alerts_at_once(site)
        with served(site, "dashboard") as address:
            await chat(site, "org/small")
            kill(site, dead)
            yield address
    finally:
        site.close()


async def everything_is_there(page: Page) -> None:
    await expect(page.locator("#alerts li")).to_have_count(1)
    await expect(page.locator("#engines th")).to_have_count(3)
    await expect(page.locator("#charts figure")).to_have_count(8)


async def test_it_is_legible_and_described_for_everybody(browser: Browser, fleet: str) -> None:
    grounds = []
    for scheme, size in (("light", WIDE), ("dark", WIDE), ("light", NARROW)):
        async with shown(browser, fleet, size, color_scheme=scheme, reduced_motion="reduce") as page:
            await everything_is_there(page)
            result = await Axe().run(page)
            assert result.violations_count == 0, result.generate_report()
            assert _undecided(result.response["incomplete"]) == []
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            moving = "getComputedStyle(document.querySelector('.measure')).transitionDuration"
            assert await page.evaluate(moving) == "0s"
            grounds.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
            await expect(page.locator("#engines th", has_text=WICKED)).to_be_visible()
            assert await page.locator("img[src]").count() == 0
    assert grounds[0] == grounds[2] != grounds[1]


def _undecided(found: Sequence[Any]) -> list[Any]:
    """What axe could not judge: it does not see the colour behind text on a gradient, which is that of the bars."""
    return [one for one in found if one["id"] != "color-contrast"]


async def test_a_gap_is_drawn_as_a_gap_and_reads_as_one(browser: Browser, fleet: str) -> None:
    async def with_gap(route: Route) -> None:
        """The real answer, with a line whose gap nobody has to wait for."""
        answer = await route.fetch()
        page = await answer.json()
        line = page["course"]["charts"][0]["lines"][0]
        page["course"]["charts"][0]["lines"] = [
            line | {"times": [0, 100, 200, 450, 700, 900], "values": [1, 2, None, 5, None, 8], "now": 8}
        ]
        await route.fulfill(response=answer, json=page)

    async with shown(browser, fleet) as page:
        await page.route("**/figures*", with_gap)
        await everything_is_there(page)
        figure = page.locator("#charts figure").first
        await expect(figure.locator("tbody td").first).to_have_text("8")
        drawn = await figure.locator(".plot path.line").get_attribute("d")
        assert drawn is not None
        assert (drawn.count("M"), drawn.count("L"), drawn.count("h0.1")) == (3, 1, 2)  # a line, and two lonely points
        plot = figure.locator(".plot")
        width = await plot.evaluate("one => one.clientWidth")
        for share, told in ((0.5, "5"), (0.3, "–"), (0.999, "8")):
            await plot.hover(position={"x": EDGE[0] + share * (width - sum(EDGE)), "y": 80})
            await expect(figure.locator("tbody td").first).to_have_text(told)
        await page.mouse.move(0, 0)
        await expect(figure.locator("thead th").first).to_have_text("now")


async def test_what_somebody_selected_stays_selected(browser: Browser, fleet: str) -> None:
    async with shown(browser, fleet) as page:
        await everything_is_there(page)
        await page.evaluate("getSelection().selectAllChildren(document.querySelector('#engines th'))")
        selected = await page.evaluate("String(getSelection())")
        await looked(page, 2)
        assert await page.evaluate("String(getSelection())") == selected != ""


async def test_everything_is_reached_and_read_by_keyboard(browser: Browser, fleet: str) -> None:
    async with shown(browser, fleet) as page:
        await everything_is_there(page)
        reached: list[str] = []
        for _ in range(11):
            await page.keyboard.press("Tab")
            assert await page.evaluate(_IS_OUTLINED), reached
            reached.append(await page.evaluate(_NAME_OF_FOCUS))
        assert reached[:3] == ["Engines", "Hardware", "range"]
        assert [name.partition(":")[0] for name in reached[3:5]] == ["Generated tokens", "Requests"]
        assert len(set(reached)) == 11

        await page.locator("#charts .plot").first.focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("#reading")).to_contain_text("org/small ")
        await expect(page.locator("#charts .cursor.on")).to_have_count(8)
        await page.keyboard.press("Escape")
        await expect(page.locator("#charts .cursor.on")).to_have_count(0)

        await page.get_by_role("radio", name="15 min").focus()
        async with page.expect_request(lambda request: request.url.endswith("figures?seconds=3600")):
            await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("img", name="Generated tokens, the last 1 h")).to_be_visible()


_IS_OUTLINED = """() => {
    const one = document.activeElement;
    const shown = one.name === "range" ? one.nextElementSibling : one;
    return getComputedStyle(shown).outlineStyle === "solid";
}"""
_NAME_OF_FOCUS = """() => {
    const one = document.activeElement;
    const named = document.getElementById(one.getAttribute("aria-labelledby"));
    return named?.textContent ?? one.getAttribute("aria-label") ?? one.name;
}"""


async def test_a_token_is_asked_for_or_taken_from_behind_the_hash(browser: Browser, site: HubSite) -> None:
    await load(site, "org/small")
    with served(site, "dashboard", VLLM_MCP_TOKEN=TOKEN) as address:
        async with shown(browser, address) as page:
            await page.get_by_label("Token").fill("another")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("alert")).to_contain_text("not the right one")
            assert (await Axe().run(page)).violations_count == 0
            await page.get_by_label("Token").fill(TOKEN)
            await page.get_by_role("button").click()
            await expect(page.locator("#engines")).to_contain_text("org/small")
            await expect(page.locator("#door")).to_be_hidden()
        async with shown(browser, address, path=f"#token={TOKEN}") as page:
            await expect(page.locator("#engines")).to_contain_text("org/small")
            assert page.url == address
            assert TOKEN not in await page.content()
