"""Payload keys in files and in the environment: read, checked, made."""

import base64
import binascii
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path

from keyturn.errors import InvalidRequest, SettingsInvalid
from keyturn.keyring import KEY_BYTES, KEY_ID, PSEUDONYM, AccountNames, Keyring

DEVELOPMENT_FILE = Path(".keyturn/payload_keys")  # relative to the current folder, as `.env` is


def parse_keyring(
    text: str, *, source: str, account_names: AccountNames = "pseudonym", accepts_plain: bool = False
) -> Keyring:
    """Return the keyring that `text` describes: `ID:BASE64` entries, separated by commas or lines, the newest first.

    Raises:
        SettingsInvalid: an entry cannot be used; named by its place, because its text may be a secret.
    """
    entries = [entry.strip() for entry in re.split(r"[,\n]", text)]
    keys: dict[str, bytes] = {}
    for place, entry in enumerate((entry for entry in entries if entry and not entry.startswith("#")), 1):
        key_id, colon, encoded = entry.partition(":")
        if not colon or not KEY_ID.fullmatch(key_id):
            raise SettingsInvalid(
                f"{source}: entry {place} is not ID:BASE64, the ID of up to 32 letters, digits, . _ -"
            )
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise SettingsInvalid(f"{source}: the key {key_id} is not {KEY_BYTES} bytes in base64")
        if key_id in keys:
            raise SettingsInvalid(f"{source}: the key {key_id} is listed twice")
        keys[key_id] = key
    pseudonym_key = keys.pop(PSEUDONYM, None)
    if not keys or pseudonym_key is None:
        missing = "no payload key" if not keys else f"no key {PSEUDONYM!r}"
        raise SettingsInvalid(f"{source}: has {missing}; `keyturn keys new` prints both")
    return Keyring(list(keys.items()), pseudonym_key, account_names=account_names, accepts_plain=accepts_plain)


def new_key_line(key_id: str | None = None) -> str:
    """Return `ID:BASE64` with a new random key; the id is today's date with some letters unless given.

    Raises InvalidRequest for an id that no keyring could contain.
    """
    key_id = key_id or f"{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(2)}"
    if not KEY_ID.fullmatch(key_id):
        raise InvalidRequest("the key's id has up to 32 letters, digits, . _ -")
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def new_keyring_text() -> str:
    """Return the text of a whole new keyring."""
    return f"{new_key_line()}\n{new_key_line(PSEUDONYM)}\n"


def load_keyring(
    *,
    text: str | None,
    file: Path | None,
    development: bool,
    account_names: AccountNames = "pseudonym",
    generate: bool = False,
) -> Keyring:
    """Return the keyring of a program.

    Args:
        text: KEYTURN_PAYLOAD_KEYS.
        file: KEYTURN_PAYLOAD_KEYS_FILE.
        development: whether `.keyturn/payload_keys` serves where neither is set, and plain payloads may be read.
        account_names: KEYTURN_ACCOUNT_NAMES.
        generate: whether that file may be created, which is for the worker's side: a starter with other keys would
            start what no worker can read.

    Raises:
        SettingsInvalid: there are no keys, or they cannot be used.
    """
    if text and file:
        raise SettingsInvalid("KEYTURN_PAYLOAD_KEYS and KEYTURN_PAYLOAD_KEYS_FILE are both set: unset one")
    source = "KEYTURN_PAYLOAD_KEYS"
    if not text:
        if file is None and not development:
            raise SettingsInvalid(
                "KEYTURN_PAYLOAD_KEYS is not set: production encrypts payloads; `keyturn keys new` prints keys"
            )
        if file is None and generate and not DEVELOPMENT_FILE.exists():
            write_keys(DEVELOPMENT_FILE)
        source, text = _read(file)
    return parse_keyring(text, source=source, account_names=account_names, accepts_plain=development)


def keyring_from_environment(*, generate: bool = False) -> Keyring:
    """Return the keyring that the environment names; see `load_keyring`."""
    names = os.environ.get("KEYTURN_ACCOUNT_NAMES") or "pseudonym"
    if names not in {"pseudonym", "plain"}:
        raise SettingsInvalid("KEYTURN_ACCOUNT_NAMES: is neither pseudonym nor plain")
    environment = os.environ.get("KEYTURN_ENVIRONMENT") or "development"
    if environment not in {"development", "production"}:  # misspelt, it would read what production does not
        raise SettingsInvalid("KEYTURN_ENVIRONMENT: is neither development nor production")
    file = os.environ.get("KEYTURN_PAYLOAD_KEYS_FILE")
    return load_keyring(
        text=os.environ.get("KEYTURN_PAYLOAD_KEYS"),
        file=Path(file) if file else None,
        development=environment == "development",
        account_names="plain" if names == "plain" else "pseudonym",
        generate=generate,
    )


def write_keys(file: Path) -> None:
    """Write new keys to `file`, readable by its owner alone. The second of two writers gets the first one's keys."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    with open(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as written:
        written.write(new_keyring_text())
    try:
        os.link(whole, file)  # all of it or nothing, and never over another one's keys
    except FileExistsError:
        pass
    finally:
        whole.unlink()


def _expect_own(file: Path, found: os.stat_result) -> None:
    """Refuse a file of this user that others may read, as ssh does; another owner, such as root, cares for its own."""
    if found.st_uid == os.getuid() and found.st_mode & 0o077:
        raise SettingsInvalid(f"{file}: others can read this key file ({found.st_mode & 0o777:04o}): chmod 600 {file}")


def _read(file: Path | None) -> tuple[str, str]:
    chosen = file or DEVELOPMENT_FILE
    try:
        with chosen.open(encoding="ascii") as opened:
            _expect_own(chosen, os.fstat(opened.fileno()))
            return str(chosen), opened.read()
    except FileNotFoundError:
        if file is not None:
            raise SettingsInvalid(f"KEYTURN_PAYLOAD_KEYS_FILE: there is no file {file}") from None
        raise SettingsInvalid(
            f"no payload keys: there is no {DEVELOPMENT_FILE} here, where `make dev` stores them; run this in the "
            "worker's folder, or set KEYTURN_PAYLOAD_KEYS_FILE or KEYTURN_PAYLOAD_KEYS to the worker's"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise SettingsInvalid(f"{chosen}: cannot be read: {reason}") from None
