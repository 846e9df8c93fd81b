"""hub.log: one line for each message."""

import logging

from vllm_mcp_hub.__main__ import OneLine


def test_a_message_is_one_line_whatever_it_names() -> None:
    name = 'org/"a"\n2026 INFO forged\x1b[2J 世'
    record = logging.LogRecord("hub", logging.INFO, "", 0, "alert %s", (name,), None)
    line = OneLine("%(levelname)s %(message)s").format(record)
    assert line == 'INFO alert org/"a"\\n2026 INFO forged\\x1b[2J 世'
