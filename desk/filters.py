"""The conditions of the desk's lists, as a query string has them: for pages and JSON alike, unknown ones refused."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlencode

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from keyturn.application.rotation_lists import RotationFilter, RotationState
from keyturn.contracts import AccountId, Identifier, Owner
from keyturn.jobs.listing import JobFilter, JobOrderBy
from keyturn.jobs.states import JobState

RunId = Annotated[str, Path(max_length=64, description="ID of the run.")]
Cursor = Annotated[str, Field(max_length=2_000, description="The cursor of the page before: its `after`.")]


def _or_none(value: Any) -> Any:
    """A form sends a field that was left empty as an empty text."""
    return None if value == "" else value


def _without_empty(value: Any) -> Any:
    return [one for one in value if one != ""] if isinstance(value, list) else value


Empty = BeforeValidator(_or_none)


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: Annotated[Cursor | None, Empty] = None


class RotationQuery(_Query):
    """Which rotations are listed: open ones first, then those that closed last."""

    state: Annotated[list[RotationState], BeforeValidator(_without_empty)] = Field(
        default_factory=list, max_length=10, description="Of these states; of all if left out."
    )
    account_id: Annotated[AccountId | None, Empty] = None
    key_id: Annotated[Identifier | None, Empty] = Field(default=None, description="Of this key; it needs account_id.")
    line: Annotated[str | None, Empty] = Field(
        default=None, max_length=140, description="Under this policy line, as ID@VERSION."
    )
    owner: Annotated[Owner | None, Empty] = Field(
        default=None, description="Of this owner when they were asked for; `unowned` for those without one."
    )
    older_than_days: Annotated[int | None, Empty] = Field(
        default=None, ge=0, le=36_500, description="Started more than so many days ago."
    )

    def chosen(self) -> RotationFilter:
        """Return the conditions."""
        days = self.older_than_days
        return RotationFilter(
            states=tuple(self.state),
            account_id=self.account_id,
            key_id=self.key_id,
            line=self.line,
            owner=self.owner,
            started_before=None if days is None else datetime.now(UTC) - timedelta(days=days),
        )


class JobQuery(_Query):
    """Which jobs are listed."""

    state: Annotated[JobState | Literal["open", "closed"] | None, Empty] = Field(
        default=None, description="Of this state; `open` for all that are not closed, `closed` for the others."
    )
    account_id: Annotated[AccountId | None, Empty] = None
    key_id: Annotated[Identifier | None, Empty] = None
    line: Annotated[str | None, Empty] = Field(
        default=None, max_length=140, description="Under this policy line: an ID, or ID@VERSION."
    )
    overdue: bool = Field(default=False, description="Only open jobs past their date.")
    owner: Annotated[Owner | None, Empty] = Field(
        default=None, description="Of this owner when they were created; `unowned` for those without one."
    )
    order_by: JobOrderBy = Field(default="newest", description="The newest job first, or the earliest date.")

    def chosen(self) -> JobFilter:
        """Return the conditions."""
        return JobFilter(
            state=self.state,
            account_id=self.account_id,
            key_id=self.key_id,
            line=self.line,
            overdue=self.overdue,
            owner=self.owner,
        )


class RunQuery(_Query):
    """Which bulk runs are listed, newest first."""


class CallQuery(_Query):
    """Which model calls are listed, newest first."""

    status: Annotated[str | None, Empty] = Field(default=None, max_length=16, description="Of this status, such as ok.")
    task: Annotated[str | None, Empty] = Field(default=None, max_length=48, description="Of this task.")
    trace_id: Annotated[str | None, Empty] = Field(
        default=None, max_length=64, description="Of this trace, as of one rotation or one draft."
    )


class ItemQuery(_Query):
    """Which items of a bulk run are listed, in the inventory's order."""

    outcome: Annotated[str | None, Empty] = Field(default=None, max_length=32, description="Of this outcome.")
    account_id: Annotated[AccountId | None, Empty] = None


def as_text(query: _Query) -> str:
    """Return the conditions as a query string."""
    return urlencode(query.model_dump(mode="json", exclude_none=True, exclude_defaults=True), doseq=True)


def query_of(text: str) -> RotationQuery:
    """Return the conditions that a form carried along as a query string; none if it holds others."""
    try:
        given = parse_qs(text).items()
        return RotationQuery.model_validate({name: found if name == "state" else found[-1] for name, found in given})
    except ValidationError:
        return RotationQuery()


def more_of(query: _Query, after: str | None) -> dict[str, Any]:
    """Return the query string's fields of the next page; empty if there is none."""
    if after is None:
        return {}
    return query.model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {"after": after}
