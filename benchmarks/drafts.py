"""Drafts: how late their text is seen, on the page and by Temporal's own streams, and what they cost in history."""

import contextlib
import json
import statistics
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy.engine import URL
from temporalio.client import Client
from temporalio.contrib.workflow_streams import WorkflowStreamClient
from temporalio.worker import Worker

from benchmarks.results import Result
from benchmarks.streamed import StreamedDraft, publish_pieces
from benchmarks.typing_pace import pieces
from keyturn.activities.draft_reply import DraftReply
from keyturn.application.drafts import new_draft_id, start_draft
from keyturn.database import open_database
from keyturn.desk.desk import Desk
from keyturn.drafts.store import DraftStore
from keyturn.drafts.writing import DraftWriting
from keyturn.lab.stack.embedded import simulator_process
from keyturn.lab.stack.temporal import dev_server
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Timeouts
from keyturn.llm.http import http_client
from keyturn.llm.wire import Completion, OnText, Usage
from keyturn.policy.catalogue import load_catalogue
from keyturn.tasks.definition import Prompt
from keyturn.tasks.draft_reply import TASK, DraftRequest
from keyturn.workflows.draft import DraftWorkflow
from tests.support.boundaries import guarded, on_simulator
from tests.support.cases import P7
from tests.support.desks import Place, asking, key
from tests.support.keys import KEYRING
from tests.support.simulated import SimulatorControl

PROMISED_MS = 150  # from the provider's first text to the page's
QUESTION = {"account_id": "acct_1", "question": "May it?", "policy_lines": ["P-7"]}


async def measure(postgresql: URL, *, drafts: int) -> list[Result]:
    """Return the lag of a first text on the page, and both ways of telling a text side by side."""
    async with dev_server(keyring=KEYRING) as client, simulator_process() as address:
        async with httpx.AsyncClient(base_url=address, trust_env=False) as http:
            first = await _first_texts(client, postgresql, SimulatorControl(http, address), drafts)
        return first + await _side_by_side(client, postgresql, max(3, drafts // 5))


async def _first_texts(client: Client, url: URL, simulator: SimulatorControl, drafts: int) -> list[Result]:
    place = Place(client, url, simulator, load_catalogue())
    page, direct = [], []
    async with place.open() as desk, asking("luna", desk) as luna, http_client(4) as http:
        for number in range(drafts + 3):
            path = (await luna.post("/api/v1/drafts", json=QUESTION, headers=key())).headers["location"]
            seen = await _first_event(luna, f"{path}/events")
            if number >= 3:  # warm
                page.append((seen - await _sent_at(simulator)) * 1000)
            request = DraftRequest(account_id="acct_1", question="May it?", policy_lines=(P7,), trace_id="t")
            prompt = TASK.prompt(request, load_catalogue().resolve(request.policy_lines))
            moments: list[float] = []

            def shown(_text: str, moments: list[float] = moments) -> None:
                moments.append(time.time())

            timeouts = Timeouts(connect=5, first_byte=5, total=9)
            await on_simulator(http, simulator).complete(prompt, timeouts=timeouts, trace_id="t", on_text=shown)
            if number >= 3:
                direct.append((moments[0] - await _sent_at(simulator)) * 1000)
    await place.engine.dispose()
    late = _at(page, 0.95)
    directly = f"reading the simulator directly p50 {_at(direct, 0.5):.1f}, p95 {_at(direct, 0.95):.1f}"
    detail = f"ms, p50 {_at(page, 0.5):.0f}; {directly}"
    name = f"first text of a draft on the page, p95 of {PROMISED_MS} ms"
    return [Result(name, round(late / PROMISED_MS, 3), "<= 1", late <= PROMISED_MS, f"p95 {late:.0f} {detail}")]


async def _first_event(http: httpx.AsyncClient, path: str) -> float:
    async with http.stream("GET", path) as response:
        async for line in response.aiter_lines():
            if line == "event: text":
                return time.time()
    raise AssertionError("the draft had no text")


async def _sent_at(simulator: SimulatorControl) -> float:
    moment: float = (await simulator.requests())[-1]["first_text_at"]
    return moment


class _Typist:
    """A provider that writes at the same pace as the other way's activity."""

    name = "scripted"
    model = "m-1"
    passes_quota_on = False

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        text = ""
        async for piece in pieces():
            text += piece
            if on_text is not None:
                on_text(text)
        return Completion(text, "complete", "stop", "m-1", Usage(1, 1))


async def _side_by_side(client: Client, url: URL, drafts: int) -> list[Result]:
    engine, queue = open_database(url), f"bench-{uuid.uuid4().hex}"
    catalogue = load_catalogue()
    boundary = ModelBoundary({"*": [_Typist()]}, catalogue, guard=guarded(), record=lambda _call: None)
    ours = DraftReply(DraftWriting(DraftStore(engine, KEYRING), boundary))
    desk = Desk(client, engine, KEYRING, catalogue, tenant="default", task_queue=queue)
    rows: list[list[float]] = [[], []]
    events = [0, 0]
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[DraftWorkflow, StreamedDraft],
        activities=[*ours.activities, publish_pieces],
    )
    async with worker:
        for _ in range(drafts):
            row, events[0] = await _by_row(client, desk, queue)
            stream, events[1] = await _by_stream(client, queue)
            rows[0] += row
            rows[1] += stream
    await engine.dispose()
    lags = [_at(row, 0.5) for row in rows]
    shown = f"p50 {lags[0]:.0f} against {lags[1]:.0f} ms, p95 {_at(rows[0], 0.95):.0f} against {_at(rows[1], 0.95):.0f}"
    return [
        Result(
            "lag of a draft's text, by its row against a workflow stream", round(lags[0] / lags[1], 3), "-", True, shown
        ),
        Result(
            "history events of a draft, by its row against a workflow stream",
            round(events[0] / events[1], 3),
            "-",
            True,
            f"{events[0]} against {events[1]}, for 40 pieces in 1.2 s and one reader",
        ),
    ]


async def _by_row(client: Client, desk: Desk, queue: str) -> tuple[list[float], int]:
    request = DraftRequest(account_id="acct_1", question="May it?", policy_lines=(P7,), trace_id="t")
    handle = await start_draft(client, new_draft_id("default"), request, task_queue=queue)
    lags: list[float] = []
    async for seen in desk.follow(handle.id):
        lags += _lags(seen.more)
    with contextlib.suppress(Exception):
        await handle.result()
    return lags, (await handle.describe()).history_length


async def _by_stream(client: Client, queue: str) -> tuple[list[float], int]:
    handle = await client.start_workflow(StreamedDraft.run, id=f"stream:{uuid.uuid4().hex}", task_queue=queue)
    lags: list[float] = []
    stream: Any = WorkflowStreamClient.create(client, handle.id)
    async for item in stream.subscribe("text", result_type=str, poll_cooldown=timedelta(milliseconds=30)):
        lags += _lags(item.data)
    await handle.result()
    return lags, (await handle.describe()).history_length


def _lags(text: str) -> list[float]:
    """How late each whole piece of `text` is seen, in milliseconds."""
    now = time.time()
    whole = [piece for piece in text.split(" ") if piece.count("@") == 1]
    return [(now - float(piece.split("@")[1])) * 1000 for piece in whole if len(piece.split("@")[1]) == 15]


def _at(series: Sequence[float], share: float) -> float:
    if len(series) < 2:
        raise AssertionError(f"nothing was measured: {json.dumps(series)}")
    return statistics.quantiles(series, n=100, method="inclusive")[round(share * 100) - 1]
