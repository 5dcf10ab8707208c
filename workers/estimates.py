"""What a bulk run would cost, before anything is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from keyturn.contracts import CredentialFacts
from keyturn.llm.estimate import estimate_input
from keyturn.llm.wire import Usage
from keyturn.policy.line import PolicyLine
from keyturn.rotations.contracts import RotationRequest
from keyturn.tasks.decide_rotation import TASK
from keyturn.workers.settings import Settings


@dataclass(frozen=True)
class Estimate:
    """The most that a run's calls cost with the first model of the route; None if its price is not known."""

    model: str
    usd: Decimal | None


def estimate_run(
    settings: Settings, lines: Sequence[PolicyLine], *, account_id: str, facts: CredentialFacts, asks: int
) -> Estimate:
    """Return the most that asking about `asks` keys costs, each like the one that is given.

    Tokens are estimated from above, and an answer is taken to be as long as it may be.

    Args:
        settings: a worker's: its route and prices.
        lines: of the run.
        account_id: of the key that stands for all.
        facts: its evidence.
        asks: how many keys a model would be asked about.
    """
    request = RotationRequest(
        account_id=account_id,
        policy_lines=tuple(line.ref for line in lines),
        question="May this key be rotated?",
        trace_id="estimate",
        credential=facts,
    )
    prompt = TASK.prompt(request, lines)
    usage = Usage(input_tokens=estimate_input(prompt), output_tokens=prompt.max_output_tokens)
    target = (settings.routes.get(TASK.name) or settings.routes["*"])[0]
    each = settings.prices.cost_usd(target.provider, target.model, usage)
    return Estimate(str(target), None if each is None else each * asks)
