"""The audit trail as signed, hash-chained JSON Lines: for an archive, a SIEM, or an auditor who trusts no database.

The first line is a header, the last one has the signature; between them is a line an event, oldest first. Each
line holds the SHA-256 of the line before it, byte by byte, so that none can be changed, left out or moved; the last
one holds the number of events and is signed with Ed25519 (RFC 8032), so that none can be cut off. The header of the
next export may name the hash of this last line: then the exports are one chain, if it starts where this one ends.

An event may be written a day after it happened, where the database was away: an export is complete only if it ends
before that.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keyturn.errors import InvalidRequest, KeyturnError

FORMAT = "keyturn-audit-v1"
# `record_event` is tried for a day (workflows/options.py), and a clock may be wrong by some minutes.
SETTLED_AFTER = timedelta(hours=26)


class ExportInvalid(KeyturnError):
    """An export of the audit trail was changed, cut, or is signed by another key."""

    kind = "export_invalid"
    next_step = "fail_and_inspect"
    hint = "Take the file from its archive again; if that is the same, find out who could write to it."


@dataclass(frozen=True)
class Verified:
    """What a valid export holds. `complete` is False if events of its time may have been written after it."""

    tenant_id: str
    events: int
    since: str | None
    until: str
    complete: bool
    previous: str | None  # the end of the export before it, if it names one
    end: str  # the hash of its last line, by which the next one names it

    def expect_continues(self, before: "Verified") -> None:
        """Raise ExportInvalid unless this export goes on where `before` ends."""
        if self.previous != before.end:
            raise ExportInvalid("it does not continue that export: it names another one, or none")
        if self.tenant_id != before.tenant_id:
            raise ExportInvalid("it does not continue that export: it is of another tenant")
        if self.since != before.until or not before.complete:
            raise ExportInvalid("it does not continue that export: there is a time between them that is in neither")


def new_signing_key() -> tuple[str, str]:
    """Return a new private key and its public key, in base64."""
    key = Ed25519PrivateKey.generate()
    return base64.b64encode(key.private_bytes_raw()).decode(), public_key_of(key)


def read_signing_key(text: str) -> Ed25519PrivateKey:
    """Return the private key in base64; raises InvalidRequest, without the text."""
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError):
        raise InvalidRequest("the signing key is not 32 bytes in base64: `keyturn export key` prints one") from None


def public_key_of(key: Ed25519PrivateKey) -> str:
    """Return the public key in base64."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


async def write_export(
    events: AsyncIterator[Mapping[str, Any]],
    write: Callable[[str], Any],
    *,
    key: Ed25519PrivateKey,
    tenant_id: str,
    since: datetime | None,
    until: datetime,
    previous: str | None = None,
) -> int:
    """Write an export; returns how many events it holds.

    Args:
        events: oldest first.
        write: takes the text.
        key: signs it.
        tenant_id: whose events they are.
        since: from when on; None from the first on.
        until: before when; an export that ends later than SETTLED_AFTER ago is not complete.
        previous: the end of the export before it, to make one chain of both.
    """
    now = datetime.now(UTC)
    header: dict[str, Any] = {"format": FORMAT, "tenant_id": tenant_id, "since": since.isoformat() if since else None}
    header |= {"until": until.isoformat(), "written_at": now.isoformat(), "previous": previous}
    header |= {"complete": until <= now - SETTLED_AFTER}
    line = json.dumps(header, sort_keys=True)
    write(line + "\n")
    count, chained = 0, _hash(line)
    async for event in events:
        line = json.dumps({**event, "chain": chained}, sort_keys=True, default=str)
        write(line + "\n")
        count, chained = count + 1, _hash(line)
    last = {"chain": chained, "events": count, "public_key": public_key_of(key)}
    signature = key.sign(json.dumps(last, sort_keys=True).encode())
    write(json.dumps(last | {"signature": base64.b64encode(signature).decode()}, sort_keys=True) + "\n")
    return count


def verify_export(lines: Iterable[bytes], *, public_key: str | None = None) -> Verified:
    """Return what an export holds, if nothing of it was changed, left out, moved or cut off, byte by byte.

    Args:
        lines: of the file, each with its end of line.
        public_key: whose signature it must have, in base64; None takes the key that the file names.

    Raises:
        ExportInvalid: it does not hold; the message names the line.
    """
    header: dict[str, Any] | None = None
    chained, events, number = "", 0, 0
    last: dict[str, Any] | None = None
    for number, raw in enumerate(lines, 1):
        if last is not None:
            raise ExportInvalid(f"line {number}: it follows the signed last line")
        if not raw.endswith(b"\n") or b"\r" in raw or not raw.isascii():
            raise ExportInvalid(f"line {number}: it was cut off, or written anew by another program")
        line = raw[:-1].decode("ascii")
        one = _object(line, number)
        if header is None:
            header = _expect_header(one)
        elif one.get("chain") != chained:
            raise ExportInvalid(f"line {number}: a line before it was changed, left out or moved")
        elif "signature" in one:
            last = one
            if line != json.dumps(one, sort_keys=True) or set(one) != _LAST:
                raise ExportInvalid(f"line {number}: the signed last line was written anew")
        else:
            events += 1
        chained = _hash(line)
    if header is None or last is None:
        raise ExportInvalid(f"line {number + 1}: the file is cut off, it has no signed last line")
    _expect_signed(last, events, public_key)
    return Verified(
        tenant_id=header["tenant_id"],
        events=events,
        since=header["since"],
        until=header["until"],
        complete=header["complete"],
        previous=header["previous"],
        end=chained,
    )


_LAST = {"chain", "events", "public_key", "signature"}
_HEADER: Mapping[str, type | tuple[type, ...]] = {
    "tenant_id": str,
    "since": (str, type(None)),
    "until": str,
    "previous": (str, type(None)),
    "complete": bool,
}


def _expect_header(one: dict[str, Any]) -> dict[str, Any]:
    if one.get("format") != FORMAT or not all(isinstance(one.get(name), kind) for name, kind in _HEADER.items()):
        raise ExportInvalid("line 1: it is no export of Keyturn's audit trail")
    return one


def _expect_signed(last: Mapping[str, Any], events: int, public_key: str | None) -> None:
    if last["events"] != events:
        raise ExportInvalid(f"the signature is of {last['events']} events, and the file has {events}")
    named, signature = str(last["public_key"]), str(last["signature"])
    if public_key is not None and named != public_key.strip():
        raise ExportInvalid("it is signed by another key than the one named")
    signed = {name: value for name, value in last.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(named, validate=True))
        decoded = base64.b64decode(signature, validate=True)
        if base64.b64encode(decoded).decode() != signature:  # unused bits of the last character
            raise ValueError
        key.verify(decoded, json.dumps(signed, sort_keys=True).encode())
    except (InvalidSignature, binascii.Error, ValueError):
        raise ExportInvalid("its signature is not valid") from None


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        raise ExportInvalid(f"line {number}: it is no JSON") from None
    if not isinstance(read, dict):
        raise ExportInvalid(f"line {number}: it is no JSON object")
    return read


def _hash(line: str) -> str:
    return f"sha256:{hashlib.sha256(line.encode()).hexdigest()}"
