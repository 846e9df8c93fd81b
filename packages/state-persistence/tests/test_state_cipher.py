"""The store's keys: what somebody who can write the file cannot do."""

import pytest

from vllm_mcp_protocol.errors import StoreDamaged
from vllm_state_persistence.key_forms import parse_key
from vllm_state_persistence.keys import KeyRing
from vllm_state_persistence.store.cipher import make_cipher, new_secret, wrap

STORE = bytes(range(16))


@pytest.mark.parametrize("number", [0, 2])
def test_an_unwrapped_data_key_beside_wrapped_ones_is_refused(number: int) -> None:
    """With a lower number it would make the ids, with a higher one it would seal."""
    ring = KeyRing([parse_key("hex:" + "ab" * 32, "ENCRYPTION_KEY")])
    good = (1, wrap(new_secret(), ring, encrypts=True))
    assert make_cipher(STORE, [good], ring, None).encrypts
    forged = (number, wrap(new_secret(), ring, encrypts=False))
    for rows in ([good, forged], [forged, good]):
        with pytest.raises(StoreDamaged, match="put in from outside"):
            make_cipher(STORE, rows, ring, None)
