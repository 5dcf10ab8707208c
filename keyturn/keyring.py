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
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyturn.payload_errors import PayloadKeyUnknown, PayloadNotAuthentic

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
# Not a key of payloads: it turns names into pseudonyms, and may never change, because workflow ids rest on it.
PSEUDONYM = "pseudonym"
KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

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
        self.newest = keys[0][0]
        self._pseudonym_key = pseudonym_key
        self._account_names = account_names
        self._encryptions: Counter[str] = Counter()
        self.accepts_plain = accepts_plain
        # Two operators compare it to see that they have the same key: it reveals nothing of the key.
        self.check_values = {key_id: hashlib.sha256(b"keyturn-check\0" + key).hexdigest()[:12] for key_id, key in keys}

    def encrypt(self, plain: bytes, bound_to: bytes) -> tuple[str, bytes]:
        """Return the id of the key that was used, and the encrypted bytes, which open only with the same `bound_to`."""
        nonce = os.urandom(NONCE_BYTES)
        self._encryptions[self.newest] += 1
        return self.newest, nonce + self._ciphers[self.newest].encrypt(nonce, plain, bound_to)

    def decrypt(self, key_id: str, encrypted: bytes, bound_to: bytes) -> bytes:
        """Return what was encrypted.

        Raises:
            PayloadKeyUnknown: the ring does not have this key.
            PayloadNotAuthentic: the bytes were changed, cut, or encrypted for another place.
        """
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            named = key_id if KEY_ID.fullmatch(key_id) else "of an invalid name"
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

    @property
    def newest(self) -> str:
        """How each text starts that is encrypted under the newest key."""
        return f"{self._keyring.newest}:"

    def _bound_to(self, place: str) -> bytes:
        return f"{self._purpose}\0{place}".encode()


def is_pseudonym(value: str) -> bool:
    """Whether `value` is written as a pseudonym: no account, key or user name starts with `~`."""
    return value.startswith("~")
