"""Payload keys: what is encrypted opens with its key, in its place, unchanged, and with nothing else."""

import base64
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn.errors import KeyturnError, SettingsInvalid
from keyturn.keyring import PSEUDONYM
from keyturn.keyring_files import (
    keyring_from_environment,
    load_keyring,
    new_key_line,
    new_keyring_text,
    parse_keyring,
    write_keys,
)
from keyturn.payload_errors import PayloadKeyUnknown, PayloadNotAuthentic
from tests.support.keys import KEYRING, KEYS_TEXT, NEWER, OLDER, PSEUDONYMS, ring

PLACE = b"a namespace"


@given(st.binary(max_size=2_000))
def test_what_is_encrypted_is_decrypted_again(plain: bytes) -> None:
    """Byte for byte, and the same bytes are never encrypted the same way twice."""
    key_id, encrypted = KEYRING.encrypt(plain, PLACE)
    assert key_id == "newer"
    assert KEYRING.decrypt(key_id, encrypted, PLACE) == plain
    assert KEYRING.encrypt(plain, PLACE)[1] != encrypted


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_single_changed_bit_is_noticed(plain: bytes, data: st.DataObject) -> None:
    """Anywhere: in the nonce, in the text, in the tag."""
    key_id, encrypted = KEYRING.encrypt(plain, PLACE)
    place = data.draw(st.integers(0, len(encrypted) * 8 - 1))
    changed = bytearray(encrypted)
    changed[place // 8] ^= 1 << place % 8
    with pytest.raises(PayloadNotAuthentic):
        KEYRING.decrypt(key_id, bytes(changed), PLACE)


@given(st.binary(max_size=300), st.text(max_size=40))
def test_whatever_somebody_sends_is_refused_by_a_name(encrypted: bytes, key_id: str) -> None:
    """Never a traceback of a library, and never a word of what was sent."""
    with pytest.raises((PayloadKeyUnknown, PayloadNotAuthentic)) as caught:
        KEYRING.decrypt(key_id, encrypted, PLACE)
    assert isinstance(caught.value, KeyturnError)


def test_keys_rotate() -> None:
    """The newest encrypts; an older one still opens; one that was taken out is refused with its name."""
    before, during, after = ring(OLDER), ring(NEWER, OLDER), ring(NEWER)
    old_id, old = before.encrypt(b"from before", PLACE)
    new_id, new = during.encrypt(b"from now on", PLACE)
    assert (old_id, new_id) == ("older", "newer")
    assert during.decrypt(old_id, old, PLACE) == b"from before"
    assert after.decrypt(new_id, new, PLACE) == b"from now on"
    with pytest.raises(
        PayloadKeyUnknown, match=r"under the key older, which is not among this machine's keys \(newer\)"
    ):
        after.decrypt(old_id, old, PLACE)


def test_what_is_encrypted_for_one_place_is_not_decrypted_in_another() -> None:
    """Nor under another key's name."""
    both = ring(NEWER, OLDER)
    key_id, encrypted = both.encrypt(b"x", PLACE)
    for name, place in ((key_id, b"another namespace"), ("older", PLACE)):
        with pytest.raises(PayloadNotAuthentic):
            both.decrypt(name, encrypted, place)


def test_names_become_pseudonyms_that_stay() -> None:
    """The same on every machine with the key, whatever payload keys there are; another name is another one."""
    one, other = ring(NEWER, account_names="pseudonym"), ring(OLDER, account_names="pseudonym")
    assert one.name_of("acct_10234") == other.name_of("acct_10234") != one.name_of("acct_10235")
    assert one.name_of("acct_10234").startswith("~")
    assert one.name_of(one.name_of("acct_10234")) == one.name_of("acct_10234")
    assert "10234" not in one.name_of("acct_10234")
    foreign = parse_keyring(f"{NEWER},{new_key_line(PSEUDONYM)}", source="x")
    assert foreign.name_of("acct_10234") != one.name_of("acct_10234")
    assert ring(NEWER, account_names="plain").name_of("acct_10234") == "acct_10234"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no payload key"),
        (PSEUDONYMS, "has no payload key"),
        (NEWER, "has no key 'pseudonym'"),
        (f"{NEWER},{NEWER},{PSEUDONYMS}", "the key newer is listed twice"),
        (f"nonsense,{PSEUDONYMS}", "entry 1 is not ID:BASE64"),
        (f"{NEWER}\nwith space:AAAA\n{PSEUDONYMS}", "entry 2 is not ID:BASE64"),
        (f"short:{base64.b64encode(b'x' * 16).decode()},{PSEUDONYMS}", "the key short is not 32 bytes in base64"),
        (f"bad:%%%%,{PSEUDONYMS}", "the key bad is not 32 bytes in base64"),
    ],
    ids=["empty", "no payload key", "no pseudonym", "twice", "nonsense", "a space", "short", "not base64"],
)
def test_a_keyring_that_cannot_be_used_is_reported_by_its_fault_and_not_by_its_keys(text: str, fault: str) -> None:
    """By commas or lines, with comments."""
    with pytest.raises(SettingsInvalid, match=fault) as caught:
        parse_keyring(text, source="KEYTURN_PAYLOAD_KEYS")
    for secret in (NEWER, PSEUDONYMS):
        assert secret.partition(":")[2] not in str(caught.value)


