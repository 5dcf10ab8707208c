"""Write the published schemas in docs/schemas from the contracts: `make schemas`."""

import json
from pathlib import Path
from typing import Any

from keyturn.contracts import JobMessage
from keyturn.jobs.webhook import SCHEMA

FILE = Path(__file__).parents[1] / "docs" / "schemas" / "rotation_job.created.json"


def schema() -> dict[str, Any]:
    """The JSON schema of a message's `data`. A receiver passes over fields that it does not know: more may come."""
    told = JobMessage.model_json_schema(mode="serialization")
    told.pop("additionalProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **told}


if __name__ == "__main__":
    FILE.write_text(json.dumps(schema(), indent=2) + "\n")
