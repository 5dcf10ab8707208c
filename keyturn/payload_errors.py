"""A payload that cannot be encrypted or decrypted."""

from keyturn.errors import KeyturnError


class PayloadError(KeyturnError):
    """A payload cannot be encrypted or opened."""

    kind = "payload_error"


class PayloadKeyUnknown(PayloadError):
    """It was encrypted under a key that is not held here: retired, or another installation's."""

    kind = "payload_key_unknown"
    hint = "Put that key back into KEYTURN_PAYLOAD_KEYS, after the newest: what it encrypted is readable again at once."


class PayloadMoved(PayloadError):
    """It was written for another workflow, or as something else, and copied to where it stands now."""

    kind = "payload_moved"
    hint = "Somebody who can write to Temporal copied it: see who may, and start the rotation anew."


class PayloadNotAuthentic(PayloadError):
    """It was changed or cut since it was encrypted, or it was encrypted for another namespace or entry."""

    kind = "payload_not_authentic"
    hint = "Check TEMPORAL_NAMESPACE; if that is right, somebody or something changed the stored bytes."


class PayloadNotEncrypted(PayloadError):
    """It is plain, and this program reads encrypted ones only."""

    kind = "payload_not_encrypted"
    hint = "Whoever sent it has no key: start rotations with `keyturn rotate` and the worker's KEYTURN_PAYLOAD_KEYS."


class PayloadTooLarge(PayloadError):
    """It is larger than Temporal takes."""

    kind = "payload_too_large"
    hint = "Send less: contracts bound every field, so something else put it there."