def test_lines_and_comments_are_read_as_commas_are() -> None:
    """A file may say what a key is for."""
    parsed = parse_keyring(f"# since August\n{NEWER}\n\n{OLDER}\n{PSEUDONYMS}\n", source="x")
    assert list(parsed.check_values) == ["newer", "older"]
    assert parsed.check_values == ring(NEWER, OLDER).check_values


def test_production_needs_keys_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of development does not count there, and a missing file is reported."""
    monkeypatch.chdir(tmp_path)
    write_keys(tmp_path / ".keyturn" / "payload_keys")
    with pytest.raises(SettingsInvalid, match="production encrypts payloads"):
        load_keyring(text=None, file=None, development=False)
    with pytest.raises(SettingsInvalid, match="there is no file"):
        load_keyring(text=None, file=tmp_path / "absent", development=False)
    with pytest.raises(SettingsInvalid, match="both set"):
        load_keyring(text=new_keyring_text(), file=tmp_path / "x", development=True)
    assert load_keyring(text=new_keyring_text(), file=None, development=False).accepts_plain is False


def test_development_makes_its_keys_once_for_a_worker_and_never_for_a_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readable by their owner alone; a starter says where it looked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keyturn.keyring_files.DEVELOPMENT_FILE", Path(".keyturn/payload_keys"))  # see conftest.py
    with pytest.raises(SettingsInvalid, match=r"there is no .keyturn/payload_keys here"):
        keyring_from_environment()
    assert list(tmp_path.iterdir()) == []
    made = keyring_from_environment(generate=True)
    file = tmp_path / ".keyturn" / "payload_keys"
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert keyring_from_environment().check_values == made.check_values
    assert keyring_from_environment(generate=True).check_values == made.check_values


def test_two_workers_that_start_at_once_make_one_file(tmp_path: Path) -> None:
    """The second starter finds the first one's keys, whole."""
    file = tmp_path / "payload_keys"
    threads = [threading.Thread(target=write_keys, args=(file,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_keyring(text=None, file=file, development=True).check_values) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["payload_keys"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_file_that_others_can_read_is_refused_as_ssh_refuses_it(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys"
    file.write_text(KEYS_TEXT)
    file.chmod(mode)
    with pytest.raises(SettingsInvalid, match=f"chmod 600 {file}"):
        load_keyring(text=None, file=file, development=True, account_names="plain")
    file.chmod(0o600)
    assert load_keyring(text=None, file=file, development=True, account_names="plain")
