"""The targets of one rotation: the new secret in each, in order, each read back where that can be done."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple, Protocol, runtime_checkable

from pydantic import SecretStr

from keyturn.errors import KeyturnError
from keyturn.execution.contracts import TargetPath
from keyturn.execution.errors import CloudUnavailable, SecretNotStored, TargetUnusable
from keyturn.execution.protocols import SecretStore

MOST_NAMED = 16  # entries of another program, in a line for a person
MAX_PATH = 440  # what a state of a rotation has room for
Check = Callable[[str], None]


class OpenTarget(NamedTuple):
    """A target's store, whether what it holds can be read back, and what checks its paths (raises TargetUnusable)."""

    store: SecretStore
    reads_back: bool
    check: Check | None = None


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


class SecretTargets:
    """Every target that this process can write to, opened when it is first used.

    Args:
        openers: by the targets' names. Each raises a KeyturnError, or ModuleNotFoundError for a missing extra.
    """

    def __init__(self, openers: Mapping[str, Callable[[], OpenTarget]]) -> None:
        self._openers = openers
        self._open: dict[str, OpenTarget] = {}

    def expect_usable(self, paths: Sequence[TargetPath]) -> None:
        """Check that each path is one of its target, and the first can be read back; raises TargetUnusable."""
        if not paths:
            raise TargetUnusable("the key has no target")
        for path in paths:
            target = self._target(path)
            if len(path) > MAX_PATH:
                raise TargetUnusable(f"{path[:80]}... is longer than {MAX_PATH} characters")
            if target.check is not None:
                target.check(_name(path))
        if not self._target(paths[0]).reads_back:
            raise TargetUnusable(f"{paths[0]} cannot be read back: name a target first that can")

    async def expect_reachable(self, paths: Sequence[TargetPath]) -> None:
        """Read every target that can be read, before a key is created whose secret would have nowhere to go."""
        for path in paths:
            target = self._target(path)
            if target.reads_back:
                await target.store.current(_name(path))
            if isinstance(target.store, SharesSecrets):
                await target.store.expect_ours(_name(path))

    async def look(self, path: TargetPath) -> str:
        """Return in words what a target holds now, having read it; raises a KeyturnError."""
        target = self._target(path)
        if not target.reads_back:
            return "cannot be read back, by its nature; it is filled from the key's first target"
        held = "holds a secret" if await target.store.current(_name(path)) is not None else "holds no secret yet"
        store = target.store
        others = await store.entries_of_others(_name(path)) if isinstance(store, SharesSecrets) else {}
        parts = [f"{manager} manages {', '.join(entries[:MOST_NAMED])}" for manager, entries in others.items()]
        return f"{held}; {'; '.join(parts)}, which Keyturn never takes" if parts else held

    async def current(self, paths: Sequence[TargetPath]) -> SecretStr | None:
        """Return the current secret of the first target, which the others are filled from; None if there is none."""
        return await self._target(paths[0]).store.current(_name(paths[0]))

    async def put(self, paths: Sequence[TargetPath], secret: SecretStr, *, version: str) -> None:
        """Store a secret in every target, the first one first.

        Raises:
            SecretNotStored: it names the targets that failed for good, and those that have it.
            CloudUnavailable: one failed for now; nothing is lost by repeating this.
        """
        await self._target(paths[0]).store.put(_name(paths[0]), secret, version=version)
        await self.copy(paths, secret, version=version)

    async def copy(self, paths: Sequence[TargetPath], secret: SecretStr, *, version: str) -> None:
        """Store the first target's secret in every other one. Raises as `put`."""
        failed: dict[str, str] = {}
        passing, waits = True, list[timedelta]()
        for path in paths[1:]:
            try:
                await self._target(path).store.put(_name(path), secret, version=version)
            except KeyturnError as error:
                failed[path], passing = str(error), passing and error.retryable
                if isinstance(error, CloudUnavailable) and error.retry_after is not None:
                    waits.append(error.retry_after)
            except Exception as error:
                failed[path], passing = type(error).__name__, False
        if not failed:
            return
        stored = [path for path in paths if path not in failed]
        text = f"{_first(failed.values())}: not stored in {_listed(failed)}, but in {_listed(stored)}"
        raise CloudUnavailable(text, retry_after=max(waits, default=None)) if passing else SecretNotStored(text)

    async def expect_current(self, paths: Sequence[TargetPath], is_ours: Callable[[SecretStr], bool]) -> SecretStr:
        """Return the first target's secret, once every target that can be read holds it; raises SecretNotStored."""
        first: SecretStr | None = None
        for path in paths:
            target = self._target(path)
            if not target.reads_back:
                continue
            secret = await target.store.current(_name(path))
            if (
                secret is None
                or not is_ours(secret)
                or (first is not None and not is_same_secret(first.get_secret_value(), secret.get_secret_value()))
            ):
                raise SecretNotStored(f"{path} does not hold the new key's secret")
            first = first or secret
        if first is None:
            raise SecretNotStored(f"{paths[0]} cannot be read back")
        return first

    async def unfinished_rollouts(self, paths: Sequence[TargetPath]) -> Sequence[str] | None:
        """Return a line for each program that a target restarts and that may still run with the secret before.

        None if the targets restart nothing. Raises as the target.
        """
        found: list[str] | None = None
        for path in paths:
            store = self._target(path).store
            left = await store.unfinished_rollouts(_name(path)) if isinstance(store, RestartsConsumers) else None
            if left is not None:
                found = [*(found or []), *left]
        return found

    def restart_consumers(self, paths: Sequence[TargetPath]) -> bool:
        """Return whether a target restarts what reads its secret."""
        stores = [(self._target(path).store, _name(path)) for path in paths]
        return any(isinstance(store, NamesRestarts) and store.restarts(name) for store, name in stores)

    async def restore(
        self,
        paths: Sequence[TargetPath],
        is_ours: Callable[[SecretStr], bool],
        *,
        version: str,
        may_hold: Callable[[SecretStr | None], bool] = lambda _secret: True,
    ) -> Sequence[TargetPath]:
        """Make the secret before current again wherever the current one is ours; a copy takes the first target's.

        Returns the targets that still hold our secret: those that cannot be read, where there was none before. Raises
        SecretNotStored where a target would go back to what it may not hold; ours is stored again then.
        """
        left: list[TargetPath] = []
        before: SecretStr | None = None
        for path in paths:
            target, name = self._target(path), _name(path)
            if target.reads_back:
                now = await target.store.current(name)
                if now is not None and is_ours(now):
                    await target.store.restore(name)
                    if not may_hold(await target.store.current(name)):
                        await target.store.put(name, now, version=f"again-{version}")
                        raise SecretNotStored(
                            f"{path} would go back to the secret of another key than the old one: its version before "
                            "is disabled or gone. Enable that, or store the old key's secret, and resume"
                        )
                elif isinstance(target.store, FinishesRestores):
                    await target.store.finish_restore(name)
                before = before or await self.current(paths)
            elif before is not None:
                await target.store.put(name, before, version=f"before-{version}")
            else:
                left.append(path)
        return left

    def _target(self, path: TargetPath) -> OpenTarget:
        kind = path.partition(":")[0]
        if kind not in self._open:
            if kind not in self._openers:
                known = ", ".join(sorted(self._openers))
                raise TargetUnusable(f"{kind} is no target of this executor: there are {known}")
            self._open[kind] = self._openers[kind]()
        return self._open[kind]


def _name(path: TargetPath) -> str:
    return path.partition(":")[2]


def _first(texts: Iterable[str]) -> str:
    return next(iter(texts))[:160]


def _listed(paths: Collection[str]) -> str:
    text = ", ".join(path[:60] for path in list(paths)[:3])
    return text + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def is_same_secret(one: str, other: str) -> bool:
    """Return whether two texts are the same, as JSON if both are: a target may write an object in its own layout."""
    try:
        return one == other or bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
