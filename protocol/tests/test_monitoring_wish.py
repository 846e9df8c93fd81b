"""What a client may ask of the sampler."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from vllm_mcp_protocol.errors import SettingError
from vllm_mcp_protocol.hub_config import read_config
from vllm_mcp_protocol.monitoring import MonitoringWish
from vllm_mcp_protocol.settings import Settings


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "http://:0", "http://a b", "ftp://a", "a:1"])
def test_an_address_that_nobody_can_ask_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        MonitoringWish(endpoint=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/metrics", "https://[::1]:9", "http://gpu-1"])
def test_an_address_is_that_of_an_engine_with_or_without_the_path_that_is_asked(url: str) -> None:
    assert MonitoringWish(endpoint=url).endpoint == url.removesuffix("/metrics")
    assert Settings.from_environment({"METRICS_ENDPOINT": f"{url}/"}).metrics_endpoint == url.removesuffix("/metrics")


@pytest.mark.parametrize("port", [8000, 99999])
def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path: Path, port: int) -> None:
    url = f"http://user:geheim@127.0.0.1:{port}/metrics"
    with pytest.raises(SettingError) as caught:
        Settings.from_environment({"METRICS_ENDPOINT": url})
    config = tmp_path / "hub.toml"
    config.write_text(f'[monitoring]\nendpoint = "{url}"\n')
    with pytest.raises(SettingError) as of_file:
        read_config(config)
    for error in (caught.value, of_file.value):
        assert "geheim" not in error.info.model_dump_json()
