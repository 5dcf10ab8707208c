"""What the codec returns for a payload that it cannot decrypt: the refusal, raised where the value is read.

Were it raised in the codec, a single update with a foreign key would fail every workflow task that carries it, and the
rotation could receive no update any more. So the refusal travels on, and reaches only the reader of that one value: an
update is refused, a result raises for the caller, and a workflow whose own input it is waits for a worker with the key.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import EncodingPayloadConverter

from keyturn.payload_errors import (
    PayloadError,
    PayloadKeyUnknown,
    PayloadMoved,
    PayloadNotAuthentic,
    PayloadNotEncrypted,
    PayloadTooLarge,
)

ENCODING = "binary/keyturn-unopened"
_ERRORS: tuple[type[PayloadError], ...] = (
    PayloadKeyUnknown,
    PayloadMoved,
    PayloadNotAuthentic,
    PayloadNotEncrypted,
    PayloadTooLarge,
)
_BY_KIND = {error.kind: error for error in _ERRORS}


def unreadable_payload(error: PayloadError) -> Payload:
    """Return a payload that raises `error` when it is read."""
    return Payload(metadata={"encoding": ENCODING.encode()}, data=f"{error.kind}\n{error}".encode())


class _UnreadableConverter(EncodingPayloadConverter):
    encoding = ENCODING

    def to_payload(self, value: Any) -> Payload | None:
        """Nothing is written in this form."""
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """Raise the refusal."""
        kind, _, message = payload.data.decode().partition("\n")
        raise _BY_KIND.get(kind, PayloadError)(message)


@cache
def _converters() -> dict[bytes, EncodingPayloadConverter]:
    return {**PydanticPayloadConverter().converters, ENCODING.encode(): _UnreadableConverter()}


class ContractPayloadConverter(PydanticPayloadConverter):
    """The converter of pydantic contracts, which raises a payload's refusal as it is."""

    def __init__(self) -> None:
        # The SDK makes one for each payload's context, and all are alike: they share what takes long to make.
        self.converters = _converters()

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Return the values of `payloads`; raises PayloadError for one that could not be opened."""
        try:
            return super().from_payloads(payloads, type_hints)
        except RuntimeError as error:  # the SDK names the place and hides the cause
            if isinstance(error.__cause__, PayloadError):
                raise error.__cause__ from None
            raise
