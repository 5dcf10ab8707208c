"""Reporting an exposed key: it is marked, and its rotation begins before all others."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from pydantic import ValidationError
from temporalio.client import Client

from keyturn.application.encryption import names_of
from keyturn.application.requests import build_request, id_of
from keyturn.application.rotations import Rotation, start_or_attach
from keyturn.contracts import MAX_POLICY_LINES, CredentialKind
from keyturn.errors import InvalidRequest
from keyturn.exposures.contracts import Exposure, KnownKey, ReportedKey
from keyturn.exposures.errors import NoExposureLine, UnknownKey
from keyturn.faults import faults_of
from keyturn.policy.catalogue import Catalogue
from keyturn.policy.line import PolicyLine, WhenCompromised
from keyturn.rotations.contracts import RotationRequest

QUESTION = "A report says that this key was exposed. Must it be rotated?"


class Exposures(Protocol):
    """Where exposed keys are written, and where a key is known from."""

    async def add(self, exposure: Exposure) -> bool:
        """Write that a key was exposed; returns False if that was known. Raises a KeyturnError."""
        ...

    async def listed(self, *, tenant_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the keys that were reported last, newest first. Raises a KeyturnError."""
        ...

    async def find_key(self, key_id: str, *, tenant_id: str) -> Sequence[KnownKey]:
        """Return the keys of that ID. Raises a KeyturnError."""
        ...


class ExposedKeys:
    """Reports of exposed keys of one tenant.

    Args:
        client: a connected client.
        catalogue: the policy lines.
        exposures: where they are written.
        tenant: whose keys.
        task_queue: where workers poll.
        decide_by: `rule` asks no model, so that no outage of a provider delays the rotation.
    """

    def __init__(
        self,
        client: Client,
        catalogue: Catalogue,
        exposures: Exposures,
        *,
        tenant: str,
        task_queue: str,
        decide_by: Literal["rule_and_model", "rule"] = "rule_and_model",
    ) -> None:
        self.client, self.catalogue = client, catalogue
        self.exposures, self.tenant = exposures, tenant
        self._task_queue, self._decide_by = task_queue, decide_by

    async def keys_of(self, key_id: str, account_id: str | None, kind: CredentialKind | None) -> Sequence[KnownKey]:
        """Return the keys that a report is about; raises UnknownKey where no one knows whose it is."""
        known = await self.exposures.find_key(key_id, tenant_id=self.tenant)
        if account_id is not None:
            of_account = [one for one in known if one.account_id == account_id]
            return of_account or [KnownKey(account_id, key_id, kind or kind_of(key_id))]
        if not known:
            raise UnknownKey("no inventory and no job of this tenant names the key")
        return known

    async def report(
        self,
        key: KnownKey,
        *,
        source: str,
        reported_by: str,
        place: str | None = None,
        replaces_jobs: bool = True,
    ) -> tuple[ReportedKey, Rotation]:
        """Mark a key as exposed, and begin its rotation; returns what became of it, and the rotation.

        Said again, it is done once: the same rotation is found, and its one job.

        Args:
            key: the key.
            source: what found it.
            reported_by: who reports it.
            place: where it was found, if that is known.
            replaces_jobs: whether a job that failed or was cancelled since the first report is replaced. That of an
                earlier time always is.

        Raises:
            NoExposureLine: no policy line covers it; the mark stays, and a later run counts it.
            InvalidRequest: a name cannot be used; nothing was marked.
            JobStoreUnavailable, TemporalUnreachable: say it again.
        """
        lines = lines_of(self.catalogue, key.kind)
        exposure = self._exposure(key.account_id, key.key_id, source, reported_by, place)
        request = self._request(key, lines, exposure) if lines else None
        is_new = await self.exposures.add(exposure)
        if request is None:
            raise NoExposureLine(f"no policy line covers an exposed {key.kind.replace('_', ' ')}")
        again = is_new or replaces_jobs
        rotation = await start_or_attach(
            self.client, request, task_queue=self._task_queue, owner=key.owner, again=again
        )
        reported = ReportedKey(
            account_id=key.account_id,
            key_id=key.key_id,
            workflow_id=id_of(request, names_of(self.client)),
            policy_lines=tuple(str(line.ref) for line in lines),
            is_new=is_new,
        )
        return reported, rotation

    async def note_unknown(self, key_id: str, *, source: str, reported_by: str, place: str | None = None) -> bool:
        """Mark a key that no inventory and no job knows; returns False if that was done.

        The next run whose inventory lists it counts it as compromised; until then, people are notified of it.

        Raises:
            InvalidRequest: a name cannot be used; nothing was marked.
            JobStoreUnavailable: say it again.
        """
        return await self.exposures.add(self._exposure(None, key_id, source, reported_by, place))

    def _exposure(
        self, account_id: str | None, key_id: str, source: str, reported_by: str, place: str | None
    ) -> Exposure:
        try:
            return Exposure(
                tenant_id=self.tenant,
                account_id=account_id,
                key_id=key_id,
                source=source,
                reported_by=reported_by,
                reported_at=datetime.now(UTC),
                place=place,
            )
        except ValidationError as error:  # such as the secret itself in the place of its ID
            raise InvalidRequest(faults=faults_of(error)) from None

    def _request(self, key: KnownKey, lines: Sequence[PolicyLine], exposure: Exposure) -> RotationRequest:
        facts = {"key_id": key.key_id, "kind": key.kind, "compromised": True}
        return build_request(
            self.catalogue,
            policy=[line.id for line in lines],
            facts=facts | {"observed_at": exposure.reported_at, "source": exposure.source},
            fields={
                "tenant_id": self.tenant,
                "user_id": exposure.reported_by,
                "account_id": key.account_id,
                "question": QUESTION,
                "trace_id": f"exposed_{uuid.uuid4().hex}",
                "decide_by": self._decide_by,
                "owner": key.owner,
            },
        )


def kind_of(key_id: str) -> CredentialKind:
    """Return the kind that an ID itself shows: AWS's access keys of users begin with AKIA (IAM User Guide)."""
    return "access_key" if key_id.startswith("AKIA") and len(key_id) == 20 else "service_account_key"


def lines_of(catalogue: Catalogue, kind: CredentialKind) -> Sequence[PolicyLine]:
    """Return the lines that say that an exposed key of a kind must be rotated, as many as one question may have."""
    covers: Callable[[PolicyLine], bool] = lambda line: (  # noqa: E731 - one condition
        isinstance(line.rule, WhenCompromised) and kind in line.applies_to
    )
    return [line for line in catalogue if covers(line)][:MAX_POLICY_LINES]
