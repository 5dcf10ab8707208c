"""Reports in the form of GitHub's secret scanning: what was found, signed by GitHub, and the answer that it takes.

https://docs.github.com/en/code-security/secret-scanning/secret-scanning-partnership-program/secret-scanning-partner-program:
a POST with a JSON array of matches (`token`, `type`, `url`, `source`), signed by ECDSA-NIST-P256V1-SHA256 over the raw
body, in the headers `Github-Public-Key-Identifier` and `Github-Public-Key-Signature`. A scanner of one's own may send
the same form, signed by a key of one's own. The token is a secret: only the key's ID that it holds is used and stored.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from keyturn.contracts import Identifier, expect_no_secret
from keyturn.errors import InvalidRequest
from keyturn.exposures.errors import PublicKeysUnavailable, ReportForged

IDENTIFIER, SIGNATURE = "github-public-key-identifier", "github-public-key-signature"
MAX_MATCHES = 1_000  # of one report; each begins a rotation or is answered as unknown
MAX_PLACE = 1_000
MAX_KEY_IDS = 10  # of one match, which is one secret; a file of credentials has a match for each
# An AWS access key's ID (four letters of a long-term key, and sixteen); a Google key file's own name of its key.
_AWS_KEY = re.compile(r"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Z0-9])")
_GOOGLE_KEY = re.compile(r'"private_key_id"\s*:\s*"([0-9a-f]{40})"')
Label = Literal["true_positive", "false_positive"]


class Match(BaseModel):
    """One place where a secret was found."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="ignore")

    token: SecretStr = Field(min_length=1, max_length=20_000)
    type: str = Field(min_length=1, max_length=200)
    url: str = Field(default="", max_length=4_000)
    source: str = Field(default="", max_length=200)
    # Beside GitHub's form: the ID of the key, where a scanner of one's own knows it.
    key_id: Identifier | None = None

    def key_ids(self) -> Sequence[str]:
        """Return the IDs of the keys that the match is about; of a secret without an ID, none."""
        text = self.token.get_secret_value()
        named = [] if self.key_id is None else [self.key_id]
        return list(dict.fromkeys([*named, *_AWS_KEY.findall(text), *_GOOGLE_KEY.findall(text)]))[:MAX_KEY_IDS]

    @property
    def place(self) -> str | None:
        """Where it was found, in one line; None if the report does not say so, or says it with a secret."""
        text = "".join(letter for letter in self.url if letter.isprintable())[:MAX_PLACE].strip()
        try:
            return expect_no_secret(text) or None
        except ValueError:
            return None

    def answer(self, label: Label) -> Mapping[str, str]:
        """Return what GitHub is answered of the match: its token by its hash alone."""
        digest = hashlib.sha256(self.token.get_secret_value().encode()).digest()
        return {"token_hash": base64.b64encode(digest).decode(), "token_type": self.type, "label": label}


_matches = TypeAdapter(list[Match])


def read_report(body: bytes) -> Sequence[Match]:
    """Return the matches of a report; raises InvalidRequest, which repeats nothing of it."""
    try:
        found = _matches.validate_json(body)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"]) or "body"
        raise InvalidRequest(f"{place}: the report is no list of matches with token and type") from None
    if len(found) > MAX_MATCHES:
        raise InvalidRequest(f"the report has {len(found):,} matches, and {MAX_MATCHES:,} at most are taken at once")
    return found


def verify(body: bytes, signature: str, key: EllipticCurvePublicKey) -> None:
    """Check the signature of a report's raw body; raises ReportForged."""
    try:
        key.verify(base64.b64decode(signature, validate=True), body, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        raise ReportForged("the report's signature is not of its body") from None


def read_keys(text: bytes) -> Mapping[str, EllipticCurvePublicKey]:
    """Return public keys by their identifier, from GitHub's list or one of the same form; raises PublicKeysUnavailable.

    The list is that of https://api.github.com/meta/public_keys/secret_scanning.
    """
    found: dict[str, EllipticCurvePublicKey] = {}
    try:
        entries: Any = json.loads(text)["public_keys"]
        for entry in entries:
            key = load_pem_public_key(entry["key"].encode())
            if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
                found[str(entry["key_identifier"])] = key
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm, RecursionError):
        raise PublicKeysUnavailable("the list of public keys cannot be read: it has another form") from None
    if not found:
        raise PublicKeysUnavailable("the list of public keys names no key of the curve P-256")
    return found
