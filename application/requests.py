"""From a command's arguments to a checked request: everything wrong is said before anything is started."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from keyturn.contracts import MAX_QUESTION_CHARACTERS
from keyturn.errors import InvalidRequest
from keyturn.faults import faults_of
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.grounding import observed_in_future
from keyturn.policy.line import digest_of_lines
from keyturn.rotations.contracts import RotationRequest
from keyturn.workflows.identity import Names, plain, workflow_id_of

MAX_WORKFLOW_ID = 1_000  # Temporal's own limit, and the width of the column that stores it


def build_request(
    catalogue: Catalogue, *, policy: Sequence[str], facts: dict[str, Any], fields: dict[str, Any]
) -> RotationRequest:
    """Return the request for these arguments, under the current versions of the policy lines named.

    Args:
        catalogue: the policy lines.
        policy: ids of those to judge under, such as P-7.
        facts: what is known of the credential, by the names of `CredentialFacts`.
        fields: the rest of the request, by the names of `RotationRequest`.

    Raises:
        InvalidRequest: a value cannot be used; its faults name the fields.
        UnknownPolicyLine: there is no such line; the message names those that there are.
    """
    question = fields.get("question", "")
    if len(question) > MAX_QUESTION_CHARACTERS:
        reason = f"has {len(question):,} characters, and the limit is {MAX_QUESTION_CHARACTERS:,}: shorten it"
        raise InvalidRequest(faults=[("question", reason)])
    lines = [catalogue.current(line_id) for line_id in dict.fromkeys(policy)]
    known = {name: value for name, value in facts.items() if value is not None}
    given = {name: value for name, value in fields.items() if value is not None}
    given.setdefault("trace_id", f"trace_{uuid.uuid4().hex}")
    try:
        request = RotationRequest.model_validate(
            {
                **given,
                "policy_lines": [line.ref for line in lines],
                "policy_digest": digest_of_lines(lines),
                "credential": known,
            }
        )
    except ValidationError as error:
        raise InvalidRequest(faults=faults_of(error)) from None
    if not any(request.credential.kind in line.applies_to for line in lines):
        kinds = " or ".join(sorted({kind for line in lines for kind in line.applies_to}))
        named = ", ".join(line.id for line in lines)
        raise InvalidRequest(faults=[("kind", f"{named} covers no {request.credential.kind}: state {kinds}")])
    if observed_in_future(request.credential, datetime.now(UTC)):
        raise InvalidRequest(faults=[("observed_at", "lies in the future: evidence is what was seen")])
    if len(id_of(request)) > MAX_WORKFLOW_ID:
        raise InvalidRequest(f"account, key and policy IDs give a workflow ID of over {MAX_WORKFLOW_ID} characters")
    return request


def id_of(request: RotationRequest, names: Names = plain) -> str:
    """Return the workflow id that stands for `request`, account and key written as `names` writes them."""
    return workflow_id_of(request.tenant_id, request.account_id, request.credential.key_id, request.policy_lines, names)
