"""Sealed payloads: what Temporal keeps is ciphertext, for client, worker and replayer by one plugin.

Sealed are inputs, results, updates, queries, failure messages and stack traces, summaries and details. Readable stay
workflow ids, search attributes, the types of workflows, activities and errors, and times: nothing private stands there.

A payload's form: metadata `encoding` = `binary/encrypted`, `encryption-key-id` = the key's id; data = nonce, then
ciphertext with tag. Bound to the namespace as associated data, so that a payload moved to another one does not open.
"""

from collections.abc import Sequence

from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec
from temporalio.plugin import SimplePlugin

from keyturn.errors import PayloadError, PayloadNotAuthentic, PayloadNotSealed, PayloadTooLarge
from keyturn.keyring import Keyring
from workflows.identity import Names, plain
from workflows.unopened import ContractPayloadConverter, unopened

ENCODING = b"binary/encrypted"
KEY_ID = "encryption-key-id"
# Temporal refuses a payload over 2 MiB, and a worker that sends one would try again for ever: it is refused here.
MAX_PAYLOAD_BYTES = 2 * 1024 * 1024 - 1024


class SealingCodec(PayloadCodec):
    """Seals each payload under the newest key of `keyring`, for one `namespace`."""

    def __init__(self, keyring: Keyring, namespace: str) -> None:
        self.keyring = keyring
        self._bound_to = f"keyturn-payload-v1\0{namespace}".encode()

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Seal `payloads`; raises PayloadTooLarge."""
        return [self._sealed(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Open `payloads`; one that cannot be opened raises its refusal when its value is read."""
        return [self._opened_or_refused(payload) for payload in payloads]

    def _opened_or_refused(self, payload: Payload) -> Payload:
        try:
            return self.opened(payload)
        except PayloadError as error:
            return unopened(error)

    def opened(self, payload: Payload) -> Payload:
        """Open one payload.

        Raises:
            PayloadKeyUnknown, PayloadNotAuthentic, PayloadTooLarge: it cannot be opened here.
            PayloadNotSealed: it is plain, and the keyring does not accept that.
        """
        if payload.metadata.get("encoding") != ENCODING:
            if not self.keyring.accepts_plain:
                raise PayloadNotSealed("a payload is not sealed, and production reads none that is not")
            return payload
        if len(payload.data) > MAX_PAYLOAD_BYTES + 1024:
            raise PayloadTooLarge(f"a sealed payload has {len(payload.data):,} bytes; Temporal itself holds 2 MiB")
        key_id = payload.metadata.get(KEY_ID, b"").decode("ascii", errors="replace")
        plain = self.keyring.unseal(key_id, payload.data, self._bound_to)
        try:
            return Payload.FromString(plain)
        except Exception:  # protobuf's own DecodeError differs between its implementations
            raise PayloadNotAuthentic(f"sealed under the key {key_id}, but what is in it is no payload") from None

    def _sealed(self, payload: Payload) -> Payload:
        plain = payload.SerializeToString()
        if len(plain) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLarge(f"a payload has {len(plain):,} bytes, and {MAX_PAYLOAD_BYTES:,} is the most")
        key_id, sealed = self.keyring.seal(plain, self._bound_to)
        return Payload(metadata={"encoding": ENCODING, KEY_ID: key_id.encode()}, data=sealed)


def sealing_converter(keyring: Keyring, namespace: str) -> DataConverter:
    """Return the data converter of pydantic contracts with sealed payloads and sealed failure texts."""
    return DataConverter(
        payload_converter_class=ContractPayloadConverter,
        payload_codec=SealingCodec(keyring, namespace),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


def sealing_plugin(keyring: Keyring, namespace: str) -> SimplePlugin:
    """Return the plugin that brings the converter to a client, to the workers on it, and to a replayer."""
    return SimplePlugin("keyturn.sealing", data_converter=sealing_converter(keyring, namespace))


def names_of(client: Client) -> Names:
    """Return how this client's installation writes account and key names: its keyring knows."""
    codec = client.data_converter.payload_codec
    return codec.keyring.name_of if isinstance(codec, SealingCodec) else plain
