"""What a target's store may be able to do beside storing: each is looked for where it is used."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class FinishesRestores(Protocol):
    """A store whose `restore` has more than one effect, such as a restart of what reads the secret."""

    async def finish_restore(self, name: str) -> None:
        """Do what an earlier `restore` of this name has left undone; nothing if there was none."""
        ...


@runtime_checkable
class RestartsConsumers(Protocol):
    """A store that restarts what reads its secrets, and knows when that runs with the current one."""

    async def unfinished_rollouts(self, name: str) -> Sequence[str] | None:
        """Return a line for each that may still run with the secret before; None if the name restarts nothing."""
        ...


@runtime_checkable
class NamesRestarts(Protocol):
    """A store that knows, without asking anyone, whether it restarts what reads a secret."""

    def restarts(self, name: str) -> bool:
        """Return whether anything is restarted for a secret of this name."""
        ...


@runtime_checkable
class SharesSecrets(Protocol):
    """A store in which a secret may have entries that other programs manage."""

    async def entries_of_others(self, name: str) -> Mapping[str, Sequence[str]]:
        """Return the names of the entries that others manage, by manager."""
        ...

    async def expect_ours(self, name: str) -> None:
        """Check, where the name says what is written, that no one else manages it; raises SecretManagedElsewhere."""
        ...
