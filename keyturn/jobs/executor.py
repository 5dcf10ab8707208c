"""An executor executes rotation jobs at one cloud; a secret target stores the new secrets."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from keyturn.contracts import CredentialKind
from keyturn.execution.contracts import ExecutorSteps, SecretStore
from keyturn.jobs.leases import JobLeases


@dataclass(frozen=True)
class SecretTarget:
    """A secret target, as KEYTURN_EXECUTOR_SECRETS names it: `NAME`, or `NAME:PLACE`.

    Attributes:
        name: unique.
        open: makes the store, of the place that the setting names. It may import a library that is an extra's: a
            ModuleNotFoundError is reported as the extra that is missing.
        place: the text behind the colon, such as `FOLDER`; empty if there is none.
        for_production: whether production may use it.
        extra: the extra of Keyturn that brings its library; empty if it needs none.
    """

    name: str
    open: Callable[[str], SecretStore]
    place: str = ""
    for_production: bool = True
    extra: str = ""

    @property
    def usage(self) -> str:
        """Return how the setting names it."""
        return f"{self.name}:{self.place}" if self.place else self.name


@dataclass(frozen=True)
class Executor:
    """An executor, as KEYTURN_EXECUTOR names it.

    Attributes:
        name: unique.
        kind: the jobs that it executes, by the kind of their credential.
        open: makes the steps, of the jobs, the secret store and the secret's name, with `{user}` in place of the
            key's user. It may import a library that is an extra's, as a target's `open` may.
        extra: the extra of Keyturn that brings its library; empty if it needs none.
        account: asks the cloud whose its credentials are, for `keyturn doctor`; None if it cannot say.
    """

    name: str
    kind: CredentialKind
    open: Callable[[JobLeases, SecretStore, str], ExecutorSteps]
    extra: str = ""
    account: Callable[[], Awaitable[str]] | None = None
