"""The collector's pauses."""

import gc

import pytest

from vllm_mcp_protocol.collector import collector_paused


@pytest.mark.parametrize("was_on", [True, False])
def test_pauses_end_as_they_began_whichever_ends_first(was_on: bool) -> None:
    try:
        if not was_on:
            gc.disable()
        first, second = collector_paused(), collector_paused()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not gc.isenabled()
        with pytest.raises(ValueError, match="inside"), collector_paused():
            raise ValueError("inside")
        assert not gc.isenabled()
        second.__exit__(None, None, None)
        assert gc.isenabled() == was_on
    finally:
        gc.enable()
