"""Keys: stated, never guessed; found where they are said to be; never shown; and what they lock only they open."""

import base64
import hashlib
import os
import stat
import traceback
from hashlib import blake2b
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from vllm_mcp_protocol.errors import BadInput, KeyMissing, KeyWrong, SettingError, StateTrouble, StoreDamaged
from vllm_mcp_protocol.settings import Settings
from vllm_state_persistence.key_forms import GivenKey, parse_key
from vllm_state_persistence.key_places import (
    KEY_FILE,
    add_key,
    create_in_system_keyring,
    create_key_file,
    forget_old_keys,
    read_key_file,
)
from vllm_state_persistence.key_wrapping import Scrypt, WrappedKey, key_id, lock, unlock
from vllm_state_persistence.keys import NOT_ENCRYPTED, KeyRing

SECRET = bytes(range(100, 132))
DATA_KEY = bytes(range(32))
HEX = f"hex:{SECRET.hex()}"
CHEAP = Scrypt(bytes(16), log2_n=2, r=1, p=1)


def settings(key: str | None = None, **more: str) -> Settings:
    return Settings.from_environment({**({"ENCRYPTION_KEY": key} if key else {}), **more})


@pytest.fixture(autouse=True)
def _no_system_keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has, these tests meet a keyring that is empty."""
    install_keyring(monkeypatch, tmp_path, "get_password = lambda service, user: None")


def install_keyring(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """A library `keyring` with the functions of `source`."""
    place = folder / f"library-{os.urandom(4).hex()}"
    place.mkdir()
    (place / "keyring.py").write_text(source)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(__import__("sys").modules, "keyring", raising=False)


# Forms


@given(st.binary(min_size=32, max_size=32))
def test_hex_and_base64_give_the_same_key_however_they_are_written(secret: bytes) -> None:
    standard = base64.b64encode(secret).decode()
    texts = [secret.hex(), secret.hex().upper()]
    for form in [f"hex:{text}" for text in texts] + [
        f"base64:{text}" for text in (standard, standard.rstrip("="), base64.urlsafe_b64encode(secret).decode())
    ]:
        assert parse_key(form, "here") == GivenKey("here", secret)


def test_raw_bytes_are_those_of_the_environment() -> None:
    assert parse_key("raw:" + "k" * 32, "here").secret == b"k" * 32
    assert parse_key("raw:hex:" + "k" * 28, "here").secret == b"hex:" + b"k" * 28
    assert parse_key("raw:" + os.fsdecode(b"\xff\xfe" + b"k" * 30), "here").secret == b"\xff\xfe" + b"k" * 30


def test_a_passphrase_is_the_same_from_every_keyboard() -> None:
    composed, apart = parse_key("passphrase:caf\u00e9 crème", "x"), parse_key("passphrase:cafe\u0301 crème", "x")
    assert composed.secret == apart.secret == "café crème".encode()
    assert composed.is_passphrase


@pytest.mark.parametrize(
    "text",
    [
        "correct horse battery staple",
        SECRET.hex(),
        base64.b64encode(SECRET).decode(),
        f"HEX:{SECRET.hex()}",
        f"sha256:{SECRET.hex()}",
        "hex",
        "hex:",
        f"hex:{SECRET.hex()[:-2]}",
        f"hex:{SECRET.hex()}00",
        f"hex:{'zz' * 32}",
        f"hex:{'é' * 64}",
        f"base64:{SECRET.hex()}",
        "base64:!!!!",
        "base64:é",
        "raw:short-secret",
        "passphrase:sevench",
        "passphrase:",
    ],
)
def test_what_is_not_stated_or_not_fitting_is_refused_without_being_shown(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as error:
        KeyRing.from_settings(settings(text), tmp_path)
    shown = "".join(traceback.format_exception(error.value)) + str(error.value.info)
    secret = text.partition(":")[2] if ":" in text else text
    assert len(secret) < 4 or secret not in shown
    for form in ("hex:", "base64:", "raw:", "passphrase:"):
        assert form in error.value.info.suggestion
    assert "ENCRYPTION_KEY" in error.value.info.message


def test_keys_do_not_show() -> None:
    given_key = parse_key("passphrase:nobody sees this", "ENCRYPTION_KEY")
    given_key.key_for(CHEAP)
    ring = KeyRing([given_key])
    wrapped = parse_key(HEX, "x").lock(DATA_KEY)
    for shown in (repr(given_key), str(given_key), repr(ring), repr(vars(ring)), repr(wrapped)):
        assert "nobody" not in shown
        assert repr(SECRET)[2:-1] not in shown
        assert repr(DATA_KEY)[2:-1] not in shown


# Wrapping


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_wrapped_key_opens_for_another_reader(key: bytes, data_key: bytes) -> None:
    stored = lock(key, None, data_key).to_bytes()
    assert unlock(key, WrappedKey.from_bytes(stored)) == data_key
    assert len(stored) == 92

    header, nonce, ciphertext = stored[:32], stored[32:44], stored[44:]  # as docs/state-format.md says
    name = blake2b(digest_size=8, key=key, person=b"vllm-state-keyid").digest()
    assert header == b"VSK\x01\x00" + name + bytes(3) + bytes(16)
    own = blake2b(digest_size=32, key=key, person=b"vllm-state-wrap").digest()
    assert AESGCM(own).decrypt(nonce, ciphertext, header) == data_key


def test_a_passphrase_goes_through_scrypt_with_the_stored_parameters() -> None:
    ring = KeyRing([parse_key("passphrase:correct horse", "x")])
    stored = ring.wrap(DATA_KEY).to_bytes()
    log2_n, r, p, salt = stored[13], stored[14], stored[15], stored[16:32]
    assert (log2_n, r, p) == (15, 8, 3)
    key = hashlib.scrypt(b"correct horse", salt=salt, n=2**15, r=8, p=3, maxmem=2**26, dklen=32)
    assert stored[:13] == b"VSK\x01\x01" + key_id(key)
    assert unlock(key, WrappedKey.from_bytes(stored)) == DATA_KEY
    assert ring.unwrap(WrappedKey.from_bytes(stored)) == DATA_KEY
    assert ring.wrap(DATA_KEY).scrypt == WrappedKey.from_bytes(stored).scrypt, "one salt for one passphrase"
    assert KeyRing([parse_key("passphrase:correct horse", "x")]).wrap(DATA_KEY).to_bytes()[16:32] != salt


def test_every_wrap_is_another_one() -> None:
    ring = KeyRing([parse_key(HEX, "x")])
    assert len({ring.wrap(DATA_KEY).to_bytes() for _ in range(50)}) == 50


@pytest.mark.parametrize("scrypt", [None, CHEAP], ids=["key", "passphrase"])
def test_every_flipped_bit_of_a_wrapped_key_is_found(scrypt: Scrypt | None) -> None:
    given_key = GivenKey("x", SECRET, scrypt is not None)
    ring = KeyRing([given_key])
    stored = lock(given_key.key_for(scrypt) or b"", scrypt, DATA_KEY).to_bytes()
    assert ring.unwrap(WrappedKey.from_bytes(stored)) == DATA_KEY
    for place in range(len(stored)):
        for bit in range(8):
            if scrypt and 13 <= place < 16 and bit > 1:
                continue  # costs that are allowed, and take their time
            changed = bytearray(stored)
            changed[place] ^= 1 << bit
            with pytest.raises((StoreDamaged, KeyWrong)):
                ring.unwrap(WrappedKey.from_bytes(bytes(changed)))


@pytest.mark.parametrize("length", [0, 1, 91, 93])
def test_a_wrapped_key_of_another_length_is_damage(length: int) -> None:
    with pytest.raises(StoreDamaged, match=f"{length} bytes"):
        WrappedKey.from_bytes(bytes(length))


@pytest.mark.parametrize(("log2_n", "r", "p"), [(19, 8, 1), (255, 8, 1), (15, 9, 1), (15, 8, 9), (0, 8, 1), (15, 0, 1)])
def test_a_file_cannot_ask_for_endless_work(log2_n: int, r: int, p: int) -> None:
    stored = bytearray(lock(SECRET, CHEAP, DATA_KEY).to_bytes())
    stored[13:16] = log2_n, r, p
    with pytest.raises(StoreDamaged, match="out of bounds"):
        WrappedKey.from_bytes(bytes(stored))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_only_data_keys_are_wrapped(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyRing([parse_key(HEX, "x")]).wrap(bytes(length))


# Several keys


def test_the_wrong_key_is_one_clear_error_that_names_both() -> None:
    wrapped = KeyRing([parse_key(HEX, "x")]).wrap(DATA_KEY)
    other = parse_key("hex:" + "00" * 32, "ENCRYPTION_KEY")
    with pytest.raises(KeyWrong) as error:
        KeyRing([other]).unwrap(wrapped)
    assert key_id(SECRET).hex() in str(error.value)
    assert f"{key_id(bytes(32)).hex()} from ENCRYPTION_KEY" in str(error.value)
    assert SECRET.hex() not in str(error.value)


def test_a_passphrase_where_a_key_is_wanted_is_said_so() -> None:
    wrapped = KeyRing([parse_key(HEX, "x")]).wrap(DATA_KEY)
    with pytest.raises(KeyWrong, match=r"with a key of id .*given are a passphrase from ENCRYPTION_KEY"):
        KeyRing([parse_key("passphrase:correct horse", "ENCRYPTION_KEY")]).unwrap(wrapped)
    locked = lock(CHEAP.key(b"correct horse"), CHEAP, DATA_KEY)
    with pytest.raises(KeyWrong, match=r"with a passphrase of id .*given are a key from ENCRYPTION_KEY"):
        KeyRing([parse_key(HEX, "ENCRYPTION_KEY")]).unwrap(locked)
    with pytest.raises(KeyWrong, match="passphrase"):
        KeyRing([parse_key("passphrase:wrong horse", "ENCRYPTION_KEY")]).unwrap(locked)


def test_the_first_key_locks_and_all_open() -> None:
    old, new = parse_key(HEX, "old"), parse_key("hex:" + "11" * 32, "new")
    wrapped = KeyRing([old]).wrap(DATA_KEY)
    ring = KeyRing([new, old])
    assert ring.unwrap(wrapped) == DATA_KEY
    assert not ring.is_current(wrapped)
    again = ring.wrap(ring.unwrap(wrapped))
    assert ring.is_current(again)
    assert KeyRing([new]).unwrap(again) == DATA_KEY
    with pytest.raises(KeyWrong):
        KeyRing([old]).unwrap(again)


def test_without_keys_nothing_is_locked_or_opened() -> None:
    ring = KeyRing([], encrypts=False)
    with pytest.raises(KeyMissing, match="init-key"):
        ring.wrap(DATA_KEY)
    with pytest.raises(KeyMissing):
        ring.unwrap(lock(SECRET, None, DATA_KEY))
    assert not ring.is_current(lock(SECRET, None, DATA_KEY))


# Where keys come from


def opens(ring: KeyRing, key: bytes) -> bool:
    try:
        return ring.unwrap(lock(key, None, DATA_KEY)) == DATA_KEY
    except KeyWrong:
        return False


def test_no_key_at_all_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KeyMissing) as error:
        KeyRing.from_settings(settings(), tmp_path)
    assert "init-key" in error.value.info.suggestion
    assert str(tmp_path) in error.value.info.message


def test_without_encryption_it_works_and_is_loud(tmp_path: Path) -> None:
    off = KeyRing.from_settings(settings(ENCRYPT_SENSITIVE_DATA="false"), tmp_path)
    assert not off.encrypts
    assert off.notes == (NOT_ENCRYPTED,)
    assert "WITHOUT encryption" in NOT_ENCRYPTED
    still = KeyRing.from_settings(settings(HEX, ENCRYPT_SENSITIVE_DATA="false"), tmp_path)
    assert opens(still, SECRET), "what was encrypted before stays readable"
    assert KeyRing.from_settings(settings(HEX), tmp_path).notes == ()


def test_a_key_file_is_made_private_and_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    path = create_key_file(folder)
    assert path == folder / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    ring = KeyRing.from_settings(settings(), folder)
    wrapped = ring.wrap(DATA_KEY)
    content = path.read_bytes()
    with pytest.raises(BadInput, match="left as it is"):
        create_key_file(folder)
    assert path.read_bytes() == content
    assert os.listdir(folder) == [KEY_FILE]
    assert KeyRing.from_settings(settings(), folder).unwrap(wrapped) == DATA_KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = create_key_file(tmp_path)
    path.chmod(mode)
    with pytest.raises(KeyMissing, match=f"mode {mode:04o}") as error:
        KeyRing.from_settings(settings(), tmp_path)
    assert f"chmod 600 {path}" in error.value.info.suggestion
    ring = KeyRing.from_settings(settings(HEX), tmp_path)
    assert opens(ring, SECRET)
    assert "is not used" in ring.notes[0]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_key_file_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(create_key_file(tmp_path), 12345, -1)
    with pytest.raises(KeyMissing, match="user 12345"):
        read_key_file(tmp_path / KEY_FILE)


def test_what_is_no_short_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "long").write_bytes(b"#" * 100_000)
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path in tmp_path.iterdir():
        if not path.name.startswith("library"):
            path.chmod(0o600) if path.is_file() else None
            with pytest.raises(KeyMissing, match="is not used"):
                read_key_file(path)
    assert read_key_file(tmp_path / "absent") == []


def write_private(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def test_a_key_file_holds_several_keys_and_comments(tmp_path: Path) -> None:
    write_private(tmp_path / KEY_FILE, f"# mine\n\n  hex:{'22' * 32}  \n{HEX}\npassphrase:correct horse\n")
    ring = KeyRing.from_settings(settings(), tmp_path)
    assert ring.wrap(DATA_KEY).key_id == key_id(b"\x22" * 32)
    assert opens(ring, SECRET)
    assert ring.unwrap(lock(CHEAP.key(b"correct horse"), CHEAP, DATA_KEY)) == DATA_KEY


def test_a_bad_line_is_named_by_its_number_and_not_shown(tmp_path: Path) -> None:
    write_private(tmp_path / KEY_FILE, f"# mine\n{HEX}\nmy-own-secret\n")
    with pytest.raises(SettingError, match="line 3") as error:
        KeyRing.from_settings(settings(), tmp_path)
    assert "my-own-secret" not in str(error.value)
    assert "line 3" in KeyRing.from_settings(settings(HEX), tmp_path).notes[0]


def test_the_environment_locks_and_the_key_file_still_opens(tmp_path: Path) -> None:
    create_key_file(tmp_path)
    by_file = KeyRing.from_settings(settings(), tmp_path).wrap(DATA_KEY)
    ring = KeyRing.from_settings(settings(HEX), tmp_path)
    assert ring.wrap(DATA_KEY).key_id == key_id(SECRET)
    assert ring.unwrap(by_file) == DATA_KEY
    assert not ring.is_current(by_file)


def test_a_rotation_can_stop_anywhere(tmp_path: Path) -> None:
    path = create_key_file(tmp_path)
    wrapped = KeyRing.from_settings(settings(), tmp_path).wrap(DATA_KEY)
    first = path.read_text().splitlines()[-1]

    add_key(tmp_path)
    assert first in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = KeyRing.from_settings(settings(), tmp_path)
    assert ring.unwrap(wrapped) == DATA_KEY
    assert not ring.is_current(wrapped)
    again = ring.wrap(DATA_KEY)
    assert ring.unwrap(again) == ring.unwrap(wrapped) == DATA_KEY

    assert forget_old_keys(tmp_path) == 1
    assert first not in path.read_text()
    ring = KeyRing.from_settings(settings(), tmp_path)
    assert ring.unwrap(again) == DATA_KEY
    with pytest.raises(KeyWrong):
        ring.unwrap(wrapped)
    assert forget_old_keys(tmp_path) == 0


def test_a_rotation_needs_a_key_file_and_has_an_end(tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match="init-key"):
        add_key(tmp_path)
    create_key_file(tmp_path)
    for _ in range(63):
        add_key(tmp_path)
    with pytest.raises(KeyMissing, match="64 keys"):
        add_key(tmp_path)
    assert len(read_key_file(tmp_path / KEY_FILE)) == 64


KEYRING = f"""
entries = {{}}
def get_password(service, user):
    return entries.get((service, user))
