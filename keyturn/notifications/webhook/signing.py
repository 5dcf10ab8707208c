"""Standard Webhooks (https://www.standardwebhooks.com): a message's envelope, its id, and its signature."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote

from pydantic import SecretStr

from keyturn.canonical import canonical_json
from keyturn.jobs.outbox import TOPIC, Message
from keyturn.notices.contracts import Notice

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
TOLERANCE_SECONDS = 300  # how old a signature may be when it is verified: the clocks of two sites, and a slow way
SCHEMA = "https://keyturn.dev/schemas/rotation_job.created.json"
NOTICE_SCHEMA = "https://keyturn.dev/schemas/notice.json"


def envelope(message: Message) -> bytes:
    """Return the body: the same bytes for the same message, whenever it is sent."""
    return canonical_json(
        {
            "specversion": "1.0",
            "id": event_id(message),
            "type": f"dev.keyturn.{message.topic}",
            "source": f"/keyturn/{quote(message.tenant_id, safe='')}",
            "subject": message.job_id,
            "time": message.created_at.isoformat(),
            "datacontenttype": "application/json",
            "dataschema": SCHEMA,
            "data": dict(message.payload),
        }
    ).encode()


def notice_envelope(notice: Notice) -> bytes:
    """Return the body of a notice: the same bytes for the same notice, whenever it is sent."""
    return canonical_json(
        {
            "specversion": "1.0",
            "id": notice.event_id,
            "type": f"dev.keyturn.{notice.topic}",
            "source": f"/keyturn/{quote(notice.tenant_id, safe='')}",
            "subject": notice.job_id or notice.workflow_id or notice.run_id or notice.event_id,
            "time": notice.at.isoformat(),
            "datacontenttype": "application/json",
            "dataschema": NOTICE_SCHEMA,
            "data": notice.model_dump(mode="json", exclude_none=True),
        }
    ).encode()


def event_id(message: Message) -> str:
    """Return the id of a message, the same however often it is sent."""
    return message.job_id if message.topic == TOPIC else f"{message.job_id}.{message.outbox_id}"


def signature(key: str, body: bytes, keys: Mapping[str, SecretStr], *, now: float) -> dict[str, str]:
    """Return the headers by which a receiver knows who sent this, and when.

    Args:
        key: the event's id.
        body: what is sent, byte for byte.
        keys: secrets by their id. One that is written `whsec_BASE64` is read so; of any other the receiver's is
            `whsec_` and the Base64 of it.
        now: in seconds since 1970.
    """
    moment = str(int(now))
    proofs = " ".join(_proof(key, moment, body, secret) for secret in keys.values())
    return {ID: key, TIMESTAMP: moment, SIGNATURE: proofs}


def verify(headers: Mapping[str, str], body: bytes, keys: Mapping[str, SecretStr], *, now: float) -> bool:
    """Whether a receiver may believe a message: signed by one of `keys`, not too long ago. For receivers and tests.

    Args:
        headers: as they were received, looked up by small letters.
        body: as it was received, byte for byte.
        keys: secrets by their id.
        now: in seconds since 1970.
    """
    key, moment, proofs = (headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    # Fifteen digits of ASCII: a superscript is a digit to Python, and a thousand of them no number that it reads.
    if re.fullmatch("[0-9]{1,15}", moment) is None or abs(now - int(moment)) > TOLERANCE_SECONDS:
        return False
    if not key.isascii() or not proofs.isascii():  # neither was ever sent
        return False
    expected = [_proof(key, moment, body, secret) for secret in keys.values()]
    return any(hmac.compare_digest(one, given) for one in expected for given in proofs.split(" "))


def _proof(key: str, moment: str, body: bytes, secret: SecretStr) -> str:
    text = secret.get_secret_value()
    raw = text.encode()
    if text.startswith("whsec_"):
        with contextlib.suppress(binascii.Error):
            raw = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    signed = f"{key}.{moment}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(raw, signed, hashlib.sha256).digest()).decode()}"
