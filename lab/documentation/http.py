"""The reference of HTTP, from the desk's OpenAPI document and the contracts of the jobs API."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel

from keyturn.desk.api import PROBLEMS, api
from keyturn.desk.settings import DeskSettings
from keyturn.jobs.contracts import ClaimedJob
from keyturn.lab.documentation.markdown import cell, code, page, table
from keyturn.workers import jobs_api

Schema = Mapping[str, Any]

DESK = """\
`keyturn desk` serves this API, and the same description as `/openapi.json`.
A caller signs in by a bearer token or by a proxy's header.
A refusal is a problem document (RFC 9457) with a `kind` and a hint:
"""
JOBS = """\
`keyturn jobs serve` serves this API to the workers that execute jobs.
A caller is `TENANT/NAME` with a bearer token of `KEYTURN_JOBS_TOKENS`, and sees its tenant's jobs only.
A refusal has `error` and `message`: 401, 404 `unknown_job`, 409 `stale_claim`, `job_closed` or `state_refused`, 413, 422 `invalid`, 503.
"""


def desk_document() -> dict[str, Any]:
    """Return the desk's OpenAPI document. Its routes are described before anything is asked, so nothing is connected."""
    app = FastAPI(title="Keyturn's desk", version="1")
    nothing = cast(Any, None)
    app.include_router(api(nothing, DeskSettings.model_construct(), nothing))
    return app.openapi()


def http_page() -> str:
    """Return the page of both interfaces."""
    document = desk_document()
    schemas: Mapping[str, Schema] = document["components"]["schemas"]
    problems = table(
        ("status", "meaning"), ([code(status), cell(one["description"])] for status, one in PROBLEMS.items())
    )
    parts = [f"## Desk API\n\n{DESK.strip()}\n\n{problems}"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(f"{method.upper()} {path}", operation))
    parts.append("### Bodies of the desk API")
    parts += [_body(name, schema) for name, schema in sorted(schemas.items()) if name not in GENERAL]
    parts.append(f"## Jobs API\n\n{JOBS.strip()}")
    parts += [_job_route(*route) for route in _job_routes()]
    return page("HTTP interfaces", *parts)


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


# The jobs API has no OpenAPI document yet; then it goes the desk's way.
def _job_routes() -> Iterator[tuple[str, str, type[BaseModel] | None]]:
    application = jobs_api.JobsApi(cast(Any, None), {}).application()
    for route in application.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method == "HEAD":
            continue
        named = re.search(r"_body\(request, (\w+)\)", inspect.getsource(route.handler))
        yield route.method, path, getattr(jobs_api, named[1]) if named else None


def _job_route(method: str, path: str, body: type[BaseModel] | None) -> str:
    parts = [f"### `{method} {path}`"]
    if body is not None:
        parts.append(_fields(body))
        parts.append("Answers 200 with the job" + (", or 204 if no job is free." if path.endswith("claim") else "."))
        if path.endswith("claim"):
            parts.append(_fields(ClaimedJob))
    else:
        parts.append("Answers 200 while the process runs.")
    return "\n\n".join(parts)


def _fields(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    required = set(schema.get("required", ()))

    def resolve(one: Schema) -> Schema:
        return definitions[one["$ref"].rpartition("/")[2]] if "$ref" in one else one

    rows = (
        [code(name), "required" if name in required else _default(one), _type(resolve(one))]
        for name, one in schema["properties"].items()
    )
    return table(("field", "default", "type"), rows)
