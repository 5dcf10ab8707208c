"""The frozen, bounded models that cross Temporal, the database and the command line.

Everything here refuses unknown fields and is limited in length: a payload over 2 MiB would be retried by the server for
ever, so what is too large is refused at the edge.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from keyturn.moments import name_by_creation
from keyturn.people import same_form
from keyturn.private_data import holds_private_data, holds_secret

MAX_QUESTION_CHARACTERS = 4_000  # a support question; it also limits the prompt to far below any model's context window
MAX_APPROVERS = 64  # of a policy line: a team; more is a mailing list, on which no one feels responsible
MAX_POLICY_LINES = 8  # lines that one question may be judged under; each adds to the prompt and to the workflow id

# Identifiers appear in workflow ids, in the UI and in prompts: printable, one line, no quotes, no braces.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+=,-]*$", max_length=256)]
# Of whom a key is. An ARN of IAM has a path, of any printable character and 512 at most (IAM's CreateUser);
# the rest has the letters of every other id.
AccountId = Annotated[
    str,
    StringConstraints(
        pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9._:/@+=,-]{0,255}|arn:aws[a-z-]*:iam::\d{12}:(?:user|role)/[!-\x7f]{1,600})$",
        max_length=640,
    ),
]
# Why an inventory says that nothing need be decided of a key.
Idle = Literal["inactive", "system_managed", "expired"]
ShortIdentifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+=-]*$", max_length=64)]

UNOWNED = "unowned"  # in filters and counts: that no one is known to own a key


def _without_at(name: object) -> object:
    """Return a name as code hosts write it, such as `@org/team`, without its mark."""
    return name.strip().removeprefix("@") if isinstance(name, str) else name


def _is_a_name(name: str) -> str:
    if same_form(name) == UNOWNED:
        raise ValueError(f"{UNOWNED} is no owner: leave the owner out of keys that no one owns")
    return name


# A team, a person's address, or a group as code hosts write it, such as org/team.
Owner = Annotated[
    str,
    BeforeValidator(_without_at),
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+=/-]*$", max_length=64),
]
# ... where a key gets its owner, and not where owners are looked for.
OwnerName = Annotated[Owner, AfterValidator(_is_a_name)]


def _refuse_bool(value: object) -> object:
    """Refuse what pydantic would take for one day, or none: `true` is no number of days."""
    if isinstance(value, bool):
        raise ValueError("write it as a whole number of days")
    return value


def _refuse_bare_number(value: object) -> object:
    """Refuse what pydantic would take for seconds since 1970: a lone `2026` is a slip, not a moment of that year."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATE_AND_TIME.match(value)):
        raise ValueError("write it as 2026-08-01T00:00:00Z")
    return value


def _of_our_time(moment: datetime) -> datetime:
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise ValueError(f"lies outside the years {EARLIEST_YEAR} to {LATEST_YEAR}")
    if moment < datetime(1970, 1, 2, tzinfo=UTC):  # in any time zone
        raise ValueError("is the zero of computers' clocks, which exporters write for no date: leave it out")
    # Python subtracts two moments of one zone by its clock, which is set twice a year.
    return moment.replace(tzinfo=timezone(moment.utcoffset() or timedelta(0))) if moment.tzinfo != UTC else moment


_DATE_AND_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}")
# No key is older than the systems that have keys; and a far future would overflow where a window is added.
EARLIEST_YEAR, LATEST_YEAR = 1970, 2200
Days = Annotated[int, BeforeValidator(_refuse_bool)]
Moment = Annotated[AwareDatetime, BeforeValidator(_refuse_bare_number), AfterValidator(_of_our_time)]
Digest = Annotated[str, StringConstraints(pattern=r"^v[0-9]+:[0-9a-f]{64}$")]

# The folder of a task in `keyturn/tasks/`: adding one changes nothing here.
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)]
CredentialKind = Literal["service_account_key", "access_key", "user_password", "system_account_password"]
Decision = Literal["eligible", "not_eligible", "not_specified"]
# Text of users and of other systems that is shown in terminals and tables as it is: one line, without characters that
# move the cursor or turn the direction of writing.
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"


def expect_no_private_data(text: str) -> str:
    """Return `text`, unless it contains a secret or a card number; raises ValueError."""
    if holds_private_data(text):
        raise ValueError(HOLDS_PRIVATE_DATA)
    return text


def _expect_key_ids_only(reason: str) -> str:
    if holds_private_data(reason, allow_key_ids=True):
        raise ValueError(HOLDS_PRIVATE_DATA)
    return reason


def expect_no_secret(name: str) -> str:
    """Return `name`, unless it is a secret; raises ValueError."""
    if holds_secret(name):
        raise ValueError("is a secret, not an ID: every reader of histories and tables could read it")
    return name


