"""The error tree: stable codes, whole over the wire."""

from collections import Counter

import pytest

from vllm_mcp_protocol import errors
from vllm_mcp_protocol.errors import ErrorInfo, GpuMemoryInsufficient, SuiteError, error_classes, error_from_info


def test_codes_are_unique() -> None:
    counts = Counter(cls.code for cls in error_classes())
    assert [code for code, count in counts.items() if count > 1] == []


def test_every_code_a_user_can_meet_is_drawn_in_the_modules_tree() -> None:
    leaves = {cls.code for cls in error_classes() if not cls.__subclasses__()}
    drawn = errors.__doc__ or ""
    missing = {code for code in leaves if code not in drawn}
    engine_failures = {cls.code for cls in error_classes(errors.EngineFailed)}
    assert missing <= engine_failures, "those are summed up in one line"


@pytest.mark.parametrize("cls", list(error_classes()))
def test_an_error_is_the_same_after_the_wire(cls: type[SuiteError]) -> None:
    sent = cls("no room on 0", required_mb=5, suggestion="unload-model e3")
    received = error_from_info(ErrorInfo.model_validate_json(sent.info.model_dump_json()))
    assert type(received) is cls
    assert received.info == sent.info
    assert str(received) == "no room on 0 Next: unload-model e3"


def test_an_unknown_code_stays_readable() -> None:
    received = error_from_info(ErrorInfo(code="FROM_THE_FUTURE", message="new trouble"))
    assert type(received) is SuiteError
    assert received.info.code == "FROM_THE_FUTURE"


def test_details_carry_the_suggestion() -> None:
    info = GpuMemoryInsufficient("full", holders=["e3"], suggestion="unload-model e3").info
    assert info.model_dump() == {
        "code": "GPU_MEMORY_INSUFFICIENT",
        "message": "full",
        "details": {"holders": ["e3"], "suggestion": "unload-model e3"},
    }


def test_more_details_leave_the_error_what_it_is() -> None:
    first = GpuMemoryInsufficient("full", holders=["e3"], suggestion="wait")
    second = first.with_details("full indeed", suggestion="unload-model e3", state="as before")
    assert type(second) is GpuMemoryInsufficient
    assert (second.info.message, second.args) == ("full indeed", ("full indeed",))
    assert second.info.details == {"holders": ["e3"], "suggestion": "unload-model e3", "state": "as before"}
    assert (first.with_details().info, first.info.suggestion) == (first.info, "wait")


def test_more_details_keep_a_code_that_is_not_known_here() -> None:
    received = error_from_info(ErrorInfo(code="FROM_THE_FUTURE", message="new trouble"))
    assert received.with_details(engine_id="e1").info.code == "FROM_THE_FUTURE"
