"""A bulk run."""

from keyturn.errors import KeyturnError


class UnknownRun(KeyturnError):
    """There is no bulk run of this ID, or it is another tenant's."""

    kind = "unknown_run"
    next_step = "fail_and_fix_request"
    hint = "Look for it with `keyturn runs`."


class PriceUnknown(KeyturnError):
    """A run has a limit of cost, and a model that answered has no price: the limit cannot be enforced."""

    kind = "price_unknown"
    hint = (
        "Resume the run without a limit; or cancel it, add the model's price to KEYTURN_RATE_CARD, and start a new one."
    )


class MaxUsdReached(KeyturnError):
    """The calls of a run have cost what its limit allows; nothing more was asked."""

    kind = "max_usd_reached"
    hint = "Resume the run without a limit, or cancel it."