def set_password(service, user, text):
    entries[service, user] = text
entries["vllm-state-persistence", "state-key"] = "{HEX}"
"""


def test_the_system_keyring_is_asked_when_nothing_else_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_keyring(monkeypatch, tmp_path, KEYRING)
    assert opens(KeyRing.from_settings(settings(), tmp_path), SECRET)
    create_key_file(tmp_path)
    assert not opens(KeyRing.from_settings(settings(), tmp_path), SECRET)


def test_a_key_is_put_into_the_system_keyring_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_keyring(monkeypatch, tmp_path, KEYRING.replace(HEX, ""))
    create_in_system_keyring()
    wrapped = KeyRing.from_settings(settings(), tmp_path).wrap(DATA_KEY)
    assert KeyRing.from_settings(settings(), tmp_path).unwrap(wrapped) == DATA_KEY
    with pytest.raises(BadInput, match="left as it is"):
        create_in_system_keyring()


@pytest.mark.parametrize(
    "source",
    ["raise ImportError('no such library')", "def get_password(*_): raise RuntimeError('no bus: hex:secret')"],
)
def test_a_keyring_that_does_not_work_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    install_keyring(monkeypatch, tmp_path, source)
    with pytest.raises(KeyMissing):
        KeyRing.from_settings(settings(), tmp_path)
    with pytest.raises(StateTrouble) as error:
        create_in_system_keyring()
    assert "secret" not in str(error.value)


def test_a_bad_entry_of_the_keyring_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_keyring(monkeypatch, tmp_path, KEYRING.replace("hex:", "hxe:"))
    with pytest.raises(SettingError, match="the system keyring") as error:
        KeyRing.from_settings(settings(), tmp_path)
    assert SECRET.hex() not in str(error.value)
