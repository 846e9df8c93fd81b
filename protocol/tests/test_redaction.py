"""What is hidden wherever text is kept or shown, and what is not, because people need it."""

import pytest

from vllm_mcp_protocol.redaction import redact_text


@pytest.mark.parametrize(
    "text",
    [
        "token hf_S3cret12 refused",
        "token hf_thisissecretthisissecret refused",
        "key sk-thisissecret",
        "ghp_thisissecret",
        "{'Authorization': 'Bearer thisissecret'}",
        'bearer "thisissecret"',
        "args: {'api_key': ['thisissecret'], 'port': 1}",
        "VLLM_API_KEY=thisissecret vllm serve",
        "HF-Token: thisissecret",
        "password='this is secret, too'",
        'client_secret: "thisissecret"',
        "access_token=thisissecret&x=1",
        "http://user:thisissecret@127.0.0.1:99999/metrics",
    ],
)
def test_a_secret_is_hidden(text: str) -> None:
    assert "secret" not in redact_text(text).lower().replace("client_secret", "")
    assert "S3cret" not in redact_text(text)
    assert "(hidden)" in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "non-default args: {'hf_overrides': {'x': 1}, 'hf_config_path': None}",
        "eos_token: </s>, max_tokens=5, key: 3",
        "KeyError: 'lm_head.weight'",
        "Token indices sequence length is longer than 2048",
        "set HF_TOKEN, then load again",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text
