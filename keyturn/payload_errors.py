"""A payload that cannot be encrypted or decrypted."""

from keyturn.errors import KeyturnError


class PayloadError(KeyturnError):
    """A payload cannot be encrypted or decrypted."""

    kind = "payload_error"


class PayloadKeyUnknown(PayloadError):
    """The payload was encrypted under a key that this machine does not have: retired, or another installation's."""

    kind = "payload_key_unknown"
    hint = "Put that key back into KEYTURN_PAYLOAD_KEYS, after the newest: its payloads are readable again at once."


class PayloadMoved(PayloadError):
    """The payload was encrypted for another workflow or purpose, and copied here."""

    kind = "payload_moved"
    hint = "It was copied by a client that can write to Temporal: check who can, and start the rotation again."


class PayloadNotAuthentic(PayloadError):
    """The payload was changed or cut since its encryption, or encrypted for another namespace or entry."""

    kind = "payload_not_authentic"
    hint = "Check TEMPORAL_NAMESPACE; if that is right, the stored bytes were changed."


class PayloadNotEncrypted(PayloadError):
    """The payload is not encrypted, and this program reads encrypted ones only."""

    kind = "payload_not_encrypted"
    hint = "Its sender has no payload key: start rotations with `keyturn rotate` and the worker's KEYTURN_PAYLOAD_KEYS."


class PayloadTooLarge(PayloadError):
    """The payload is larger than Temporal accepts."""

    kind = "payload_too_large"
    hint = "Send less. Contracts limit every field, so this payload is not Keyturn's."
