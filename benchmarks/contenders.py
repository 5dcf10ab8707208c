"""The ways to ask a model one typed question: ours, raw httpx, and what people use instead, where it is installed."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import BaseModel, SecretStr

from keyturn.calls import CallRecord
from keyturn.database import database_url, open_database
from keyturn.ledger.prices import RateCard
from keyturn.ledger.recorder import recorder
from keyturn.ledger.records import log_call
from keyturn.ledger.store import LedgerStore
from keyturn.llm.boundary import ModelBoundary
from keyturn.llm.endpoint import Endpoint
from keyturn.llm.guard import Guard
from keyturn.llm.http import HttpModelClient, http_client
from keyturn.llm.keys import FixedKey
from keyturn.llm.providers import load_providers, price_lists_of_providers
from keyturn.llm.providers.openai.wire import payload
from keyturn.policy.catalogue import load_catalogue
from keyturn.tasks.decide_rotation import TASK
from keyturn.workers.schema import migrate
from tests.support.cases import request

MODEL = "mock-1"
Ask = Callable[[], Awaitable[object]]
CATALOGUE = load_catalogue()
ASKED = request()
PROMPT = TASK.prompt(ASKED, CATALOGUE.resolve(ASKED.policy_lines))
MESSAGES: Any = [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}]


class Decision(BaseModel):
    """The answer's shape, as the others take it."""

    decision: Literal["eligible", "not_eligible", "not_specified"]
    rotation_window_days: int | None
    source_line_ids: list[str]


@asynccontextmanager
async def keyturn(base_url: str, folder: Path) -> AsyncIterator[Ask]:
    """The boundary as a worker has it: schema, grounding, log event and ledger; no response cache, no user's limit."""
    async with AsyncExitStack() as parts:
        http = await parts.enter_async_context(http_client(64))
        url = database_url(f"sqlite:///{folder}/keyturn.db")
        await asyncio.to_thread(migrate, url)  # not in the loop: a transaction of another delay may wait for it
        engine = open_database(url)
        parts.push_async_callback(engine.dispose)
        ledger = await parts.enter_async_context(recorder(LedgerStore(engine)))

        def record(call: CallRecord) -> None:
            log_call(call)
            ledger.record(call)

        provider = HttpModelClient(
            http, Endpoint("openai", load_providers()["openai"], base_url, FixedKey(SecretStr("k"))), MODEL
        )
        boundary = ModelBoundary(
            {"*": [provider]}, CATALOGUE, guard=Guard(RateCard({}, lists=price_lists_of_providers())), record=record
        )

        async def ask() -> object:
            judged = await boundary.answer(ASKED)
            assert judged.verdict.decision == "eligible"
            return judged

        yield ask


@asynccontextmanager
async def raw(base_url: str, _folder: Path) -> AsyncIterator[Ask]:
    """Httpx on the same transport, the same body, json.loads, and nothing else: what a script does."""
    from httpx_aiohttp import AiohttpTransport

    transport = AiohttpTransport(limits=httpx.Limits(max_connections=64, max_keepalive_connections=64))
    async with httpx.AsyncClient(transport=transport) as http:
        body = payload(MODEL, PROMPT)

        async def ask() -> object:
            response = await http.post(f"{base_url}/chat/completions", json=body, headers={"authorization": "Bearer k"})
            response.raise_for_status()
            answer = json.loads(response.json()["choices"][0]["message"]["content"])
            assert answer["decision"] == "eligible"
            return answer

        yield ask


@asynccontextmanager
async def openai(base_url: str, _folder: Path) -> AsyncIterator[Ask]:
    """The vendor's SDK, its own retries off, with its parse."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0) as client:

        async def ask() -> object:
            completion = await client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Decision)
            parsed = completion.choices[0].message.parsed
            assert parsed is not None
            assert parsed.decision == "eligible"
            return parsed

        yield ask


@asynccontextmanager
async def litellm(base_url: str, _folder: Path) -> AsyncIterator[Ask]:
    """LiteLLM's client, retries off, and the answer read into the model."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network at import
    import litellm as library

    async def ask() -> object:
        completion: Any = await library.acompletion(
            model=f"openai/{MODEL}", api_base=base_url, api_key="k", messages=MESSAGES, response_format=Decision,
            max_retries=0,
        )  # fmt: skip
        parsed = Decision.model_validate_json(completion.choices[0].message.content)
        assert parsed.decision == "eligible"
        return parsed

    yield ask


@asynccontextmanager
async def pydantic_ai(base_url: str, _folder: Path) -> AsyncIterator[Ask]:
    """pydantic-ai's agent with native structured output."""
    from openai import AsyncOpenAI
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async with AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, output_type=NativeOutput(Decision), system_prompt=PROMPT.system)

        async def ask() -> object:
            result = await agent.run(PROMPT.user)
            assert result.output.decision == "eligible"
            return result.output

        yield ask


OTHERS = {"openai": openai, "litellm": litellm, "pydantic_ai": pydantic_ai}
# What a program imports to ask so; a whole process each.
IMPORTS = {
    "keyturn": "import keyturn.llm.boundary, keyturn.llm.providers.openai, keyturn.llm.http, httpx_aiohttp",
    "raw": "import httpx, httpx_aiohttp",
    "openai": "from openai import AsyncOpenAI",
    "litellm": "import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'; import litellm",
    "pydantic_ai": "from pydantic_ai import Agent; from pydantic_ai.models.openai import OpenAIChatModel",
}
