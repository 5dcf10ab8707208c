"""The keys under which payloads and cached responses are encrypted, and by which names become pseudonyms.

AES-256-GCM with a random nonce of 96 bits (NIST SP 800-38D). The newest key encrypts, every key of the ring decrypts;
what a key encrypted that was taken out is refused by that key's name. Under one key 2^32 messages may be encrypted
before nonces could repeat: some 300 million rotations. Workers count them (`keyturn.key_use`), and warn at half of
that.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyturn.errors import InvalidRequest, SettingsInvalid
from keyturn.payload_errors import PayloadKeyUnknown, PayloadNotAuthentic

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
DEVELOPMENT_FILE = Path(".keyturn/payload_keys")  # relative to the current folder, as `.env` is
# Not a key of payloads: it turns names into pseudonyms, and may never change, because workflow ids rest on it.
PSEUDONYM = "pseudonym"
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

AccountNames = Literal["pseudonym", "plain"]


class Keyring:
    """Payload keys, the newest first, and the key of pseudonyms.

    Args:
        keys: ids and keys of 32 bytes; the first one encrypts.
        pseudonym_key: 32 bytes.
        account_names: `plain` leaves names as they are.
        accepts_plain: whether a payload that is not encrypted may be read. Not in production: there, an encrypted
            payload is also the proof that its sender has a key.
    """

    def __init__(
        self,
        keys: Sequence[tuple[str, bytes]],
        pseudonym_key: bytes,
        *,
        account_names: AccountNames = "pseudonym",
        accepts_plain: bool = False,
    ) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys}
        self._newest = keys[0][0]
        self._pseudonym_key = pseudonym_key
        self._account_names = account_names
        self._encryptions: Counter[str] = Counter()
        self.accepts_plain = accepts_plain
        # Two operators compare it to see that they have the same key: it reveals nothing of the key.
        self.check_values = {key_id: hashlib.sha256(b"keyturn-check\0" + key).hexdigest()[:12] for key_id, key in keys}

    def encrypt(self, plain: bytes, bound_to: bytes) -> tuple[str, bytes]:
        """Return the id of the key that was used, and the encrypted bytes, which open only with the same `bound_to`."""
        nonce = os.urandom(NONCE_BYTES)
        self._encryptions[self._newest] += 1
        return self._newest, nonce + self._ciphers[self._newest].encrypt(nonce, plain, bound_to)

    def decrypt(self, key_id: str, encrypted: bytes, bound_to: bytes) -> bytes:
        """Return what was encrypted.

        Raises:
            PayloadKeyUnknown: the ring does not have this key.
            PayloadNotAuthentic: the bytes were changed, cut, or encrypted for another place.
        """
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            named = key_id if _KEY_ID.fullmatch(key_id) else "of an invalid name"
            held = ", ".join(self._ciphers)
            raise PayloadKeyUnknown(f"encrypted under the key {named}, which is not among this machine's keys ({held})")
        if len(encrypted) < NONCE_BYTES + TAG_BYTES:
            raise PayloadNotAuthentic(f"encrypted under the key {key_id}, but cut to {len(encrypted)} bytes")
        try:
            return cipher.decrypt(encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:], bound_to)
        except InvalidTag:
            raise PayloadNotAuthentic(
                f"encrypted under the key {key_id}, but changed since, or encrypted for another namespace"
            ) from None

    def take_encryptions(self) -> dict[str, int]:
        """Return how often each key has encrypted since this was last asked: see `keyturn.key_use`."""
        counted, self._encryptions = dict(self._encryptions), Counter()
        return counted

    def give_back_encryptions(self, counted: Mapping[str, int]) -> None:
        """Count again what could not be written down."""
        self._encryptions.update(counted)

    def name_of(self, value: str) -> str:
        """Return how `value` is written where it stays readable: as `~` and 20 hexadecimal digits of a keyed hash.

        80 bits: among a million names two share a pseudonym once in 10^12 estates.
        """
        if self._account_names == "plain" or is_pseudonym(value):
            return value
        return f"~{hmac.new(self._pseudonym_key, value.encode(), hashlib.sha256).hexdigest()[:20]}"


class EncryptedTexts:
    """Texts in the database under the keys that encrypt Temporal's payloads.

    Args:
        keyring: the keys.
        purpose: what the texts are of: a text opens only for the same purpose and in the same place.
    """

    def __init__(self, keyring: Keyring, purpose: str) -> None:
        self._keyring = keyring
        self._purpose = purpose

    def encrypt(self, place: str, text: str) -> str:
        """Return `text` encrypted for the row that `place` names."""
        key_id, encrypted = self._keyring.encrypt(text.encode(), self._bound_to(place))
        return f"{key_id}:{base64.b64encode(encrypted).decode()}"

    def decrypt(self, place: str, encrypted: str) -> str:
        """Return what was encrypted; raises PayloadError."""
        key_id, _, text = encrypted.partition(":")
        try:
            return self._keyring.decrypt(key_id, base64.b64decode(text, validate=True), self._bound_to(place)).decode()
        except (binascii.Error, ValueError):
            raise PayloadNotAuthentic("an encrypted text was changed") from None

    def _bound_to(self, place: str) -> bytes:
        return f"{self._purpose}\0{place}".encode()


def is_pseudonym(value: str) -> bool:
    """Whether `value` is written as a pseudonym: no account, key or user name starts with `~`."""
    return value.startswith("~")


def parse_keyring(
    text: str, *, source: str, account_names: AccountNames = "pseudonym", accepts_plain: bool = False
) -> Keyring:
    """Return the keyring that `text` describes: `ID:BASE64` entries, by commas or lines, the newest first.

    Raises:
        SettingsInvalid: an entry cannot be used; named by its place, because its text may be a secret.
    """
    entries = [entry.strip() for entry in re.split(r"[,\n]", text)]
    keys: dict[str, bytes] = {}
    for place, entry in enumerate((entry for entry in entries if entry and not entry.startswith("#")), 1):
        key_id, colon, encoded = entry.partition(":")
        if not colon or not _KEY_ID.fullmatch(key_id):
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
    if not _KEY_ID.fullmatch(key_id):
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
