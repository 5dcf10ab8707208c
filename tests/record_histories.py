"""Record one history of each outcome into tests/histories: `make histories`.

Do this when a new outcome is added. A history that no longer replays is not to be recorded anew: it stands for
workflows that run in production, and the change that broke it needs `workflow.patched()`.
"""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keyturn.database import database_url, open_database
from keyturn.errors import ProviderTimeout, ProviderUnavailable, QuotaExhausted
from keyturn.jobs.store import JobStore
from stack.temporal import dev_server
from starter.rotations import outcome_of, start_or_attach
from tests.cases import facts, request
from tests.workers_for_tests import ELIGIBLE, Script, worker_on
from workers.schema import migrate

FOLDER = Path(__file__).parent / "histories"
NO = '{"decision":"%s","rotation_window_days":null,"source_line_ids":[]}'
# Named for the outcome, with what was said to bring it about.
SAID: Mapping[str, tuple[str | BaseException, ...]] = {
    "job_created": (ELIGIBLE,),
    "job_created_after_a_retry": (ProviderUnavailable("x"), ELIGIBLE),
    "not_eligible": (NO % "not_eligible",),
    "not_specified": (NO % "not_specified",),
    "rejected": (ELIGIBLE.replace("30", "90"),),
    "timeout": (ProviderTimeout("x"),),
    "failed": (QuotaExhausted("x"),),
}


async def record(folder: Path) -> None:
    """Run each case on a dev server and write its history."""
    with tempfile.TemporaryDirectory() as scratch:
        url = database_url(f"sqlite:///{scratch}/keyturn.db")
        await asyncio.to_thread(migrate, url)
        engine = open_database(url)
        async with dev_server() as client:
            for name, said in SAID.items():
                async with worker_on(client, "histories", Script(*said), JobStore(engine)):
                    asked = request(credential=facts(key_id=f"key_{name}"), max_retries=1)
                    rotation = await start_or_attach(client, asked, task_queue="histories")
                    outcome = await outcome_of(rotation.handle)
                    if not name.startswith(outcome.status):
                        raise SystemExit(f"{name} ended as {outcome.status}")
                    history = await rotation.handle.fetch_history()
                (folder / f"{name}.json").write_text(history.to_json())
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(record(FOLDER))
