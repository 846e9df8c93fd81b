"""The protocol's own conformance program against our servers over HTTP.

It asks for fixture tools in most of its scenarios; these are the ones that any server can pass.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.node_programs import program, run
from tests.interop.servers import http_server, server_commands

pytestmark = pytest.mark.interop

SCENARIOS = {
    "2025-11-25": (
        "server-initialize",
        "server-session-lifecycle",
        "ping",
        "completion-complete",
        "tools-list",
        "tools-call-error",
        "resources-list",
        "prompts-list",
        "dns-rebinding-protection",
        "server-sse-multiple-streams",
    ),
    "2026-07-28": (
        "completion-complete",
        "tools-list",
        "tools-call-error",
        "resources-list",
        "prompts-list",
        "dns-rebinding-protection",
        "caching",
        "http-header-validation",
        "sep-2164-resource-not-found",
        "server-sse-multiple-streams",
        "input-required-result-unsupported-methods",
        "input-required-result-ignore-extra-params",
    ),
}


_LINE = re.compile(r"^[✓✗] ([\w-]+): (\d+) passed, (\d+) failed", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """What the program said about one server under one revision."""

    scores: dict[str, tuple[int, int]]
    """Scenario → checks passed, checks failed."""
    folder: Path

    def failures(self, scenario: str) -> str:
        """The failed checks' own words."""
        files = self.folder.glob(f"server-{scenario}-*/checks.json")
        checks = [check for file in files for check in json.loads(file.read_text())]
        return json.dumps([check for check in checks if check["status"] == "FAILURE"], indent=1)


@pytest.fixture(scope="module", params=sorted(server_commands()))
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program("conformance")
    with http_server(server_commands()[request.param], tmp_path_factory.mktemp("state")) as address:
        yield address


@pytest.fixture(scope="module")
def reports(address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """One run per revision: starting the program anew for each scenario takes ten times as long."""
    found = {}
    for revision in SCENARIOS:
        folder = tmp_path_factory.mktemp("out")
        words = ["server", "--url", address, "--requirements", revision, "-o", str(folder)]
        done = run("conformance", words, folder)
        scores = {name: (int(passed), int(failed)) for name, passed, failed in _LINE.findall(done.stdout)}
        assert scores, done.stdout[-4000:] + done.stderr[-4000:]
        found[revision] = Report(scores, folder)
    return found


@pytest.mark.parametrize(("revision", "scenario"), [(r, name) for r, names in SCENARIOS.items() for name in names])
def test_scenario(reports: dict[str, Report], revision: str, scenario: str) -> None:
    passed, failed = reports[revision].scores[scenario]
    assert failed == 0, reports[revision].failures(scenario)
    assert passed
