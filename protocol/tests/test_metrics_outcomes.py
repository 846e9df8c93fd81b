"""Which requests failed, and which did not: clients that go away, servers that are overloaded."""

import pytest

from vllm_mcp_protocol.metrics.outcomes import Outcomes, outcomes

ENDED = {"request_success": 100.0, "request_success:stop": 85.0, "request_success:abort": 10.0}


@pytest.mark.parametrize(
    ("counters", "total", "failed", "aborted", "refused"),
    [
        pytest.param(ENDED, 100, 0, 10, 0, id="clients went away"),
        pytest.param({**ENDED, "request_success:error": 5.0}, 100, 5, 10, 0, id="of the engine alone, as in streams"),
        pytest.param({**ENDED, "request_success:error": 5.0, "http_requests:5xx": 5.0}, 100, 5, 10, 0, id="told twice"),
        pytest.param({**ENDED, "request_success:error": 5.0, "http_requests:5xx": 25.0}, 120, 25, 10, 0, id="and more"),
        pytest.param({"request_success": 0.0, "http_requests:5xx": 499.0}, 499, 499, 0, 0, id="nothing but 5xx"),
        pytest.param({"http_requests:500": 2.0, "http_requests:503": 3.0}, 5, 5, 0, 0, id="each status by itself"),
        pytest.param(
            {**ENDED, "http_requests:2xx": 90.0, "http_requests:4xx": 7.0}, 100, 0, 10, 7, id="wrong requests"
        ),
    ],
)
def test_what_failed(counters: dict[str, float], total: float, failed: float, aborted: float, refused: float) -> None:
    found = outcomes(counters)
    assert isinstance(found, Outcomes)
    assert (found.total, found.failed, found.aborted, found.refused) == (total, failed, aborted, refused)


def test_nothing_is_told_where_nothing_was_counted() -> None:
    assert outcomes({}) is None
    assert outcomes({"generation_tokens": 5.0, "http_requests:2xx": 1.0}) is None
