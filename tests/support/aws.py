"""AWS for the tests: moto's server, which checks signatures, behind a network that loses chosen calls."""

import asyncio
import functools
import json
import os
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import parse_qsl

import aiohttp
import boto3
from aiohttp import web
from botocore.config import Config
from moto.iam.models import iam_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.server import ThreadedMotoServer
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from keyturn.jobs.store import JobStore
from keyturn.jobs.tables import rotation_jobs
from tests.support.key_rotations import create_job
from tests.support.servers import fake_server

ACCOUNT = "123456789012"
REGION = "eu-central-1"
Loss = Literal["answer_lost", "request_lost"]
_create_everything = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
)


@dataclass(frozen=True)
class Aws:
    """One AWS account. `address` is moto itself, which loses nothing."""

    address: str
    key_id: str
    secret: str

    @functools.cache  # noqa: B019 - one account a process; making a client of IAM costs as much as twenty calls
    def client(self, service: str) -> Any:
        """A client of ours, for what a test prepares and looks at."""
        return boto3.client(service, **self.settings(), config=Config(retries={"mode": "standard"}))

    def settings(self, address: str | None = None) -> dict[str, Any]:
        """The arguments of boto3's clients, as the environment gives them to a real executor."""
        return {
            "endpoint_url": address or self.address,
            "region_name": REGION,
            "aws_access_key_id": self.key_id,
            "aws_secret_access_key": self.secret,
        }

    def environment(self, address: str | None = None) -> dict[str, str]:
        """The same as AWS's own variables."""
        return {
            "AWS_ENDPOINT_URL": address or self.address,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def user(self) -> tuple[str, str]:
        """A new user with one key, as old as those that are rotated; returns its name and the key's id."""
        name = f"svc-{uuid.uuid4().hex[:10]}"
        iam = self.client("iam")
        iam.create_user(UserName=name)
        key_id = str(iam.create_access_key(UserName=name)["AccessKey"]["AccessKeyId"])
        for key in iam_backends[ACCOUNT]["aws"].list_access_keys(name):
            key.create_date -= timedelta(days=400)
        return name, key_id

    def keys(self, user: str) -> dict[str, str]:
        """The user's keys and their states, read beside every proxy."""
        backend = iam_backends[ACCOUNT]["aws"]
        return {key.access_key_id: key.status for key in backend.list_access_keys(user)}

    def stored(self, name: str) -> str | None:
        """The key id whose secret is the stored one; None if there is none."""
        secret = secretsmanager_backends[ACCOUNT][REGION].secrets.get(name)
        if secret is None:
            return None
        now = next(kept for kept in secret.versions.values() if "AWSCURRENT" in kept["version_stages"])
        return str(json.loads(now["secret_string"])["AccessKeyId"])

    def secret_of(self, user: str, key_id: str) -> str:
        return next(
            key.secret_access_key
            for key in iam_backends[ACCOUNT]["aws"].list_access_keys(user)
            if key.access_key_id == key_id
        )


@contextmanager
def aws_account() -> Iterator[Aws]:
    """A server of moto's in this process, with an administrator, checking signatures from then on."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        made = Aws(f"http://{host}:{port}", "AKIAIOSFODNN7EXAMPLE", "none yet")
        iam = made.client("iam")
        iam.create_user(UserName="executor")
        iam.put_user_policy(UserName="executor", PolicyName="all", PolicyDocument=_create_everything)
        key = iam.create_access_key(UserName="executor")["AccessKey"]
        strict = urllib.request.Request(
            f"{made.address}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(strict).close()
        yield Aws(made.address, key["AccessKeyId"], key["SecretAccessKey"])
    finally:
        server.stop()


@dataclass
class Network:
    """What lies between an executor and AWS: counts calls, and loses the chosen one."""

    aws: Aws
    calls: list[str] = field(default_factory=list)
    lose: int | None = None  # counted from 1
    how: Loss = "answer_lost"
    after_each: Callable[[], None] = lambda: None
    # Of operations that moto has not, or not so: what makes their answers, None for a refusal.
    answers: dict[str, Callable[[], Any]] = field(default_factory=lambda: {"LookupEvents": lambda: {"Events": []}})
    # What was last asked of each operation.
    forms: dict[str, Any] = field(default_factory=dict)
    # The next call of this operation is not answered until `thaw`; `reached` is set when it is there.
    freeze: str | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    thaw: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        application = web.Application(client_max_size=2**20)
        async with aiohttp.ClientSession(auto_decompress=False) as self._http:
            application.router.add_route("*", "/{path:.*}", self._pass)
            async with fake_server(application) as address:
                self.address = address
                yield address

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.calls.append(_operation(request, body))
        self.forms[self.calls[-1]] = _form_of(request, body)
        if self.calls[-1] in self.answers:
            made = self.answers[self.calls[-1]]()
            refused = {"__type": "AccessDeniedException"}
            return web.json_response(refused if made is None else made, status=400 if made is None else 200)
        frozen = self.calls[-1] == self.freeze
        if frozen:
            self.freeze = None
        lost = frozen or len(self.calls) == self.lose
        assert request.transport is not None
        if lost and self.how == "request_lost":
            await self._held(frozen)
            request.transport.abort()
        # The signature covers the host that the caller named, and moto takes it as it is sent.
        headers = [(name, value) for name, value in request.headers.items() if name.lower() != "content-length"]
        answer = web.Response()
        if not (lost and self.how == "request_lost"):
            url = URL(self.aws.address + request.rel_url.raw_path, encoded=True)
            asked = self._http.request(
                request.method, url, data=body, headers=headers, skip_auto_headers=("Accept", "Accept-Encoding")
            )
            async with asked as answered:
                kept = {name: answered.headers[name] for name in ("content-type",) if name in answered.headers}
                answer = web.Response(status=answered.status, body=await answered.read(), headers=kept)
            self.after_each()
        if lost and self.how == "answer_lost":
            await self._held(frozen)
            request.transport.abort()
        return answer

    async def _held(self, frozen: bool) -> None:
        if frozen:
            self.reached.set()
            await self.thaw.wait()


def _operation(request: web.Request, body: bytes) -> str:
    target = request.headers.get("X-Amz-Target", "")
    if target:
        return target.rpartition(".")[2]
    return next(part.removeprefix("Action=") for part in body.decode().split("&") if part.startswith("Action="))


def _form_of(request: web.Request, body: bytes) -> Any:
    if request.headers.get("X-Amz-Target"):
        return json.loads(body or b"{}")
    return dict(parse_qsl(body.decode()))


async def job_for(
    store: JobStore, engine: AsyncEngine, user: str, key_id: str, *, due_in: timedelta = timedelta(days=20)
) -> str:
    """A job that orders the rotation of an access key."""
    job_id = await create_job(store, user, key_id, kind="access_key")
    async with engine.begin() as connection:
        due = datetime.now(UTC) + due_in
        changed = update(rotation_jobs).where(rotation_jobs.c.job_id == job_id).values(rotate_by=due)
        await connection.execute(changed)
    return job_id
