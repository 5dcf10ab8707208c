"""Asks a candidate (model, prompt or policy) recorded questions again: in the shadow, without workflow, job or message.

The candidate is asked under the current lines of its own catalogue, at the time of the first decision, by which the age
of evidence is judged. The user of each question is `eval`, so that no call is taken for a person's.
"""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from keyturn.calls import CallRecord
from keyturn.errors import KeyturnError
from keyturn.labels.contracts import LabelledCase
from keyturn.llm.boundary import JudgedAnswer
from keyturn.llm.budget import Budget
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import UnknownPolicyLine
from keyturn.policy.grounding import decision_of
from keyturn.policy.line import digest_of_lines
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import Disagreement

USER = "eval"
# Calls at once: enough to be done in minutes, few enough for a small account's rate limit.
AT_ONCE = 8
MAX_USD_REACHED, PRICE_UNKNOWN = "max_usd_reached", "price_unknown"
ROUNDS = 2  # what failed for a moment is asked once more, when all others were


class Boundary(Protocol):
    """What answers."""

    async def answer(self, request: Any, attempt: int = 1, *, at: datetime | None = None) -> JudgedAnswer:
        """Return the judged answer; raises a KeyturnError."""
        ...


@dataclass(frozen=True)
class Replayed:
    """A case and what the candidate made of it.

    Attributes:
        case: the case.
        judged: the candidate's answer; None if there was none.
        failure: the kind of the error where there is no answer; or why it was not asked for: the limit of cost.
        is_other_policy: whether the candidate's wording of the lines is another than that of the first decision.
    """

    case: LabelledCase
    judged: JudgedAnswer | None = None
    failure: str | None = None
    is_other_policy: bool = False

    @property
    def calls(self) -> Sequence[CallRecord]:
        """The calls that were made for the answer."""
        return [] if self.judged is None else calls_of(self.judged)

    @property
    def reading(self) -> str | None:
        """What the model said first, before the gate; None if that was none of the three decisions."""
        if self.judged is None:
            return None
        if isinstance(self.judged.verdict, Disagreement):
            return self.judged.verdict.readings[0].decision
        return decision_of((self.judged.first or self.judged).proposed)


def calls_of(judged: JudgedAnswer) -> Sequence[CallRecord]:
    """Return the records of an answer's calls, the first one's included."""
    return [judged.call] if judged.first is None else [judged.first.call, judged.call]


def replayed_request(case: LabelledCase, catalogue: Catalogue, prompt_version: str) -> RotationRequest:
    """Return the question of a case as the candidate is asked it; raises UnknownPolicyLine."""
    lines = tuple(catalogue.current(ref.id).ref for ref in case.request.policy_lines)
    changed = {
        "policy_lines": lines,
        "policy_digest": None,
        "decide_by": "rule_and_model",
        "user_id": USER,
        "trace_id": f"{USER}_{uuid.uuid4().hex}",
        "prompt_version": prompt_version,
    }
    return case.request.model_copy(update=changed)


@dataclass
class Replay:
    """One replay of cases.

    Attributes:
        boundary: the candidate's.
        catalogue: the candidate's policy lines.
        prompt_version: of the wording that it is asked with.
        budget: what the calls may cost; None for no limit. A call without a price ends the replay, then.
    """

    boundary: Boundary
    catalogue: Catalogue
    prompt_version: str
    budget: Budget | None = None
    is_unpriced: bool = False

    async def run(self, cases: Sequence[LabelledCase]) -> Sequence[Replayed]:
        """Ask every case; returns them in their order."""
        done: dict[int, Replayed] = {}
        for attempt in range(1, ROUNDS + 1):
            gate, retried = asyncio.Semaphore(AT_ONCE), set[int]()
            open_now = [at for at in range(len(cases)) if at not in done]
            ended = await asyncio.gather(*(self._ask(cases[at], attempt, gate) for at in open_now))
            for at, (one, again) in zip(open_now, ended, strict=True):
                done[at] = one
                if again and attempt < ROUNDS:
                    retried.add(at)
            for at in retried:
                del done[at]
        return [done[at] for at in range(len(cases))]

    async def _ask(self, case: LabelledCase, attempt: int, gate: asyncio.Semaphore) -> tuple[Replayed, bool]:
        """Return the answer to a case, and whether asking again may help."""
        try:
            request = replayed_request(case, self.catalogue, self.prompt_version)
        except UnknownPolicyLine as error:
            return Replayed(case, failure=error.kind), False
        is_other = _is_other_policy(case, request, self.catalogue)
        async with gate:
            if self.is_unpriced or (self.budget is not None and not await self.budget.admit()):
                return Replayed(case, failure=PRICE_UNKNOWN if self.is_unpriced else MAX_USD_REACHED), False
            calls: Sequence[CallRecord] = ()
            try:
                judged = await self.boundary.answer(request, attempt, at=case.judged_at)
                calls = calls_of(judged)
            except KeyturnError as error:
                return Replayed(case, failure=error.kind, is_other_policy=is_other), error.retryable
            finally:
                await self._count(calls)
        return Replayed(case, judged, is_other_policy=is_other), False

    async def _count(self, calls: Sequence[CallRecord]) -> None:
        if self.budget is not None:
            self.is_unpriced |= any(call.cost_usd is None for call in calls)
            await self.budget.close(calls)


def _is_other_policy(case: LabelledCase, request: RotationRequest, catalogue: Catalogue) -> bool:
    then = case.request
    if then.policy_digest is None:
        return then.policy_lines != request.policy_lines
    return digest_of_lines(catalogue.resolve(request.policy_lines)) != then.policy_digest
