"""The audit trail as signed, hash-chained JSON Lines: for an archive, a SIEM, or an auditor who trusts no database.

The first line is a header, the last one has the signature; between them is a line an event, oldest first. Each
line holds the SHA-256 of the line before it, byte by byte, so that none can be changed, left out or moved; the last
one holds the number of events and is signed with Ed25519 (RFC 8032), so that none can be cut off. The header of the
next export may name the hash of this last line: then the exports are one chain.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import String, cast, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.database import transaction
from keyturn.errors import InvalidRequest, KeyturnError
from keyturn.jobs.tables import job_audit, rotation_events, rotation_jobs

FORMAT = "keyturn-audit-v1"
PAGE = 1_000


class ExportInvalid(KeyturnError):
    """An export of the audit trail was changed, cut, or is signed by another key."""

    kind = "export_invalid"
    next_step = "fail_and_inspect"
    hint = "Take the file from its archive again; if that is the same, find out who could write to it."


@dataclass(frozen=True)
class Verified:
    """What a valid export holds."""

    tenant_id: str
    events: int
    previous: str | None  # the end of the export before it, if it names one
    end: str  # the hash of its last line, by which the next one names it


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


async def events_of(
    engine: AsyncEngine, *, tenant_id: str, since: datetime | None, until: datetime
) -> AsyncIterator[dict[str, Any]]:
    """Yield what happened to a tenant's rotations and jobs, oldest first; raises JobStoreUnavailable.

    Args:
        engine: the database.
        tenant_id: whose.
        since: from then on; None from the first on.
        until: before then.
    """
    on_the_way = select(
        rotation_events.c.at,
        rotation_events.c.event_id.label("event_id"),
        literal("rotation").label("of"),
        rotation_events.c.workflow_id.label("id"),
        rotation_events.c.event,
        rotation_events.c.actor,
        rotation_events.c.detail,
    ).where(rotation_events.c.tenant_id == tenant_id)
    of_jobs = (
        select(
            job_audit.c.at,
            cast(job_audit.c.audit_id, String).label("event_id"),
            literal("job").label("of"),
            job_audit.c.job_id.label("id"),
            job_audit.c.event,
            job_audit.c.actor,
            job_audit.c.detail,
        )
        .join(rotation_jobs, rotation_jobs.c.job_id == job_audit.c.job_id)
        .where(rotation_jobs.c.tenant_id == tenant_id)
    )
    both = union_all(on_the_way, of_jobs).subquery()
    query = select(both).where(both.c.at < until).order_by(both.c.at, both.c.of, both.c.event_id).limit(PAGE)
    if since is not None:
        query = query.where(both.c.at >= since)
    last: Mapping[str, Any] | None = None
    while True:
        following = query
        if last is not None:
            same = both.c.at == last["at"]
            later_id = (both.c.of == last["of"]) & (both.c.event_id > last["event_id"])
            following = query.where(or_(both.c.at > last["at"], same & ((both.c.of > last["of"]) | later_id)))
        async with transaction(engine) as connection:
            rows = [dict(row) for row in (await connection.execute(following)).mappings()]
        for row in rows:
            yield {**row, "at": row["at"].isoformat()}
        if len(rows) < PAGE:
            return
        last = rows[-1]


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
        until: before when.
        previous: the end of the export before it, to make one chain of both.
    """
    header = {"format": FORMAT, "tenant_id": tenant_id, "since": since.isoformat() if since else None}
    header |= {"until": until.isoformat(), "written_at": datetime.now(UTC).isoformat(), "previous": previous}
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


def verify_export(lines: Iterable[str], *, public_key: str | None = None) -> Verified:
    """Return what an export holds, if nothing of it was changed, left out, moved or cut off.

    Args:
        lines: of the file.
        public_key: whose signature it must have, in base64; None takes the key that the file names.

    Raises:
        ExportInvalid: it does not hold; the message names the line.
    """
    header: dict[str, Any] | None = None
    chained, events, number, last = "", 0, 0, None
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip("\n")
        if last is not None:
            raise ExportInvalid(f"line {number}: it follows the signed last line")
        one = _object(line, number)
        if header is None:
            if one.get("format") != FORMAT:
                raise ExportInvalid("line 1: it is no export of Keyturn's audit trail")
            header = one
        elif one.get("chain") != chained:
            raise ExportInvalid(f"line {number}: a line before it was changed, left out or moved")
        elif "signature" in one:
            last = one
        else:
            events += 1
        chained = _hash(line)
    if header is None or last is None:
        raise ExportInvalid(f"line {number + 1}: the file is cut off, it has no signed last line")
    _expect_signed(last, events, public_key)
    return Verified(str(header["tenant_id"]), events, header.get("previous"), chained)


def _expect_signed(last: Mapping[str, Any], events: int, public_key: str | None) -> None:
    if last.get("events") != events:
        raise ExportInvalid(f"the signature is of {last.get('events')} events, and the file has {events}")
    named = str(last.get("public_key"))
    if public_key is not None and named != public_key.strip():
        raise ExportInvalid("it is signed by another key than the one named")
    signed = {name: value for name, value in last.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(named, validate=True))
        key.verify(base64.b64decode(str(last["signature"]), validate=True), json.dumps(signed, sort_keys=True).encode())
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
