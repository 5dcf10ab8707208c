"""The targets of one rotation: the new secret in each, in order, each read back where that can be done."""

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from pydantic import SecretStr

from keyturn.errors import KeyturnError
from keyturn.execution.contracts import TargetPath
from keyturn.execution.errors import CloudUnavailable, SecretNotStored, TargetUnusable
from keyturn.execution.protocols import SecretStore
from keyturn.execution.target_protocols import FinishesRestores, NamesRestarts, RestartsConsumers, SharesSecrets

MOST_NAMED = 16  # entries of another program, in a line for a person
MAX_PATH = 440  # what a state of a rotation has room for
Check = Callable[[str], None]
_UNUSABLE = (
    "a key that does not work, and was not there before: its version before is disabled or gone. Enable that, or store "
    "the old key's secret, and resume"
)


class OpenTarget(NamedTuple):
    """A target's store, whether what it holds can be read back, and what checks its paths (raises TargetUnusable)."""

    store: SecretStore
    reads_back: bool
    check: Check | None = None


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

    async def expect_reachable(self, paths: Sequence[TargetPath]) -> Sequence[SecretStr]:
        """Read every target that can be read, before a key is created whose secret would have nowhere to go.

        Returns what they hold.
        """
        held: list[SecretStr] = []
        for path in paths:
            target = self._target(path)
            if target.reads_back and (secret := await target.store.current(_name(path))) is not None:
                held.append(secret)
            if isinstance(target.store, SharesSecrets):
                await target.store.expect_ours(_name(path))
        return held

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
        SecretNotStored where a target would go back to what it may not hold (ours is stored again then) or holds that
        already, and CloudUnavailable where one still shows ours.
        """
        left: list[TargetPath] = []
        before: SecretStr | None = None
        for path in paths:
            target, name = self._target(path), _name(path)
            if target.reads_back:
                now = await target.store.current(name)
                if now is not None and is_ours(now):
                    await self._restore_one(path, now, is_ours=is_ours, may_hold=may_hold)
                elif not may_hold(now):
                    raise SecretNotStored(f"{path} holds the secret of {_UNUSABLE}")
                elif isinstance(target.store, FinishesRestores):
                    await target.store.finish_restore(name)
                before = before or await self.current(paths)
            elif before is not None:
                await target.store.put(name, before, version=f"before-{version}")
            else:
                left.append(path)
        return left

    async def _restore_one(
        self,
        path: TargetPath,
        ours: SecretStr,
        *,
        is_ours: Callable[[SecretStr], bool],
        may_hold: Callable[[SecretStr | None], bool],
    ) -> None:
        store, name = self._target(path).store, _name(path)
        await store.restore(name)
        restored = await store.current(name)
        if restored is not None and is_ours(restored):
            raise CloudUnavailable(f"{path} still shows the new key's secret")
        if not may_hold(restored):
            # A version of its own: a store that knows one already takes a second try for the first, and does nothing.
            await store.put(name, ours, version=f"again-{uuid.uuid4().hex}")
            raise SecretNotStored(f"{path} would go back to the secret of {_UNUSABLE}")

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
