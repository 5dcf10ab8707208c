"""Audit-log scans as JSON Lines, each `{"account_id": ..., "records": [{"record_id": ..., "text": ...}]}`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from keyturn.contracts import AccountId, Contract
from keyturn.inventory.documents import lines_of
from keyturn.inventory.rows import BadRow
from keyturn.tasks.summarize_scan import ScanRecord, ScanRequest


class Scan(NamedTuple):
    """The records of one account."""

    line: int
    account_id: str
    records: tuple[ScanRecord, ...]


class _Line(Contract):
    account_id: AccountId
    records: tuple[ScanRecord, ...]


def read_scans(file: Path) -> Iterator[Scan | BadRow]:
    """Yield each line of a scan as its records, or as one BadRow with the reason; raises InventoryInvalid."""
    for row in lines_of(file):
        if isinstance(row, BadRow):
            yield row
            continue
        line, raw = row
        try:
            parsed = _Line.model_validate({name: raw[name] for name in raw if not name.startswith("keyturn_")})
            # The task's own limits, before anything is asked.
            ScanRequest(account_id=parsed.account_id, records=parsed.records, trace_id="check")
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            yield BadRow(line, f"{'.'.join(map(str, fault['loc']))[:80]}: {fault['msg']}", {})
            continue
        yield Scan(line, parsed.account_id, parsed.records)
