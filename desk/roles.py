"""Who may do what: the dependencies of every route."""

from typing import Annotated, Any

from fastapi import Depends, Request

from keyturn.desk.desk import Desk
from keyturn.desk.people import Person
from keyturn.desk.settings import Role
from keyturn.web.problems import Refused


def current_person(request: Request) -> Person:
    """Return who sends a request; refuses a caller who is not signed in."""
    person: Person | None = request.state.person
    if person is None:
        scheme = {"WWW-Authenticate": "Bearer"}
        raise Refused(401, "not_signed_in", "not signed in", hint="Send a bearer token.", headers=scheme)
    return person


def _with_role(role: Role) -> Any:
    def person_with_role(person: Annotated[Person, Depends(current_person)]) -> Person:
        person.expect(role)
        return person

    return person_with_role


def _decider(person: Annotated[Person, Depends(current_person)]) -> Person:
    """Who may decide on some rotation. Whether on this one, `expect_decider` says, which knows what it waits for."""
    if "operator" not in person.roles:
        person.expect("approver")
    return person


async def expect_decider(desk: Desk, person: Person, workflow_id: str) -> None:
    """Refuse a person who may not decide on this rotation: only what no line names approvers for is an operator's."""
    if "approver" not in person.roles and not (await desk.rotation(workflow_id)).get("any_operator"):
        person.expect("approver")


AnyPerson = Annotated[Person, Depends(current_person)]
Approver = Annotated[Person, Depends(_with_role("approver"))]
Asker = Annotated[Person, Depends(_with_role("asker"))]
Decider = Annotated[Person, Depends(_decider)]
Operator = Annotated[Person, Depends(_with_role("operator"))]
