"""The policy lines of a job, as they are now."""

from collections.abc import Sequence

from keyturn.execution.errors import PolicyLineMissing
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.errors import UnknownPolicyLine
from keyturn.policy.line import PolicyLine


def lines_of_job(catalogue: Catalogue, names: Sequence[str]) -> Sequence[PolicyLine]:
    """Return the lines of a job, each in the version that is current now; raises PolicyLineMissing."""
    try:
        return [catalogue.current(name.rpartition("@")[0]) for name in names]
    except UnknownPolicyLine as error:
        raise PolicyLineMissing(str(error)[:300]) from None
