"""The reference of HTTP, from the OpenAPI documents of the desk and of the jobs API."""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from keyturn.desk.api import PROBLEMS as DESK_PROBLEMS
from keyturn.desk.api import api
from keyturn.desk.settings import DeskSettings
from keyturn.lab.documentation.markdown import cell, code, page, table
from keyturn.web.applications import described_application
from keyturn.workers.jobs_api import PROBLEMS as JOBS_PROBLEMS
from keyturn.workers.jobs_api import jobs_router

Schema = Mapping[str, Any]
NOTHING = cast(Any, None)  # what the routes would ask: they are described, and not called

DESK = """\
`keyturn desk` serves this API, and the same description as `/openapi.json`.
A caller signs in by a bearer token or by a proxy's header.
A refusal is a problem document (RFC 9457) with a `kind` and a hint:
"""
JOBS = """\
`keyturn jobs serve` serves this API to the workers that execute jobs.
A caller is `TENANT/NAME` with a bearer token of `KEYTURN_JOBS_TOKENS`, and sees its tenant's jobs only.
It describes itself as `/openapi.json`.
A refusal is a problem document whose `kind` is `unknown_job`, `stale_claim`, `job_closed`, `state_refused`, `invalid`, `not_signed_in`, `too_large` or `job_store_unavailable`:
"""


def desk_document() -> dict[str, Any]:
    """Return the desk's OpenAPI document. Its routes are described before anything is asked, so nothing is connected."""
    app = described_application("Keyturn's desk", "")
    app.include_router(api(NOTHING, DeskSettings.model_construct(), NOTHING))
    return app.openapi()


def jobs_document() -> dict[str, Any]:
    """Return the OpenAPI document of the jobs API."""
    app = described_application("Keyturn's jobs", "")
    app.include_router(jobs_router(NOTHING))
    return app.openapi()


def http_page() -> str:
    """Return the page of both interfaces."""
    desk = _interface("desk API", DESK, DESK_PROBLEMS, desk_document())
    jobs = _interface("jobs API", JOBS, JOBS_PROBLEMS, jobs_document())
    return page("HTTP interfaces", *desk, *jobs)


def _interface(name: str, introduction: str, problems: Mapping[int | str, Any], document: Schema) -> Iterator[str]:
    meanings = ([code(status), cell(one["description"])] for status, one in problems.items())
    title = name[0].upper() + name[1:]
    yield f"## {title}\n\n{introduction.strip()}\n\n{table(('status', 'meaning'), meanings)}"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield _operation(f"{method.upper()} {path}", operation)
    yield f"### Bodies of the {name}"
    for body, schema in sorted(document["components"]["schemas"].items()):
        if body not in GENERAL:
            yield _body(body, schema)


# FastAPI's own, of faults that the desk answers with a problem document instead.
GENERAL = {"HTTPValidationError", "ValidationError"}


def _operation(name: str, operation: Schema) -> str:
    parts = [f"### `{name}`", operation.get("description", "")]
    if parameters := operation.get("parameters"):
        rows = (
            [
                code(one["name"]),
                one["in"] + (", required" if one.get("required") else ""),
                _type(one["schema"]),
                cell(one.get("description", "")),
            ]
            for one in parameters
        )
        parts.append(table(("parameter", "in", "type", "meaning"), rows))
    if content := operation.get("requestBody", {}).get("content"):
        parts.append("Body: " + ", ".join(_type(one["schema"]) for one in content.values()) + ".")
    for status, answer in operation["responses"].items():
        if status < "400":
            kinds = [_type(one["schema"]) or "JSON" for one in answer.get("content", {}).values() if "schema" in one]
            parts.append(f"Answers {status}" + (f" with {', '.join(kinds)}." if kinds else "."))
    return "\n\n".join(filter(None, parts))


def _body(name: str, schema: Schema) -> str:
    required = set(schema.get("required", ()))
    rows = [
        [code(field), "required" if field in required else _default(one), _type(one), cell(one.get("description", ""))]
        for field, one in schema.get("properties", {}).items()
    ]
    if not rows:
        return f"#### {name}\n\n{_type(schema)}"
    described = inspect.cleandoc(schema.get("description", ""))
    return "\n\n".join(filter(None, [f"#### {name}", described, table(("field", "default", "type", "meaning"), rows)]))


def _default(schema: Schema) -> str:
    return code(json.dumps(schema["default"])) if "default" in schema else ""


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(filter(None, map(_type, schema[union]))))
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(one) for one in schema["enum"])
    if schema.get("type") == "array":
        return "list of " + (_type(schema.get("items", {})) or "anything")
    return " ".join([str(schema.get("format") or schema.get("type", "")), *_limits(schema)]).strip()


def _limits(schema: Schema) -> Iterator[str]:
    for key, text in LIMITS.items():
        if key in schema:
            yield text.format(schema[key])


LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "maxLength": "of at most {} characters",
}
