"""Two gates that look one way only, as negative controls: the proof must distinguish each from Keyturn's."""

from collections.abc import Callable, Sequence
from datetime import datetime

from keyturn.activities import create_rotation_job
from keyturn.policy.grounding import decision_of, ground
from keyturn.policy.line import PolicyLine
from keyturn.rotations.contracts import RotationRequest
from keyturn.rotations.decisions import GroundedDecision, ProposedDecision, Rejection

Judge = Callable[
    [ProposedDecision, RotationRequest, Sequence[PolicyLine], datetime | None], GroundedDecision | Rejection
]


def naive_gate(control: str | None) -> Judge | None:
    """Return the gate of a control, and let orders pass as it decided them; None for a control that has none."""
    gate = {"one_sided_gate": _one_sided, "cited_lines_only": _cited_lines_only}.get(control or "")
    if gate is not None:
        setattr(create_rotation_job, "confirm", lambda _order, _catalogue: None)  # noqa: B010 - it is another's name
    return gate


def _one_sided(
    proposed: ProposedDecision, request: RotationRequest, lines: Sequence[PolicyLine], at: datetime | None
) -> GroundedDecision | Rejection:
    """A no has no effect, so it is accepted as it is."""
    said = decision_of(proposed)
    if said in {"not_eligible", "not_specified"} and proposed.rotation_window_days is None:
        return GroundedDecision(decision=said, digest=f"v1:{'0' * 64}", decided_at=at)
    return ground(proposed, request, lines, at)


def _cited_lines_only(
    proposed: ProposedDecision, request: RotationRequest, lines: Sequence[PolicyLine], at: datetime | None
) -> GroundedDecision | Rejection:
    """What the model does not cite does not bind."""
    cited = proposed.source_line_ids if isinstance(proposed.source_line_ids, list) else []
    kept = [line for line in lines if line.id in cited]
    return ground(proposed, request, kept or lines, at)
