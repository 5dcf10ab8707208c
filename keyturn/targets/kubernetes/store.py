"""Secrets of Kubernetes, by server-side apply, and a restart of what reads them.

A Secret has no versions. The secret before is therefore in a second Secret, `NAME-keyturn-previous`: written before the
first one is changed, and replaced by the next `put`. It is a second copy of a key that works until the old key is
deleted, and of a dead key after that; Keyturn itself never deletes a Secret, and needs no right to.

What the annotations of a Secret say:

- VERSION: the version that `put` was given, or `before-VERSION` after a restore. The pod templates of the workloads
  that are restarted have the same value.
- PREVIOUS, of the Secret itself: whether there was a secret before (`none`, `stored`), or it is that one (`restored`).
- NEXT, of the copy: the version that it is the secret before of.
- FORM: which entries are Keyturn's (keyturn.targets.kubernetes.entries).

Each change names the resourceVersion that was read, so that two attempts at once cannot overwrite each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from keyturn.execution.errors import CloudRefused, SecretNotStored
from keyturn.targets.kubernetes.api import ClusterApi, cluster_of_environment
from keyturn.targets.kubernetes.entries import (
    FORM,
    Entries,
    entries_of,
    expect_writable,
    managed_elsewhere,
    others_entries,
    own_entries,
    text_of,
)
from keyturn.targets.kubernetes.paths import SecretPath, Workload, parse_path
from keyturn.targets.kubernetes.workloads import restart, restarted_for, unfinished

VERSION = "keyturn.dev/version"
PREVIOUS = "keyturn.dev/previous"
NEXT = "keyturn.dev/next-version"
COPY_LABEL = "keyturn.dev/copy"
_NONE, _STORED, _RESTORED, _UNKNOWN = "none", "stored", "restored", "unknown"
Live = dict[str, Any]


class KubernetesSecrets:
    """The Secrets of one cluster. A name is `NAMESPACE/SECRET`, with `key` and `restart` in its query.

    Args:
        api: the cluster; None for the one of the environment.
    """

    def __init__(self, api: ClusterApi | None = None) -> None:
        self._api = api or ClusterApi(cluster_of_environment())

    async def put(self, name: str, secret: SecretStr, *, version: str) -> None:
        """Make this the current secret, and restart the workloads that the name names; repeated, it changes nothing.

        Raises:
            TargetUnusable: the name is none.
            CloudRefused: the Secret is immutable, an entry is another manager's, a workload does not exist, or a right
                is missing. Nothing was changed unless the API server refused a later call.
            CloudUnavailable: call again.
        """
        path = parse_path(name)
        wanted = entries_of(path, secret)
        live = await self._api.get(path.url(path.name))
        workloads = await self._workloads(path)  # before anything is changed: a name may be misspelt
        if live is None:
            await self._apply(path, wanted, {VERSION: version, PREVIOUS: _NONE}, live=None)
        else:
            await self._replace(path, live, wanted, version)
        await self._restart(workloads, version)

    async def current(self, name: str) -> SecretStr | None:
        """Return the current secret, to the byte as it was put; None if there is none, or no text."""
        path = parse_path(name)
        live = await self._api.get(path.url(path.name))
        text = None if live is None else text_of(path, live)
        return None if text is None else SecretStr(text)

    async def restore(self, name: str) -> None:
        """Make the secret before current again and restart the workloads, or remove our entries if there was none.

        Nothing is restarted for a removal: pods would find no secret. Repeated, it completes what is missing.

        Raises:
            SecretNotStored: which secret was before is not known; nothing was changed.
            TargetUnusable, CloudRefused, CloudUnavailable: as `put`.
        """
        path = parse_path(name)
        live = await self._api.get(path.url(path.name))
        workloads = await self._workloads(path)
        if live is None or (VERSION not in _notes(live) and own_entries(live).is_empty):
            return
        now, previous = _notes(live).get(VERSION), _notes(live).get(PREVIOUS)
        if now is None or previous not in {_NONE, _RESTORED}:
            # Another value than before the rotation: pods that started in between have read the secret that goes.
            await self._restart(workloads, await self._restore_copy(path, live, now))
        elif previous == _RESTORED:
            await self._restart(workloads, now)
        else:
            expect_writable(path, live, own_entries(live))
            await self._apply(path, Entries({}, None), {}, live=live)

    async def finish_restore(self, name: str) -> None:
        """Restart the workloads that an earlier `restore` of this name has not reached."""
        path = parse_path(name)
        live = await self._api.get(path.url(path.name))
        if live is None or _notes(live).get(PREVIOUS) != _RESTORED:
            return
        version = _notes(live).get(VERSION)
        if version is not None:
            await self._restart(await self._workloads(path), version)

    async def entries_of_others(self, name: str) -> Mapping[str, Sequence[str]]:
        """Return the names of the Secret's entries that others manage, by manager; only that of `key`, if it has one.

        Raises as `current`.
        """
        path = parse_path(name)
        live = await self._api.get(path.url(path.name))
        found = {} if live is None else others_entries(live)
        wanted = {manager: [one for one in names if path.entry in {None, one}] for manager, names in found.items()}
        return {manager: names for manager, names in wanted.items() if names}

    async def expect_ours(self, name: str) -> None:
        """Check that the entry of `key` is no other manager's; without `key`, the secret's own fields decide later.

        Raises SecretManagedElsewhere, and as `current`.
        """
        if parse_path(name).entry is not None and (others := await self.entries_of_others(name)):
            raise managed_elsewhere(name.partition("?")[0], others)

    def restarts(self, name: str) -> bool:
        """Return whether the name names a workload to restart."""
        return bool(parse_path(name).workloads)

    async def unfinished_rollouts(self, name: str) -> Sequence[str] | None:
        """Return a line for each workload that may still run a pod that was started for an earlier secret.

        None if that cannot be said: the name restarts nothing, or the Secret is not Keyturn's. A paused Deployment,
        `OnDelete` and a partition of a StatefulSet complete only when a person acts, and their lines say so.

        Raises:
            CloudRefused: a right is missing.
            TargetUnusable, CloudUnavailable: as `put`.
        """
        path = parse_path(name)
        live = await self._api.get(path.url(path.name)) if path.workloads else None
        version = None if live is None else _notes(live).get(VERSION)
        if version is None:
            return None
        lines = []
        for workload in path.workloads:
            found = await self._api.get(workload.url)
            why = f"{workload} does not exist" if found is None else unfinished(workload, found, version)
            lines += [] if why is None else [f"{path.namespace}: {why}"]
        return lines

    async def _replace(self, path: SecretPath, live: Live, wanted: Entries, version: str) -> None:
        """Write the secret into a Secret that exists, unless it is there, having stored the one before."""
        held, notes = own_entries(live), _notes(live)
        if held == wanted and notes.get(VERSION) == version:
            return
        force, previous = expect_writable(path, live, wanted), notes.get(PREVIOUS, _UNKNOWN)
        # The same version with other entries is an earlier attempt's, or was changed by hand: no secret before.
        if held.data != wanted.data and notes.get(VERSION) != version:
            previous = _NONE if held.is_empty else _STORED
            if not held.is_empty:
                await self._store_copy(path, live, held, version)
        await self._apply(path, wanted, {VERSION: version, PREVIOUS: previous}, live=live, force=force)

    async def _store_copy(self, path: SecretPath, live: Live, held: Entries, version: str) -> None:
        """Write the secret that is about to be replaced into the second Secret."""
        copy = await self._copy(path)
        notes = {NEXT: version} | {name: value for name, value in _notes(live).items() if name == VERSION}
        # The built-in types demand entries that are not Keyturn's (tls.crt), or are acted on by controllers.
        kind = str(live.get("type", "Opaque"))
        extra = {"type": kind if "kubernetes.io/" not in kind else "Opaque"}
        labels = {COPY_LABEL: "previous", "app.kubernetes.io/managed-by": "keyturn"}
        await self._apply(path, held, notes, live=copy, is_copy=True, labels=labels, extra=extra)

    async def _restore_copy(self, path: SecretPath, live: Live, now: str | None) -> str:
        """Write the second Secret's entries back; returns the version that they have now."""
        copy = await self._copy(path)
        if now is None or copy is None or _notes(copy).get(NEXT) != now:
            raise SecretNotStored(f"{path}: {path.copy} does not hold the secret before this one")
        before = own_entries(copy)
        if before.is_empty:
            raise SecretNotStored(f"{path}: {path.copy} holds no secret")
        force, version = expect_writable(path, live, before), f"before-{now}"
        await self._apply(path, before, {VERSION: version, PREVIOUS: _RESTORED}, live=live, force=force)
        return version

    async def _copy(self, path: SecretPath) -> Live | None:
        copy = await self._api.get(path.url(path.copy))
        if copy is not None and COPY_LABEL not in (copy.get("metadata", {}).get("labels") or {}):
            raise CloudRefused(f"{path.namespace}/{path.copy} is not Keyturn's: delete it, or rename it")
        return copy

    async def _apply(
        self,
        path: SecretPath,
        entries: Entries,
        notes: dict[str, str],
        *,
        live: Live | None,
        force: bool = False,
        is_copy: bool = False,
        labels: dict[str, str] | None = None,
        extra: dict[str, str] | None = None,
    ) -> None:
        name = path.copy if is_copy else path.name
        if entries.form is not None:
            notes = notes | {FORM: entries.form}
        metadata: dict[str, Any] = {"name": name, "namespace": path.namespace}
        metadata |= {"annotations": notes} if notes else {}
        metadata |= {"labels": labels} if labels else {}
        if live is not None:
            metadata["resourceVersion"] = str(live.get("metadata", {}).get("resourceVersion", ""))
        intent: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata} | (extra or {})
        intent |= {} if entries.is_empty else {"data": dict(entries.data)}
        await self._api.apply(path.url(name), intent, force=force)

    async def _workloads(self, path: SecretPath) -> list[tuple[Workload, Live]]:
        found = []
        for workload in path.workloads:
            live = await self._api.get(workload.url)
            if live is None:
                raise CloudRefused(f"{path.namespace}: {workload} does not exist")
            found.append((workload, live))
        return found

    async def _restart(self, workloads: Sequence[tuple[Workload, Live]], version: str) -> None:
        for workload, live in workloads:
            if restarted_for(live) != version:
                await self._api.merge(workload.url, restart(version))


def _notes(live: Live) -> dict[str, str]:
    found = live.get("metadata", {}).get("annotations")
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}
