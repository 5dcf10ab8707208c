"""An executor executes rotation jobs at one cloud; a secret target stores the new secrets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic_settings import BaseSettings

from keyturn.contracts import CredentialKind
from keyturn.execution.protocols import CloudKeys, SecretStore


@dataclass(frozen=True)
class SecretTarget:
    """A secret target, as the key map and KEYTURN_EXECUTOR_TARGETS name it: `NAME:PATH`.

    Attributes:
        name: unique.
        path: what stands behind the colon, for people, such as `FOLDER/NAME`.
        open: makes the store. It may import a library that is an extra's: a ModuleNotFoundError is reported as the
            extra that is missing.
        check: raises TargetUnusable for what stands behind the colon and is no path of it, without asking anyone. It is
            called before a key is created.
        reads_back: whether a secret can be read again. One that cannot is filled from the key's first target.
        for_production: whether production may use it.
        extra: the extra of Keyturn that brings its library; empty if it needs none.
        settings: returns the class of its settings, for the documentation; None if it has none of Keyturn's.
    """

    name: str
    path: str
    open: Callable[[], SecretStore]
    check: Callable[[str], None] | None = None
    reads_back: bool = True
    for_production: bool = True
    extra: str = ""
    settings: Callable[[], type[BaseSettings]] | None = None

    @property
    def usage(self) -> str:
        """Return how a key map names it."""
        return f"{self.name}:{self.path}"


@dataclass(frozen=True)
class Executor:
    """An executor, as KEYTURN_EXECUTOR names it.

    Attributes:
        name: unique.
        kind: the jobs that it executes, by the kind of their credential.
        open: makes the keys of each cloud account that the environment's credentials reach. It may import a library
            that is an extra's, as a target's `open` may, and raises a KeyturnError for what is missing.
        extra: the extra of Keyturn that brings its library; empty if it needs none.
        settings: returns the class of its settings, for the documentation; None if it has none of Keyturn's.
    """

    name: str
    kind: CredentialKind
    open: Callable[[], Sequence[CloudKeys]]
    extra: str = ""
    settings: Callable[[], type[BaseSettings]] | None = None
