"""Encrypted payloads: what Temporal stores is ciphertext, for client, worker and replayer by one plugin.

Encrypted are inputs, results, updates, queries, failure messages and stack traces, summaries and details. Readable stay
workflow ids, search attributes, the types of workflows, activities and errors, and times: none of these is private.

A payload's form: metadata `encoding` = `binary/encrypted`, `encryption-key-id` = the key's id, `encryption-context` =
what it is and the id of its workflow (`workflow:ID`, `activity/TYPE:ID`); data = nonce, then ciphertext with tag.
Namespace and context are associated data: a payload that is copied to another workflow, or to another purpose, is
refused as `payload_moved`. Temporal's serialization context gives the workflow and purpose of a payload. Run ids are
no part of it: a run that is reset or continued reads its own payloads.

What is encrypted is the payload, or that payload compressed (`encoding` = `binary/zlib-1`) where this is shorter. So
the length of a ciphertext says a little of its content. That is no oracle for secrets: no payload holds one, and who
states a part of a payload, its asker, may read the rest of it.
"""

import base64
import re
import zlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Self

from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)
from temporalio.plugin import SimplePlugin

from keyturn.application.unreadable import ContractPayloadConverter, unreadable_payload
from keyturn.keyring import EncryptedTexts, Keyring
from keyturn.payload_errors import PayloadError, PayloadMoved, PayloadNotAuthentic, PayloadNotEncrypted, PayloadTooLarge
from keyturn.workflows.identity import Names, plain

