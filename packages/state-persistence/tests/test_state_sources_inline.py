"""Messages that are given as they are, and the glimpses that lists show of any message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import BadInput
from vllm_state_persistence.core.previews import SHOWN_CHARACTERS, preview_of, shown_text
from vllm_state_persistence.core.values import decode
from vllm_state_persistence.sources.inline import inline_content, preview


def test_messages_become_records_and_come_back_exactly() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "look\n at"}, {"type": "image_url", "image_url": "x"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}], "x": 1.5},
        {"role": "user", "content": "\ud800 odd"},
    ]
    content = inline_content(messages, "my-talk", "/work", at=7.0)
    assert [decode(record.content) for record in content.records] == messages
    assert [(record.role, preview(record)) for record in content.records] == [
        ("system", "Be brief."),
        ("user", "look at"),
        ("assistant", ""),
        ("user", "odd"),
    ]
    assert (content.ref.title, content.ref.updated_at, content.kept) == ("look at", 7.0, 0)
    assert inline_content(messages, "my-talk", "/work", at=8.0).ref.marker == content.ref.marker
    assert inline_content(messages[:3], "my-talk", "/work", at=7.0).ref.marker != content.ref.marker


@pytest.mark.parametrize("bad", ["text", 7, None, ["a"], {"role": 3}, {"content": {1, 2}}])
def test_what_is_no_message_is_named(bad: object) -> None:
    with pytest.raises(BadInput, match=r"messages\[1\]"):
        inline_content([{"role": "user", "content": "x"}, bad], "s", "", at=0.0)


@given(text=st.text(st.characters(exclude_categories=[])), cut=st.integers(0, 400))
def test_a_glimpse_fits_into_any_answer(text: str, cut: int) -> None:
    line = json.dumps({"text": text}).encode()[:cut]
    for shown in (preview_of(line), preview_of(json.dumps({"text": text}, ensure_ascii=False)), shown_text(text)):
        assert len(shown) <= SHOWN_CHARACTERS
        assert shown.isprintable()
        shown.encode()


@given(text=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=SHOWN_CHARACTERS))
def test_a_short_text_is_shown_whole(text: str) -> None:
    assert preview_of(json.dumps([{"type": "text", "data": {"text": text}}])) == text
