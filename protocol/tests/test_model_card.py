"""The front matter of model cards: the keys that are read, and what must not trip the reader."""

import json
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mcp_protocol.checkpoint.card import FRONT_MATTER_LIMIT_CHARS, ModelCard, read_model_card

# The shape of Qwen2.5-7B-Instruct-AWQ's card, with lists in each of the styles that are about.
CARD = """---
license: apache-2.0
license_link: https://huggingface.co/org/model/blob/main/LICENSE
language:
- en
- 'no'   # Norwegian, which YAML would take for false
  # a comment
- "zh"

pipeline_tag: text-generation
base_model: org/base-7b
base_model_relation: quantized
tags: [chat, "awq", 4-bit]
library_name: transformers
model-index:
- name: model
  results:
  - task:
      type: text-generation
    license: not-this-one
---

# Model
license: nor-this-one
"""


def card(*lines: str) -> ModelCard:
    return read_model_card("\n".join(["---", *lines, "---", ""]))


def test_the_keys_of_a_card_are_read() -> None:
    assert read_model_card(CARD) == ModelCard(
        license="apache-2.0",
        license_link="https://huggingface.co/org/model/blob/main/LICENSE",
        base_models=("org/base-7b",),
        base_model_relation="quantized",
        pipeline_tag="text-generation",
        library_name="transformers",
        tags=("chat", "awq", "4-bit"),
        languages=("en", "no", "zh"),
    )


def test_a_license_of_its_own_goes_by_its_name() -> None:
    found = card("license: other", "license_name: qwen-research", "license_link: LICENSE")
    assert (found.license, found.license_link) == ("qwen-research", "LICENSE")
    assert card("license: other").license == "other"
    assert card("license: mit", "license_name: x").license == "mit"


def test_a_gated_card_is_noticed_and_its_words_are_stepped_over() -> None:
    found = card(
        "extra_gated_prompt: >-", "  ### LICENSE: sign here", "  tags: [no]", "license: llama3.1", "tags:", "- a"
    )
    assert (found.gated_prompt, found.license, found.tags) == (True, "llama3.1", ("a",))
    assert not card("license: mit").gated_prompt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# Model\nlicense: mit",
        "---\nlicense: mit\n",  # no end
        "----\nlicense: mit\n---\n",
        "\n---\nlicense: mit\n---\n",
        "---\n  license: mit\n---\n",  # nested in nothing
        "---\nlicense:mit\n---\n",
        "---\nlicense: {name: mit}\n---\n",
        "---\nlicense: |\n  mit\n---\n",
        "---\nlicense: null\n---\n",
        "---\nlicense: ''\n---\n",
        "---\nlicense: # mit\n---\n",
        f"---\nlicense: {'x' * 201}\n---\n",
    ],
)
def test_what_is_no_plain_value_counts_as_absent(text: str) -> None:
    assert read_model_card(text) == ModelCard()


def test_a_byte_order_mark_and_windows_line_ends_are_no_obstacle() -> None:
    assert read_model_card("\ufeff---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n") == ModelCard(
        license="mit", tags=("a",)
    )


def test_a_card_without_end_is_read_up_to_the_limit_and_no_further() -> None:
    long = "---\nlicense: mit\nx: " + "y" * FRONT_MATTER_LIMIT_CHARS + "\ntags: [late]\n"
    assert read_model_card(long) == ModelCard(license="mit")
    assert len(card("tags:", *["- tag"] * 10_000).tags) == 200


_TEXT = st.text(max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(st.one_of(_TEXT, st.sampled_from(CARD.splitlines()), _TEXT.map("license: {}".format)), max_size=12)
)
def test_no_text_raises(lines: list[str]) -> None:
    found = card(*lines)
    for value in (found.license, *found.tags, *found.languages, *found.base_models):
        assert value is None or (0 < len(value) <= 200 and value.encode())


_PLAIN = st.from_regex(r"[a-z][a-z0-9./-]{0,15}", fullmatch=True)
_CARDS = st.fixed_dictionaries(
    {},
    optional={
        "license": _PLAIN,
        "base_model": _PLAIN | st.lists(_PLAIN, max_size=3),
        "pipeline_tag": _PLAIN,
        "tags": st.lists(_PLAIN, max_size=5),
        "language": st.lists(_PLAIN, max_size=5),
        "datasets": st.lists(_PLAIN, max_size=3),
        "model-index": st.just([{"name": "x", "results": [{"license": "no", "tags": ["no"]}]}]),
    },
)


def _written(described: dict[str, Any], flow: bool) -> str:
    """As a YAML writer lays it out, or each value on its line: JSON is YAML too."""
    if flow:
        return "".join(f"{key}: {json.dumps(value)}\n" for key, value in described.items())
    text: str = yaml.safe_dump(described, width=10_000, sort_keys=False)
    return text


@settings(max_examples=200, deadline=None)
@given(described=_CARDS, flow=st.booleans())
def test_cards_that_a_yaml_writer_wrote_are_read_like_a_yaml_reader_reads_them(
    described: dict[str, Any], flow: bool
) -> None:
    written = _written(described, flow)
    assert (yaml.safe_load(written) or {}) == described
    found = read_model_card(f"---\n{written}---\n")
    base = described.get("base_model", [])
    assert found.license == described.get("license")
    assert found.pipeline_tag == described.get("pipeline_tag")
    assert found.tags == tuple(described.get("tags", ()))
    assert found.languages == tuple(described.get("language", ()))
    assert found.base_models == tuple([base] if isinstance(base, str) else base)
