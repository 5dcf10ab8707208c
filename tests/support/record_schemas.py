"""Write what docs say of contracts from the contracts: `make schemas`.

That is docs/schemas, and the tables of fields in docs/reference/policy-format.md.
"""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from keyturn.bulk.report import ReportRow
from keyturn.jobs.contracts import JobMessage
from keyturn.notices.contracts import Notice
from keyturn.notifications.webhook.signing import NOTICE_SCHEMA, SCHEMA
from keyturn.policy import line
from keyturn.policy.files import PolicyFile

DOCS = Path(__file__).parents[2] / "docs"
FILE = DOCS / "schemas" / "rotation_job.created.json"
NOTICE_FILE = DOCS / "schemas" / "notice.json"
POLICY_FILE = DOCS / "schemas" / "policy.json"
REPORT_FILE = DOCS / "schemas" / "report_row.json"
POLICY_PAGE = DOCS / "reference" / "policy-format.md"
CONDITIONS = (
    line.WhenStale,
    line.WhenCompromised,
    line.WhenOlder,
    line.WhenUnused,
    line.NeverByItself,
    line.InProse,
)


def schema() -> dict[str, Any]:
    """The JSON schema of a message's `data`. A receiver passes over fields that it does not know: more may come."""
    described = JobMessage.model_json_schema(mode="serialization")
    described.pop("additionalProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **described}


def notice_schema() -> dict[str, Any]:
    """The JSON schema of a notice's `data`."""
    described = Notice.model_json_schema(mode="serialization")
    described.pop("additionalProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": NOTICE_SCHEMA, **described}


def tables() -> dict[str, str]:
    """The tables of the policy format's page, by their name."""
    conditions = "\n\n".join(
        f'### `when = "{_when(model)}"`\n\n{(model.__doc__ or "").splitlines()[0]}\n\n{_table(model)}'
        for model in CONDITIONS
    )
    return {"line": _table(line.PolicyLine), "conditions": conditions, "source": _table(line.PolicySource)}


def rewritten(page: str) -> str:
    """The page with its tables as the code has them now."""
    for name, table in tables().items():
        marks = rf"(<!-- {name}: written by make schemas -->\n).*?(<!-- end of {name} -->)"
        page = re.sub(marks, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def _when(model: type[BaseModel]) -> str:
    return str(model.model_json_schema()["properties"]["when"]["const"])


def _table(model: type[BaseModel]) -> str:
    rows = ["| field | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def report_schema() -> dict[str, Any]:
    """The JSON schema of a line of `keyturn report --json`."""
    described = ReportRow.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


if __name__ == "__main__":
    REPORT_FILE.write_text(json.dumps(report_schema(), indent=2) + "\n")
    NOTICE_FILE.write_text(json.dumps(notice_schema(), indent=2) + "\n")
    FILE.write_text(json.dumps(schema(), indent=2) + "\n")
    POLICY_FILE.write_text(json.dumps(PolicyFile.model_json_schema(), indent=2) + "\n")
    POLICY_PAGE.write_text(rewritten(POLICY_PAGE.read_text()))
