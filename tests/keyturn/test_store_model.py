"""The job store against a small model of it: whatever is done in whatever order, both say the same."""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyturn.database import database_url, open_database
from keyturn.jobs.errors import (
    IdempotencyConflict,
    JobClosed,
    JobHeld,
    OpenJobExists,
    StaleAttempt,
    StaleClaim,
    UnknownJob,
)
from keyturn.jobs.leases import JobLeases
from keyturn.jobs.store import JobStore
from keyturn.rotations.contracts import JobOrder
from keyturn.workers.schema import migrate
from tests.support.cases import facts, order

# Few keys and few credentials, so that they meet: a rotation under another line is another key for the same credential.
KEYS = st.sampled_from(["w1", "w2", "w3"])
CREDENTIALS = st.sampled_from(["key_1", "key_2"])
FENCES = st.integers(1, 6)
WHO = st.sampled_from(["luna", "omar"])
ORDERS: dict[str, JobOrder] = {name: order(credential=facts(key_id=name)) for name in ("key_1", "key_2")}


def asked(credential: str, started: int | None) -> JobOrder:
    """An order; of a run that asks again, with the moment in microseconds at which that started."""
    moment = None if started is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=started)
    return ORDERS[credential].model_copy(update={"replaces_before": moment})


class Store(RuleBasedStateMachine):
    """`claims` is the model: by idempotency key, what stands there."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory()
        url = database_url(f"sqlite:///{Path(self._folder.name) / 'k.db'}")
        migrate(url)
        self._engine = open_database(url)
        self.store, self.leases = JobStore(self._engine), JobLeases(self._engine)
        self.claims: dict[str, dict[str, Any]] = {}
        self.replaced: set[str] = set()

    def teardown(self) -> None:
        self._loop.run(self._engine.dispose())
        self._loop.close()
        self._folder.cleanup()

    def _does(self, work: Any) -> Any:
        try:
            return self._loop.run(work)
        except (
            IdempotencyConflict, JobClosed, JobHeld, OpenJobExists, StaleAttempt, StaleClaim, UnknownJob,
        ) as error:  # fmt: skip
            return type(error)

    def _gives_way(self, key: str, credential: str, started: int | None) -> None:
        """A run that started at a moment and asks again takes the key from a job that failed before that."""
        claim = self.claims.get(key)
        if claim is None or started is None or claim["credential"] != credential or claim["state"] != "failed":
            return
        if claim["fence"] < started:
            self.replaced.add(claim["job"])
            self.claims[key] = {"state": "withdrawn", "credential": credential, "fence": started}

    def _open_elsewhere(self, key: str, credential: str) -> bool:
        others = (claim for name, claim in self.claims.items() if name != key)
        return any(claim["state"] in {"open", "held"} and claim["credential"] == credential for claim in others)

    @rule(key=KEYS, credential=CREDENTIALS, fence=FENCES, again=st.booleans())
    def create(self, key: str, credential: str, fence: int, again: bool) -> None:
        """The first makes it, the same again finds it, another order conflicts, a stale attempt changes nothing."""
        started = fence - 1 if again else None
        got = self._does(self.store.create_once(asked(credential, started), idempotency_key=key, fence=fence))
        self._gives_way(key, credential, started)
        claim = self.claims.get(key)
        if claim is not None and claim["credential"] != credential:
            assert got is IdempotencyConflict
        elif claim is not None and claim["state"] != "withdrawn":
            assert (got.job_id, got.created) == (claim["job"], False)
        elif self._open_elsewhere(key, credential):
            assert got is OpenJobExists
        elif claim is not None and fence <= claim["fence"]:
            assert got is StaleAttempt
        else:
            assert got.created
            new = {"state": "open", "credential": credential, "job": got.job_id, "token": 0, "by": None}
            self.claims[key] = new | {"fence": fence}

    @rule(key=KEYS, credential=CREDENTIALS, fence=FENCES, again=st.booleans())
    def withdraw(self, key: str, credential: str, fence: int, again: bool) -> None:
        """A job that was made stands; otherwise no attempt up to the fence can make one."""
        started = fence - 1 if again else None
        got = self._does(self.store.withdraw(asked(credential, started), idempotency_key=key, fence=fence))
        self._gives_way(key, credential, started)
        claim = self.claims.get(key)
        if claim is None:
            assert got is None
            self.claims[key] = {"state": "withdrawn", "credential": credential, "fence": fence}
        elif claim["state"] == "withdrawn":
            assert got is None
            claim["fence"] = max(claim["fence"], fence)
        else:
            mine = claim["credential"] == credential
            assert (got.job_id if got is not None else None) == (claim["job"] if mine else None)

    @rule(key=KEYS, who=WHO)
    def claim(self, key: str, who: str) -> None:
        """One holds it; its holder may claim it again, and the token grows."""
        claim = self.claims.get(key, {"state": "withdrawn"})
        job = claim.get("job", "job_none")
        got = self._does(self.leases.claim(job, tenant_id="default", owner=who, lease=timedelta(hours=1)))
        if claim["state"] == "withdrawn":
            assert got is UnknownJob
        elif claim["state"] in {"done", "failed"}:
            assert got is JobClosed
        elif claim["by"] not in {None, who}:
            assert got is JobHeld
        else:
            assert got.token == claim["token"] + 1
            claim |= {"state": "held", "by": who, "token": got.token}

    @rule(key=KEYS, late=st.booleans(), end=st.sampled_from(["done", "failed"]))
    def close(self, key: str, late: bool, end: str) -> None:
        """By its holder's last token and no earlier one; said twice, it is done once."""
        claim = self.claims.get(key, {"state": "withdrawn"})
        if claim["state"] in {"withdrawn", "open"}:
            return
        whose: dict[str, Any] = {"tenant_id": "default", "token": claim["token"] - int(late)}
        if end == "done":
            got = self._does(self.leases.complete(claim["job"], **whose))
        else:
            got = self._does(self.leases.fail(claim["job"], reason="key_limit", **whose))
        if late or claim["state"] not in {"held", end}:
            assert got in {StaleClaim, JobClosed}
        else:
            assert got.state == end
            claim["state"] = end

    @invariant()
    def the_jobs_are_those_of_the_model(self) -> None:
        """One each, none beside them, and at most one open for a credential."""
        rows = self._loop.run(self.store.jobs(tenant_id="default", limit=100))
        made = {claim["job"] for claim in self.claims.values() if claim["state"] != "withdrawn"}
        assert {row["job_id"] for row in rows} == made | self.replaced
        open_ones = [row["key_id"] for row in rows if row["status"] not in {"done", "failed", "cancelled"}]
        assert len(set(open_ones)) == len(open_ones)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, database=None)
