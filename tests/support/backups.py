"""What holds for a database that was restored from a backup, whichever it is."""

from sqlalchemy.engine import URL

from keyturn.database import open_database
from keyturn.jobs.outbox import Outbox
from keyturn.jobs.store import JobStore
from keyturn.workers.schema import check_schema
from tests.support.cases import facts, order

BEFORE, AFTER = "rotate:default:acct_10234:before:P-7@1", "rotate:default:acct_10234:after:P-7@1"


async def create_job(url: URL, key: str) -> tuple[str, bool]:
    """Create the job of an idempotency key, or find it; returns its ID, and whether it is new."""
    engine = open_database(url)
    try:
        ordered = order(credential=facts(key_id=key.split(":")[3]))
        job = await JobStore(engine).create_once(ordered, idempotency_key=key, fence=1)
        return job.job_id, job.created
    finally:
        await engine.dispose()


async def expect_as_it_was(restored: URL, job_id: str) -> None:
    """The job of the backup is there with its message, and is not created twice; what came later can be created."""
    check_schema(restored)
    assert await create_job(restored, BEFORE) == (job_id, False)
    engine = open_database(restored)
    try:
        assert (await Outbox(engine).message(job_id)).delivered_at is None
    finally:
        await engine.dispose()
    assert (await create_job(restored, AFTER))[1]
