"""`status`, `up`, `down`: what is shown, that nothing is started by looking, that Ctrl-C leaves engines alone."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from packages.cli.tests.conftest import Cli
from rich.console import Console

from vllm_mcp.status import engines_without_hub, short_duration, state_blocks, state_payload
from vllm_mcp_protocol.errors import ErrorInfo
from vllm_mcp_protocol.model import Device, EngineStatus, EngineView, Holder, HubState, Phase
from vllm_mcp_protocol.units import GIB

GPU = Device(
    id="0",
    kind="cuda",
    name="NVIDIA H200 SXM with a rather long product name",
    total_bytes=139 * GIB,
    free_bytes=97 * GIB,
    promised_bytes=42 * GIB,
    foreign=(Holder(pid=4711, name="python3.11-trainer", bytes=3 * GIB),),
)


def engine(number: int, status: EngineStatus = EngineStatus.READY, **more: object) -> EngineView:
    values: dict[str, object] = {
        "id": f"e{number}",
        "model_id": "some-organisation/A-Model-With-A-Long-Name-7B-Instruct",
        "served_name": "some-organisation/A-Model-With-A-Long-Name-7B-Instruct",
        "status": status,
        "epoch": number,
        "devices": ("0",),
        "promised_bytes": 21 * GIB,
        "created_at": 0.0,
        "endpoint": f"unix:/home/somebody/.local/state/vllm-hub/a-long-host-name/engines/e{number}/api.sock",
    }
    return EngineView.model_validate(values | more)


def state(*engines: EngineView) -> HubState:
    return HubState(
        protocol=1,
        version="0.1.0",
        pid=7,
        epoch=9,
        state_dir="/home/somebody/.local/state/vllm-hub/a-long-host-name",
        uptime_s=3700,
        devices=(GPU,),
        engines=engines,
    )


def lines_of(shown: HubState, width: int = 80) -> list[str]:
    out = Console(width=width, record=True, file=open(os.devnull, "w"), markup=False, highlight=False)  # noqa: SIM115
    with out.capture() as captured:
        for block in state_blocks(shown):
            out.print(block)
    out.file.close()
    return captured.get().splitlines()


FAILURE = ErrorInfo(code="ENGINE_OUT_OF_MEMORY", message="It did not fit.", details={"suggestion": "use fp8"})
FULL = state(
    engine(1, in_flight=3, ready_at=1.0, pinned=True),
    engine(12, EngineStatus.STARTING, phase=Phase.WEIGHTS, elapsed_s=77.2),
    engine(13, EngineStatus.SLEEPING, last_used_at=time.time() - 7300, loras=("sql",)),
    engine(14, EngineStatus.UNREACHABLE, remote=True, devices=()),
    engine(15, EngineStatus.STOPPED, failure=FAILURE),
)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits_the_terminal(width: int) -> None:
    assert [line for line in lines_of(FULL, width) if len(line) > width] == []


def test_it_says_what_there_is_to_know() -> None:
    text = " ".join(" ".join(lines_of(FULL, 120)).split())
    for words in (
        "139 GiB",
        "held by pid 4711",
        "ready pinned",
        "starting weights 77s",
        "sleeping",
        "2h",
        "unreachable",
        "(LoRA: sql)",
        "failed: It did not fit. Next: use fp8",
        "pid 7, up 1 h 01 min",
    ):
        assert words in text


def test_an_empty_hub_says_what_to_type() -> None:
    assert any("load-model --model-id" in line for line in lines_of(state()))


def test_programs_get_the_same_keys_with_and_without_a_hub() -> None:
    without, having = state_payload(None, "/s"), state_payload(state(engine(1)), "/s")
    assert set(without) <= set(having)
    assert without["hub"] is None
    assert having["hub"]["pid"] == 7
    assert having["engines"][0]["id"] == "e1"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d"), (9e6, "104d")],
)
def test_short_durations(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text


def test_engines_that_outlived_their_hub(tmp_path: Path) -> None:
    for name, files in {"e1": ["proc.json"], "e2": ["proc.json", "exit.json"], "e3": []}.items():
        (tmp_path / "engines" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "engines" / name / file).touch()
    assert engines_without_hub(tmp_path) == ["e1"]


# -- with processes ------------------------------------------------------------------------------------------


def test_looking_starts_nothing_and_writes_nothing(cli: Cli) -> None:
    done, as_json = cli("status"), cli("status", "--json")
    assert (done.returncode, as_json.returncode) == (0, 0)
    assert done.stdout.startswith(f"No hub runs in {cli.state}")
    assert json.loads(as_json.stdout)["hub"] is None
    assert not cli.state.exists()


def test_up_and_down(cli: Cli) -> None:
    up = cli("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert "gateway is not part of this version" in up.stdout
    shown = json.loads(cli("status", "--json").stdout)
    assert shown["hub"]["pid"] > 0
    assert shown["devices"]
    down = cli("down")
    assert (down.stdout, down.returncode) == ("Unloaded: nothing (no engine ran). The hub has ended.\n", 0)
    assert cli("down").stdout.startswith("No hub runs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_in_the_foreground_leaves_the_hub_running(cli: Cli, number: signal.Signals) -> None:
    process = cli.start("up")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("No engines."):
            break
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert words == "The hub and its engines run on. `vllm-mcp down` ends them.\n"
    assert json.loads(cli("status", "--json").stdout)["hub"]


def test_watch_without_a_terminal_prints_changes_only(cli: Cli) -> None:
    process = cli.start("status", "--watch")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("No hub runs")
    assert cli("up", "--detach").returncode == 0
    assert process.stdout.readline().startswith("device")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert rest.count("device") == 0


def hang_up(listener: socket.socket, over: threading.Event) -> None:
    """Take every call and end it, until it is over."""
    listener.settimeout(0.05)
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            listener.accept()[0].close()


def test_a_hub_that_does_not_talk_is_3(cli: Cli) -> None:
    cli.state.mkdir(mode=0o700)
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(cli.state / "hub.sock"))
        deaf.listen()
        hangs_up = threading.Thread(target=hang_up, args=(deaf, over))
        hangs_up.start()
        done = cli("status", "--json")
        over.set()
        hangs_up.join()
    (cli.state / "hub.sock").unlink()
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "HUB_UNAVAILABLE"
    assert "Next: " in done.stderr