HOLDS_PRIVATE_DATA = (
    "holds what looks like a secret or a card number: leave it out, and write `the key` in place of an access key's ID"
)
Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=ONE_LINE),
    AfterValidator(_expect_key_ids_only),
]
MAX_NOTES_CHARACTERS = 1_000  # of evidence in words; more is a document, which belongs elsewhere
MAX_QUOTE_CHARACTERS = 500  # as long as a policy line's wording may be
MAX_QUOTES = 16  # two for each line that one question may be judged under
MAX_ANSWER_CHARACTERS = 16_000  # of a model, as it is recorded; the longest that a task accepts is far below


class Contract(BaseModel):
    """What every model here shares: immutable, and an unknown field is an error."""

    # A value that does not fit is not repeated in the error: it may be a question, and errors reach history and logs.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class PolicyRef(Contract):
    """One policy line at one version, such as P-7 at version 1. The version makes an answer repeatable."""

    id: ShortIdentifier
    version: int = Field(ge=1, le=10_000)

    def __str__(self) -> str:
        return f"{self.id}@{self.version}"


class CredentialFacts(Contract):
    """The evidence about one credential, as it was seen at `observed_at`. Unknown stays None: it is never guessed.

    Give the age either as `age_days` or by `last_rotated_at` (for a key that was never rotated, its creation time).
    """

    key_id: Annotated[Identifier, AfterValidator(expect_no_secret)]
    kind: CredentialKind = "service_account_key"
    stale: bool | None = None
    age_days: Days | None = Field(default=None, ge=0, le=36_500)
    last_rotated_at: Moment | None = None
    last_used_at: Moment | None = None
    never_used: bool = False
    compromised: bool | None = None
    observed_at: Moment
    source: Annotated[ShortIdentifier, AfterValidator(expect_no_secret)] = "asker"
    # Evidence in words, for policy lines that state their condition in words only. No other line is judged by it.
    notes: (
        Annotated[
            str,
            StringConstraints(max_length=MAX_NOTES_CHARACTERS, pattern=ONE_LINE),
            AfterValidator(expect_no_private_data),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.age_days is not None and self.last_rotated_at is not None:
            raise ValueError("give age_days or last_rotated_at, not both")
        for name in ("last_rotated_at", "last_used_at"):
            moment: datetime | None = getattr(self, name)
            if moment is not None and moment > self.observed_at:
                raise ValueError(f"{name} is later than observed_at")
        if self.never_used and self.last_used_at is not None:
            raise ValueError("never_used contradicts last_used_at")
        return self

    @property
    def age(self) -> timedelta | None:
        """How old the credential was when it was observed; None when the evidence does not say."""
        if self.last_rotated_at is not None:
            return self.observed_at - self.last_rotated_at
        return None if self.age_days is None else timedelta(days=self.age_days)

    @property
    def name_by_creation(self) -> str | None:
        """What an access key is called where an export has no key ids: by the second of its creation, in UTC.

        An access key of AWS is never changed, only replaced: its last rotation is its creation. None for other kinds,
        and where the evidence does not say when that was.
        """
        made = self.last_rotated_at if self.kind == "access_key" else None
        return None if made is None else name_by_creation(made)

    @property
    def unused_for(self) -> timedelta | None:
        """How long it had not been used, since its last rotation: what was used before that is another credential.

        Use is stated by account for some, such as passwords: a rotation would make the next one due at once.
        """
        if self.last_used_at is not None:
            since = self.observed_at - self.last_used_at
            return since if self.age is None else min(since, self.age)
        return self.age if self.never_used else None


# How a user's name is known: by a desk's token, session or reverse proxy; or it was only stated, as on a command line,
# where any holder of a payload key may write any name.
NameProof = Literal["stated", "token", "session", "proxy", "development"]


class ModelTask(Contract):
    """What every task asks of a model, whichever provider answers: intent, limits, who asked. It grants no action."""

    task: TaskName
    tenant_id: ShortIdentifier = "default"
    user_id: Identifier = "unknown"
    policy_lines: tuple[PolicyRef, ...] = Field(default=(), max_length=MAX_POLICY_LINES)
    trace_id: ShortIdentifier
    prompt_version: ShortIdentifier
    # 120 s is the longest that any interactive model call deserves; each task states its own default and why.
    timeout_seconds: float = Field(gt=0, le=120)
    max_retries: int = Field(default=2, ge=0, le=10)
    # Of the policy lines as the caller has them. A worker that has other wording refuses the request by name.
    policy_digest: Digest | None = None

    @model_validator(mode="after")
    def _one_version_a_line(self) -> Self:
        if len({line.id for line in self.policy_lines}) != len(self.policy_lines):
            raise ValueError("a policy line is named twice")
        return self
