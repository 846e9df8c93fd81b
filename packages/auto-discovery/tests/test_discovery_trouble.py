"""What hostile files, strange names, broken folders and a silent hub may do to the server: nothing."""

import json
import os
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from tests.caches import MadeRepo
from tests.desk import Desk as BareDesk
from tests.fakes.fake_hf_site import HfSite
from tests.fakes.fake_providers import serving, vllm
from tests.hubs import HubSite
from vllm_auto_discovery import resources
from vllm_auto_discovery.core.bounds import bounded, fitting, row_bytes
from vllm_auto_discovery.core.clients.plans import Client, plan
from vllm_auto_discovery.results import MetadataResult
from vllm_auto_discovery.server import build_server
from vllm_auto_discovery.tools.describe import shortened
from vllm_auto_discovery.workplace import Workplace
from vllm_mcp_protocol.state_lock import try_lock

pytestmark = pytest.mark.anyio

COMMIT = "c0ffee" + "0" * 34
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "float16",
    "max_position_embeddings": 4096,
}
LIMIT_BYTES = 20_000


class Desk(BareDesk):
    build = staticmethod(build_server)


def weights() -> bytes:
    """A safetensors file of one tensor."""
    header = json.dumps({"w": {"dtype": "F16", "shape": [8], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 16


def add(cache: Path, model_id: str, files: dict[str, bytes] | None = None) -> MadeRepo:
    """A whole model, and `files` beside or instead."""
    repo = MadeRepo(cache, model_id)
    whole = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": weights()}
    for name, content in (whole | (files or {})).items():
        repo.add(COMMIT, name, content)
    repo.ref("main", COMMIT)
    return repo


@pytest.fixture(scope="module")
def shared_site() -> Iterator[HubSite]:
    site = HubSite(gpus=1)
    yield site
    site.close()


@pytest.fixture
def site(shared_site: HubSite, tmp_path: Path) -> HubSite:
    shared_site.env["HF_HOME"] = str(tmp_path / "hf")
    shared_site.env["VLLM_MCP_ENGINE_DIR"] = str(tmp_path / "engine")
    return shared_site


@pytest.fixture
def cache(site: HubSite) -> Path:
    folder = Path(site.env["HF_HOME"]) / "hub"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def desk(site: HubSite, mode: str, project: Path) -> AsyncIterator[Desk]:
    async with Desk(site, mode, project).open() as opened:
        yield opened


# -- deleting without an answer of the hub


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[HubSite]:
    """A state folder in which no hub can start."""
    site = HubSite(gpus=1)
    (site.state / "hub.toml").write_text("[[[ not TOML")
    site.env["HF_HOME"] = str(tmp_path / "hf")
    add(tmp_path / "hf" / "hub", "org/used")
    yield site
    site.close()


@pytest.mark.parametrize("lock", ["hub.lock", "engines/e1/lock"])
async def test_what_runs_is_seen_without_a_hub(lonely: HubSite, project: Path, lock: str) -> None:
    connection = lonely.client(start=False)
    work = Workplace(lonely.settings(), connection, project)
    (lonely.state / lock).parent.mkdir(parents=True, exist_ok=True)
    held = try_lock(lonely.state / lock, inheritable=False)
    assert held is not None
    assert await work.something_runs()
    os.close(held)
    assert not await work.something_runs()
    await connection.aclose()


async def test_a_hub_that_cannot_be_asked_refuses_the_deletion(lonely: HubSite, project: Path) -> None:
    connection = lonely.client(start=False)
    server = build_server(lonely.settings(), connection, project_dir=project)
    (lonely.state / "engines" / "e1").mkdir(parents=True)
    held = try_lock(lonely.state / "engines" / "e1" / "lock", inheritable=False)
    assert held is not None
    model = {"model_id": "org/used", "force": True}
    refused = await server.call_tool("delete-cached-model", model)
    assert "FILES_IN_USE" in refused.model_dump_json()
    assert (Path(lonely.env["HF_HOME"]) / "hub" / "models--org--used").exists()
    os.close(held)
    assert '"deleted"' in (await server.call_tool("delete-cached-model", model)).model_dump_json(by_alias=True)
    await connection.aclose()


# -- links and characters in models


async def test_a_template_that_is_a_link_out_of_the_folders_is_not_shown(
    desk: Desk, cache: Path, project: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "id_key"
    secret.write_text("SECRET")
    for folder in (project / "model", cache / "model"):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "model.safetensors").write_bytes(weights())
        (folder / "chat_template.jinja").symlink_to(secret)
        told = await desk.call("get-model-metadata", model_id=str(folder))
        assert told["chat_template"] is None
        assert any("link" in warning for warning in told["warnings"])
    (project / "model" / "chat_template.jinja").unlink()
    (project / "inside.jinja").write_text("{{ messages }}")
    (project / "model" / "chat_template.jinja").symlink_to("../inside.jinja")
    assert (await desk.call("get-model-metadata", model_id=str(project / "model")))["chat_template"]


async def test_half_characters_in_a_template_do_no_harm(desk: Desk, cache: Path) -> None:
    add(cache, "org/half", {"tokenizer_config.json": b'{"chat_template": "\\ud800 {{ messages }}"}'})
    assert "{{ messages }}" in (await desk.call("get-model-metadata", model_id="org/half"))["chat_template"]


# -- the size of answers


async def test_many_refs_revisions_and_long_names_stay_within_an_answer(desk: Desk, cache: Path) -> None:
    repo = add(cache, "org/wide")
    for number in range(300):
        repo.ref(f"v{'x' * 90}{number}", COMMIT)
        repo.add(f"{number:040x}", "config.json", b"{}")
        repo.link(COMMIT, f"{'界' * 70}{number}.safetensors", "../../blobs/gone")
        (repo.path / "blobs" / f"{number:064x}.incomplete").write_bytes(b"x")
    for tool in ("get-model-metadata", "verify-cache"):
        told = await desk.call(tool, model_id="org/wide")
        assert len(json.dumps(told, ensure_ascii=False).encode()) < LIMIT_BYTES
    assert any(warning.startswith("300 files are missing") for warning in told["warnings"])
    planned = await desk.call("delete-cached-model", model_id="org/wide", dry_run=True)
    error = await desk.fail("delete-cached-model", "FORCE_REQUIRED", model_id="org/wide")
    assert len(planned["revisions"]) == len(error["details"]["revisions"]) == 20
    one = await desk.call("delete-cached-model", model_id="org/wide", revision=COMMIT, dry_run=True)
    assert len(one["kept_revisions"]) == 20
    assert len(one["note"]) < 1000


class Row(BaseModel):
    text: str


def test_lists_and_warnings_are_cut_by_bytes() -> None:
    rows = [Row(text="界" * 100) for _ in range(100)]
    kept = fitting(rows, 4000)
    assert 0 < len(kept) < 100
    assert sum(map(row_bytes, kept)) <= 4000
    told = bounded([f"{number}{'界' * 500}" for number in range(100)])
    assert sum(len(text.encode()) for text in told) < 1300
    assert told[-1] == f"… and {100 - len(told) + 1} more"
    assert bounded(["a", "a", "\ud800"]) == ["a", "?"]


async def test_metadata_that_is_too_long_says_what_it_leaves_out(desk: Desk, cache: Path) -> None:
    add(cache, "org/plain")
    told = await desk.call("get-model-metadata", model_id="org/plain")
    long = MetadataResult.model_validate(told | {"hub": {"tags": ["x" * 30_000]}})
    cut = shortened(long)
    assert (cut.hub, cut.config) == ({}, long.config)
    assert "hub is left out: the answer would be too long" in cut.warnings


# -- verify-cache


async def test_a_download_that_has_not_ended_is_not_sound(desk: Desk, cache: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {"model.safetensors.index.json": json.dumps(index).encode(), "model-00001-of-00002.safetensors": weights()}
    repo = MadeRepo(cache, "org/begun")
    for name, content in ({"config.json": json.dumps(CONFIG).encode()} | files).items():
        repo.add(COMMIT, name, content)
    repo.ref("main", COMMIT)
    told = await desk.call("verify-cache", model_id="org/begun")
    assert told["status"] == "incomplete"
    assert [one["file"] for one in told["missing"]] == ["model-00002-of-00002.safetensors"]
    assert "download-model org/begun" in told["suggestion"]


async def test_a_model_without_its_weights_is_incomplete(desk: Desk, cache: Path) -> None:
    repo = MadeRepo(cache, "org/bare")
    repo.add(COMMIT, "config.json", json.dumps(CONFIG).encode())
    repo.ref("main", COMMIT)
    (repo.path / "blobs" / f"{'a' * 64}.incomplete").write_bytes(b"x")
    assert (await desk.call("verify-cache", model_id="org/bare"))["status"] == "incomplete"


# -- discover-models


async def test_paging_ends_although_one_server_has_two_addresses(site: HubSite, cache: Path, project: Path) -> None:
    with serving(vllm({"one": 10, "two": 20})) as running:
        url = f"http://127.0.0.1:{running.port}"
        twice = {"DISCOVERY_ENDPOINTS": f"{url},{url}/behind/v1"}
        async with Desk(site, "auto", project).open(variables=twice) as desk:
            seen: list[str] = []
            cursor: dict[str, Any] = {}
            while True:
                answer = await desk.call("discover-models", source="endpoints", limit=1, **cursor)
                seen += [row["id"] for row in answer["models"]]
                assert len(seen) <= answer["total_count"]
                if answer["next_cursor"] is None:
                    break
                cursor = {"cursor": answer["next_cursor"]}
            assert len(seen) == len(set(seen)) == answer["total_count"] > 0


async def test_a_search_by_capability_says_when_capabilities_are_not_looked_at(
    site: HubSite, cache: Path, project: Path
) -> None:
    add(cache, "org/model")
    async with Desk(site, "auto", project).open(variables={"ENABLE_CAPABILITY_DETECTION": "false"}) as desk:
        for tool, arguments in (("discover-models", {"capability": "text"}), ("get-multimodal-capabilities", {})):
            told = await desk.call(tool, **arguments)
            assert told["models"] == []
            assert any("ENABLE_CAPABILITY_DETECTION" in warning for warning in told["warnings"])


async def test_names_that_no_hub_would_list_are_not_offered(site: HubSite, cache: Path, project: Path) -> None:
    with HfSite() as mirror:
        listed = [{"id": name} for name in ("../../x", "--help", "a b", "org/..", "org/good")]
        mirror.answer(r"GET /api/models$", 200, body=json.dumps(listed).encode())
        async with Desk(site, "auto", project).open(
            variables={"HF_ENDPOINT": mirror.url, "HF_HUB_OFFLINE": ""}
        ) as desk:
            found = await desk.call("discover-models", source="hub", query="x")
    assert [row["id"] for row in found["models"]] == ["org/good"]


# -- folders that cannot be used


async def test_a_state_folder_that_keeps_no_downloads_is_named(site: HubSite, cache: Path, project: Path) -> None:
    (site.state / "downloads").write_text("a file where a folder should be")
    try:
        async with Desk(site, "auto", project).open() as desk:
            error = await desk.fail("download-model", "STATE_DIR_REFUSED", model_id="org/any")
    finally:
        (site.state / "downloads").unlink()
    assert "VLLM_HUB_DIR" in error["details"]["suggestion"]


# -- sync-client-config


async def test_a_name_that_no_disk_takes_is_refused(desk: Desk) -> None:
    await desk.fail("sync-client-config", "PATH_NOT_ALLOWED", client="crush", path="n" * 300 + ".json")


async def test_without_a_project_a_path_in_the_clients_folder_is_enough(
    site: HubSite, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUSH_GLOBAL_CONFIG", str(tmp_path / "crush"))
    monkeypatch.chdir("/")
    target = tmp_path / "crush" / "crush.json"
    async with Desk(site, "auto", None).open() as desk:  # type: ignore[arg-type]
        await desk.fail("sync-client-config", "INVALID_ARGUMENT", client="crush")
        await desk.fail("sync-client-config", "PATH_NOT_ALLOWED", client="crush", path="/etc/crush.json")
        done = await desk.call("sync-client-config", client="crush", path=str(target))
    assert done["path"] == str(target)


def test_a_provider_that_is_taken_out_is_named_without_its_password() -> None:
    mine = {"providers": {"vllm": {"base_url": "https://me:hunter2@models.example/v1"}}}
    planned = plan(Client.CRUSH, mine, [])
    (warning,) = planned.warnings
    assert "models.example" in warning
    assert "taken out" in warning
    assert "hunter2" not in warning


# -- the background


async def test_a_background_scan_that_breaks_leaves_the_server_alone(
    site: HubSite, cache: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, looked = anyio.Event(), anyio.Event()

    async def fingerprints(_: Workplace) -> dict[str, str]:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("not foreseen")
        looked.set()
        return {}

    monkeypatch.setattr(resources, "_fingerprints", fingerprints)
    async with Desk(site, "auto", project).open(variables={"DISCOVERY_INTERVAL_SECONDS": "1"}) as desk:
        with anyio.fail_after(60):
            await looked.wait()
        await desk.call("discover-models")
