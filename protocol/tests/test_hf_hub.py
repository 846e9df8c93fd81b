"""What the Hugging Face Hub is asked, and what its refusals become. The real client, against a Hub on loopback."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run
from hypothesis import strategies as st

from tests.fakes.fake_hf_site import FakeFile, HfSite
from vllm_mcp_protocol.errors import (
    BadInput,
    GatedRepository,
    HuggingFaceRateLimited,
    HuggingFaceUnauthorized,
    HuggingFaceUnreachable,
    ModelNotFound,
    Offline,
    RevisionNotFound,
    SuiteError,
)
from vllm_mcp_protocol.hf.refusals import retry_after_s
from vllm_mcp_protocol.hf.site import HubModel, ask, ask_within, site
from vllm_mcp_protocol.settings import Settings

SECRET = "hf_ThisIsNobodysToken123"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HfSite]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read from the environment once, at its import
    with HfSite() as started:
        started.add("org/open", {"config.json": b"{}", "model.safetensors": b"w" * 100})
        started.add("org/gated", {"config.json": b"{}"}, gated="manual", allowed_token=SECRET)
        started.add("org/private", {"config.json": b"{}"}, private=True, allowed_token=SECRET)
        yield started


def to(hub: HfSite, **more: str) -> Settings:
    return Settings.from_environment({"HF_ENDPOINT": hub.url} | more)


def refused(settings: Settings, model_id: str, revision: str | None = None) -> SuiteError:
    with pytest.raises(SuiteError) as caught:
        ask(settings, model_id, revision, limit_s=5)
    assert caught.value.info.suggestion
    assert SECRET not in json.dumps(caught.value.info.model_dump())
    return caught.value


def test_an_answer_holds_files_with_their_checksums_and_what_the_card_says(hub: HfSite) -> None:
    card = {"license": "other", "license_name": "llama3.1", "base_model": "org/base"}
    more = {
        "tags": ["text-generation", "license:other"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "downloads": 12,
        "likes": 3,
        "lastModified": "2026-05-04T03:02:01.000Z",
        "cardData": card,
        "config": {"architectures": ["LlamaForCausalLM"]},
    }
    model = hub.add("org/full", {"config.json": b"{}", "model.safetensors": b"w" * 100}, more=more)
    answer = ask(to(hub), "org/full")
    weights = next(file for file in answer.files if file.name == "model.safetensors")
    config = next(file for file in answer.files if file.name == "config.json")
    assert (answer.commit, answer.site, answer.url) == (model.commit, hub.url, f"{hub.url}/org/full")
    assert (weights.size_bytes, weights.sha256, weights.blob) == (
        100,
        weights.blob,
        model.files["model.safetensors"].blob,
    )
    assert (config.size_bytes, config.sha256, config.blob) == (2, None, model.files["config.json"].blob)
    assert (answer.license, answer.downloads, answer.likes) == ("llama3.1", 12, 3)
    assert answer.last_modified == "2026-05-04T03:02:01+00:00"
    assert answer.config == {"architectures": ["LlamaForCausalLM"]}
    assert HubModel.model_validate_json(answer.model_dump_json()) == answer


def test_a_license_is_also_read_from_the_tags(hub: HfSite) -> None:
    hub.add("org/tagged", {}, more={"tags": ["license:apache-2.0"]})
    assert ask(to(hub), "org/tagged").license == "apache-2.0"


def test_a_gated_model_says_where_to_agree_and_which_variable_to_set(hub: HfSite) -> None:
    error = refused(to(hub), "org/gated")
    assert isinstance(error, GatedRepository)
    assert error.info.details["url"] == f"{hub.url}/org/gated"
    assert error.info.details["variable"] == "HF_TOKEN"
    assert "HF_TOKEN is not set" in error.info.message
    assert "no access yet" in refused(to(hub, HF_TOKEN="hf_SomebodyElse"), "org/gated").info.message
    assert ask(to(hub, HF_TOKEN=SECRET), "org/gated").gated == "manual"


def test_what_is_said_of_a_gated_model_can_be_read_without_access(hub: HfSite) -> None:
    assert ask(to(hub), "org/gated", check_access=False).gated == "manual"
    assert hub.asked("auth-check") == []


def test_a_private_model_is_not_there_without_the_token(hub: HfSite) -> None:
    hub.answer("org/private", 401, headers={"X-Error-Code": "RepoNotFound"}, times=1)
    error = refused(to(hub), "org/private")
    assert isinstance(error, ModelNotFound)
    assert "private" in error.info.message
    assert ask(to(hub, HF_TOKEN=SECRET), "org/private").private


@pytest.mark.parametrize(
    ("status", "headers", "kind", "mentions"),
    [
        (401, {}, HuggingFaceUnauthorized, "does not accept HF_TOKEN"),
        (403, {"X-Error-Message": "read-only token"}, HuggingFaceUnauthorized, "read-only token"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, HuggingFaceUnauthorized, "disabled"),
        (404, {}, ModelNotFound, "is not at"),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelNotFound, "is not at"),
        (429, {"Retry-After": "30"}, HuggingFaceRateLimited, "in 30.0 s"),
        (429, {"RateLimit": '"api";r=0;t=55'}, HuggingFaceRateLimited, "in 55.0 s"),
        (429, {}, HuggingFaceRateLimited, "in a few minutes"),
        (500, {}, HuggingFaceUnreachable, "it answered 500"),
        (503, {}, HuggingFaceUnreachable, "it answered 503"),
        (504, {}, HuggingFaceUnreachable, "it answered 504"),
    ],
)
def test_each_refusal_has_a_code_of_its_own(
    hub: HfSite, status: int, headers: Mapping[str, str], kind: type[SuiteError], mentions: str
) -> None:
    hub.answer("org/open", status, headers=dict(headers))
    error = refused(to(hub, HF_TOKEN=SECRET), "org/open")
    assert type(error) is kind
    assert mentions in error.info.message
    assert len(hub.asked("org/open")) == 1, "a question is asked once"


def test_a_site_that_wants_a_token_says_so(hub: HfSite) -> None:
    hub.answer("org/open", 401)
    error = refused(to(hub), "org/open")
    assert isinstance(error, HuggingFaceUnauthorized)
    assert "HF_TOKEN is not set" in error.info.message


def test_a_secret_that_the_site_repeats_goes_no_further(hub: HfSite) -> None:
    hub.answer("org/open", 403, body=json.dumps({"error": f"token {SECRET} is bad"}).encode())
    refused(to(hub, HF_TOKEN=SECRET), "org/open")


def test_a_revision_that_does_not_exist_is_told_from_a_model_that_does_not(hub: HfSite) -> None:
    error = refused(to(hub), "org/open", "v9")
    assert isinstance(error, RevisionNotFound)
    assert "v9" in error.info.message
    assert isinstance(refused(to(hub), "org/none", "v9"), ModelNotFound)


@pytest.mark.parametrize("name", ["a b", "../etc", "org/a/b", "/tmp/model", "", "org/a--b", "org/a.", "x" * 200 + "/y"])
def test_what_is_no_name_of_a_repository_is_refused_without_a_question(hub: HfSite, name: str) -> None:
    error = refused(to(hub), name)
    assert isinstance(error, BadInput)
    assert error.info.details["parameter"] == "model_id"
    assert hub.seen == []


@pytest.mark.parametrize(
    "body", [b"<html>log in to the hotel's network</html>", b"[]", b"{}", b"3", b'{"id": "a/b", "siblings": 7}', b""]
)
def test_an_answer_that_no_hub_would_give_is_told_from_a_model_that_does_not_exist(hub: HfSite, body: bytes) -> None:
    hub.answer("org/open", 200, body=body)
    error = refused(to(hub), "org/open")
    assert isinstance(error, HuggingFaceUnreachable)
    assert "HF_ENDPOINT" in error.info.message


_FIELDS = ("sha", "siblings", "tags", "cardData", "gated", "downloads", "config", "lastModified", "library_name")
_VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda c: st.lists(c, max_size=3), max_leaves=5)


@run(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_FIELDS), _VALUES)
def test_whatever_a_field_of_the_answer_is_there_is_a_model_or_an_error_of_ours(
    hub: HfSite, name: str, value: object
) -> None:
    hub.add("org/odd", {"config.json": FakeFile(b"{}")}, more={name: value})
    with suppress(HuggingFaceUnreachable):
        assert ask(to(hub), "org/odd", check_access=False, limit_s=5).model_id == "org/odd"


def test_an_answer_that_is_nested_without_end_is_no_answer(hub: HfSite) -> None:
    hub.answer("GET /api/models/org/open", 200, body=b"[" * 100_000)
    assert isinstance(refused(to(hub), "org/open"), HuggingFaceUnreachable)


@pytest.mark.parametrize("commit", ["..", "/tmp/evil", "../../../x", "main"])
def test_a_commit_that_would_lead_out_of_the_cache_is_no_answer(hub: HfSite, commit: str) -> None:
    hub.models["org/open"].commit = commit
    assert isinstance(refused(to(hub), "org/open"), HuggingFaceUnreachable)


def test_half_characters_go_no_further(hub: HfSite) -> None:
    """JSON can name them, and no answer of ours could hold them."""
    hub.models["org/open"].more = {"gated": "\ud800"}
    assert ask(to(hub), "org/open", check_access=False).gated == "manual"
    hub.add("org/odd", {"a\ud800": b""})
    assert isinstance(refused(to(hub), "org/odd"), HuggingFaceUnreachable)


def test_offline_asks_nobody(hub: HfSite) -> None:
    error = refused(to(hub, HF_HUB_OFFLINE="1"), "org/open")
    assert isinstance(error, Offline)
    assert hub.seen == []


def test_a_mirror_is_asked_instead_of_the_hub(hub: HfSite) -> None:
    with HfSite() as mirror:
        mirror.add("org/mirrored", {"config.json": b"{}"})
        assert ask(to(mirror), "org/mirrored").site == mirror.url
        assert ask(Settings.from_environment({"HF_ENDPOINT": mirror.url + "/"}), "org/mirrored").site == mirror.url
    assert hub.seen == []


def test_nobody_listens(hub: HfSite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = refused(Settings.from_environment({"HF_ENDPOINT": f"http://127.0.0.1:{port}"}), "org/open")
    assert isinstance(error, HuggingFaceUnreachable)
    assert "no connection" in error.info.message


def test_a_host_that_no_name_server_knows(hub: HfSite) -> None:
    error = refused(Settings.from_environment({"HF_ENDPOINT": "http://hub.invalid"}), "org/open")
    assert isinstance(error, HuggingFaceUnreachable)
    assert "name cannot be resolved" in error.info.message


@pytest.mark.anyio
async def test_a_site_that_goes_silent_is_given_up(hub: HfSite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings.from_environment({"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        with pytest.raises(HuggingFaceUnreachable, match="silent"):
            await ask_within(settings, "org/open", limit_s=0.2)


@pytest.mark.anyio
async def test_a_question_that_hangs_outside_of_its_request_is_given_up(
    hub: HfSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr("vllm_mcp_protocol.hf.site.ask", lambda *_, **__: release.wait())
    monkeypatch.setattr("vllm_mcp_protocol.hf.site._NAME_LOOKUP_S", 0.0)
    try:
        with pytest.raises(HuggingFaceUnreachable, match="no answer within"):
            await ask_within(to(hub), "org/open", limit_s=0.1)
    finally:
        release.set()


def test_user_and_password_of_a_mirror_are_not_shown() -> None:
    settings = Settings.from_environment({"HF_ENDPOINT": "https://me:pass@mirror.example:8443/hf/"})
    assert site(settings) == "https://mirror.example:8443/hf"


def test_no_token_is_sent_that_the_settings_do_not_name(hub: HfSite, tmp_path: Path) -> None:
    """`hf auth login` leaves a token in HF_HOME, and clients pass HF_TOKEN on: both are the library's to find."""
    (tmp_path / "token").write_text(SECRET)
    code = (
        "from vllm_mcp_protocol.hf.site import ask; from vllm_mcp_protocol.settings import Settings;"
        f"ask(Settings.from_environment({{'HF_ENDPOINT': {hub.url!r}}}), 'org/gated', check_access=False)"
    )
    env = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "HF_TOKEN": SECRET}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert [seen.token for seen in hub.seen] == [None]


@given(st.integers(min_value=0, max_value=10**6))
def test_a_wait_in_seconds_is_read_as_it_stands(seconds: int) -> None:
    assert retry_after_s({"retry-after": str(seconds)}) == seconds


def test_a_wait_until_a_date_is_read_and_nonsense_is_none() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=500), usegmt=True)
    assert 400 < (retry_after_s({"retry-after": soon}) or 0) <= 500
    assert retry_after_s({"retry-after": format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)}) == 0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None
