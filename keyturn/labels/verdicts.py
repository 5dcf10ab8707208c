"""What a verdict on a key amounts to, and whether it is wrong: for the cases of `make eval` and for people's labels."""

from typing import Literal

from keyturn.rotations.decisions import Disagreement, GroundedDecision, Rejection

Consequence = Literal["job", "person", "nothing"]


def kind_of(verdict: object) -> str:
    """Return the accepted decision, or `disagreement`, `rejected`; `unanswered` for anything else."""
    match verdict:
        case GroundedDecision(decision=decision):
            return decision
        case Disagreement():
            return "disagreement"
        case Rejection():
            return "rejected"
        case _:
            return "unanswered"


def consequence_of(verdict: object) -> Consequence:
    """Return what would have happened: a job, a person's decision, or nothing."""
    match verdict:
        case GroundedDecision(decision="eligible", needs_approval=needs_approval):
            return "person" if needs_approval else "job"
        case Disagreement():
            return "person"
        case _:
            return "nothing"


def is_wrong_yes(verdict: object, *, due: bool) -> bool:
    """Return True for an accepted yes about a key that is not to be rotated."""
    return not due and kind_of(verdict) == "eligible"


def is_wrong_job(verdict: object, *, due: bool) -> bool:
    """Return True for a wrong yes on which no person would have decided."""
    return is_wrong_yes(verdict, due=due) and consequence_of(verdict) == "job"


def is_wrong_no(verdict: object, *, due: bool) -> bool:
    """Return True if a key that is to be rotated got no accepted yes: a no, a rejected answer or a disagreement."""
    return due and kind_of(verdict) != "eligible"