ENCODING = b"binary/encrypted"
# The form of a compressed payload: zlib's, with a preset dictionary (RFC 1950) of what nearly all of them share, the
# contracts' field names and the prompt. A history needs the dictionary that it was written with: none is ever changed,
# a better one gets another number.
_COMPRESSED = b"binary/zlib-1"
_DICTIONARY = "payload_dictionary_1.txt"
KEY_ID = "encryption-key-id"
CONTEXT = "encryption-context"
# A schedule writes its input under a prefix, to which the server adds the time of each run. Only a bulk run is started
# so: under any other id, this rule would let a copied start pass.
_SCHEDULED = re.compile(r"-\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_SCHEDULED_PREFIX = "workflow:bulk:"
# The one value that the server itself writes: the details of an activity that was cancelled before a worker had begun
# it. It says nothing that a forger could use.
OF_THE_SERVER = b'"ACTIVITY_ID_NOT_STARTED"'
# Temporal refuses a payload over 2 MiB, and a worker that sends one would try again for ever: it is refused here.
MAX_PAYLOAD_BYTES = 2 * 1024 * 1024 - 1024


class EncryptionCodec(PayloadCodec, WithSerializationContext):
    """Encrypts each payload under the newest key of `keyring`, for one `namespace`.

    Args:
        keyring: the keys.
        namespace: of Temporal.
        context: where the payloads belong; None decrypts each by the context that it states, as the codec server does.
    """

    def __init__(self, keyring: Keyring, namespace: str, context: str | None = None) -> None:
        self.keyring = keyring
        self._namespace = namespace
        self._context = context

    def with_context(self, context: SerializationContext) -> Self:
        """Return the codec for the payloads of one workflow, or of one of its activities."""
        return type(self)(self.keyring, self._namespace, _context_text(context))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt `payloads`; raises PayloadTooLarge."""
        return [self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Open `payloads`; one that cannot be opened raises its refusal when its value is read."""
        return [self._decrypt_or_defer(payload) for payload in payloads]

    def _decrypt_or_defer(self, payload: Payload) -> Payload:
        try:
            return self.decrypt_payload(payload)
        except PayloadError as error:
            return unreadable_payload(error)

    def decrypt_payload(self, payload: Payload) -> Payload:
        """Open one payload.

        Raises:
            PayloadKeyUnknown, PayloadNotAuthentic, PayloadTooLarge: it cannot be opened here.
            PayloadMoved: it was written for another workflow, or as something else.
            PayloadNotEncrypted: it is plain, and the keyring does not accept that.
        """
        if payload.metadata.get("encoding") != ENCODING:
            if not self.keyring.accepts_plain and payload.data != OF_THE_SERVER:
                raise PayloadNotEncrypted("a payload is not encrypted, and production reads none that is not")
            return payload
        if len(payload.data) > MAX_PAYLOAD_BYTES + 1024:
            raise PayloadTooLarge(f"an encrypted payload has {len(payload.data):,} bytes; Temporal's limit is 2 MiB")
        key_id = payload.metadata.get(KEY_ID, b"").decode("ascii", errors="replace")
        stated = payload.metadata.get(CONTEXT, b"").decode("utf-8", errors="replace")
        if self._context is not None and stated != self._context and not _is_scheduled(stated, self._context):
            raise PayloadMoved("a payload was copied: it belongs to another workflow or purpose")
        plain = self.keyring.decrypt(key_id, payload.data, self._bound_to(stated))
        try:
            return _decompressed(Payload.FromString(plain))
        except PayloadTooLarge:
            raise
        except Exception:  # protobuf's own DecodeError differs between its implementations
            raise PayloadNotAuthentic(f"encrypted under the key {key_id}, but its content is no payload") from None

    def _encrypt(self, payload: Payload) -> Payload:
        plain = payload.SerializeToString()
        if len(plain) > MAX_PAYLOAD_BYTES:
            raise PayloadTooLarge(f"a payload has {len(plain):,} bytes, and the limit is {MAX_PAYLOAD_BYTES:,}")
        context = self._context or ""
        key_id, encrypted = self.keyring.encrypt(_compressed(plain), self._bound_to(context))
        metadata = {"encoding": ENCODING, KEY_ID: key_id.encode(), CONTEXT: context.encode()}
        return Payload(metadata=metadata, data=encrypted)

    def _bound_to(self, context: str) -> bytes:
        return f"keyturn-payload-v2\0{self._namespace}\0{context}".encode()


@cache
def _dictionary() -> bytes:
    return files("keyturn.application").joinpath(_DICTIONARY).read_bytes()


@cache
def _new_compression() -> Any:  # zlib names no type of it
    return zlib.compressobj(zdict=_dictionary())


def _compressed(payload: bytes) -> bytes:
    """Return a serialized payload in the shorter of its two forms."""
    stream = _new_compression().copy()  # which is faster than to read the dictionary again
    data = stream.compress(payload) + stream.flush()
    inner = Payload(metadata={"encoding": _COMPRESSED}, data=data).SerializeToString()
    return min(payload, inner, key=len)


def _decompressed(payload: Payload) -> Payload:
    """Return the payload that a compressed one holds, any other one as it is.

    Raises PayloadTooLarge where it would be larger than any that is encrypted here, whatever the compressed size.
    """
    if payload.metadata.get("encoding") != _COMPRESSED:
        return payload
    stream = zlib.decompressobj(zdict=_dictionary())
    plain = stream.decompress(payload.data, MAX_PAYLOAD_BYTES + 1)
    if len(plain) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(
            f"a payload has more bytes than the limit, {MAX_PAYLOAD_BYTES:,}, once it is decompressed"
        )
    if not stream.eof:
        raise ValueError("it ends too early")
    return Payload.FromString(plain)


def _context_text(context: SerializationContext) -> str | None:
    """What a payload is, and of which workflow, as its metadata states it."""
    if isinstance(context, ActivitySerializationContext):
        return f"activity/{context.activity_type or ''}:{context.workflow_id or ''}"
    if isinstance(context, WorkflowSerializationContext):
        return f"workflow:{context.workflow_id}"
    return None


def _is_scheduled(stated: str, context: str) -> bool:
    """Whether `context` is a run of the schedule that `stated` names."""
    is_run = context.startswith(stated) and _SCHEDULED.fullmatch(context[len(stated) :]) is not None
    return is_run and stated.startswith(_SCHEDULED_PREFIX)


def encryption_converter(keyring: Keyring, namespace: str) -> DataConverter:
    """Return the data converter of pydantic contracts with encrypted payloads and encrypted failure texts."""
    return DataConverter(
        payload_converter_class=ContractPayloadConverter,
        payload_codec=EncryptionCodec(keyring, namespace),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


def encryption_plugin(keyring: Keyring, namespace: str) -> SimplePlugin:
    """Return the plugin that brings the converter to a client, to the workers on it, and to a replayer."""
    return SimplePlugin("keyturn.encrypting", data_converter=encryption_converter(keyring, namespace))


def reader_of(client: Client, workflow_id: str, *, activity: str | None = None) -> DataConverter:
    """Return what reads the payloads of a workflow's history, or those of its activities of one type.

    A payload that was copied there from elsewhere raises PayloadMoved.
    """
    namespace = client.namespace
    if activity is None:
        return client.data_converter.with_context(WorkflowSerializationContext(namespace, workflow_id))
    return client.data_converter.with_context(
        ActivitySerializationContext(
            namespace=namespace,
            activity_id=None,
            activity_type=activity,
            activity_task_queue=None,
            workflow_id=workflow_id,
            workflow_type=None,
            is_local=False,
        )
    )


def names_of(client: Client) -> Names:
    """Return how this client's installation writes account and key names: its keyring knows."""
    codec = client.data_converter.payload_codec
    return codec.keyring.name_of if isinstance(codec, EncryptionCodec) else plain


def list_cursor(client: Client, token: bytes, *, of: str) -> str:
    """Return the server's token of a list's next page as a caller is given it; it continues the list `of` alone."""
    encrypted = _cursors_of(client).encrypt(of, base64.b64encode(token).decode())
    return base64.urlsafe_b64encode(encrypted.encode()).decode()


def read_list_cursor(client: Client, cursor: str, *, of: str) -> bytes:
    """Return the server's token in a cursor of the list `of`; raises PayloadError where it is none of ours."""
    try:
        encrypted = base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise PayloadNotAuthentic("a cursor was changed") from None
    return base64.b64decode(_cursors_of(client).decrypt(of, encrypted))


def _cursors_of(client: Client) -> EncryptedTexts:
    codec = client.data_converter.payload_codec
    if not isinstance(codec, EncryptionCodec):
        raise TypeError("a list is read by a client with payload keys")
    return EncryptedTexts(codec.keyring, "keyturn-list-cursor-v1")
