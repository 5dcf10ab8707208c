"""Who may do what: the dependencies of every route."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Request

from desk.people import Person
from desk.problems import Refused


def signed_in(request: Request) -> Person:
    """Return who sends a request; refuses whoever is not signed in."""
    person: Person | None = request.state.person
    if person is None:
        scheme = {"WWW-Authenticate": "Bearer"}
        raise Refused(401, "not_signed_in", "nobody is signed in", mend="Send a bearer token.", headers=scheme)
    return person


def _with_role(role: Literal["asker", "approver", "operator"]) -> Any:
    def expected(person: Annotated[Person, Depends(signed_in)]) -> Person:
        person.expect(role)
        return person

    return expected


Anybody = Annotated[Person, Depends(signed_in)]
Asker = Annotated[Person, Depends(_with_role("asker"))]
Approver = Annotated[Person, Depends(_with_role("approver"))]
Operator = Annotated[Person, Depends(_with_role("operator"))]
