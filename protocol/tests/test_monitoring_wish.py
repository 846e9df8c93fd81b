"""What a client may ask of the sampler."""

import pytest
from pydantic import ValidationError

from vllm_mcp_protocol.monitoring import MonitoringWish


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "http://:0", "http://a b", "ftp://a", "a:1"])
def test_an_address_that_nobody_can_ask_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        MonitoringWish(endpoint=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/metrics", "https://[::1]:9", "http://gpu-1"])
def test_an_address_is_kept_as_it_is(url: str) -> None:
    assert MonitoringWish(endpoint=url).endpoint == url
