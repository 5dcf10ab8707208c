"""Secret targets: each against a server of its vendor's published API, over a network that loses answers.

SSM is moto's; Vault, GitHub and GitLab are simulators of the lab. No real cloud was called.
"""

import json
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from aiohttp import web
from pydantic import SecretStr

from keyturn.execution.errors import CloudRefused, CloudUnavailable, SecretNotStored, TargetUnusable
from keyturn.execution.protocols import SecretStore
from keyturn.execution.rest import Answer, wait_of
from keyturn.execution.targets import OpenTarget, SecretTargets
from keyturn.lab.simulator.github import GitHubSimulator, Secret
from keyturn.lab.simulator.gitlab import GitLabSimulator, Variable
from keyturn.lab.simulator.rest_faults import RestFaults
from keyturn.lab.simulator.vault import VaultSimulator
from keyturn.targets import load_targets
from keyturn.targets.github.store import ActionsSecrets, GitHubSettings
from keyturn.targets.gitlab.store import GitLabSettings, ProjectVariables
from keyturn.targets.ssm.store import ParameterStore
from keyturn.targets.vault.store import VaultSecrets, VaultSettings, _is_passing
from tests.support.aws import Aws, Network
from tests.support.servers import fake_server

TOKEN = "token-of-the-executor-9f2c"
POLICY = {
    "secret/data/pay/*": {"create", "update", "read"},
    "secret/delete/pay/*": {"update"},
}
REPOSITORY = "/repos/acme/pay"
PROJECT = "acme/pay"


def pair(number: int) -> SecretStr:
    """A secret as the AWS executor writes it; what must never be seen is in each."""
    return SecretStr(json.dumps({"AccessKeyId": f"AKIA{number:016}", "SecretAccessKey": f"never-seen/{number:08}+x"}))


OLD, NEW = pair(1), pair(2)


@dataclass
class Bench:
    """A target, where its secret is, and what a test does to its server.

    `lose` lets the call of that number fail in a way; `calls` are those since then; `stored` is what a consumer reads;
    `writes` counts what was changed; `denied` is a store whose credential has no right.
    """

    store: SecretStore
    name: str
    lose: Callable[[int, str], None]
    calls: Callable[[], int]
    stored: Callable[[], str | None]
    writes: Callable[[], int]
    denied: Callable[[], SecretStore]
    reads_back: bool = True


@pytest.fixture
async def open_later() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def vault(open_later: AsyncExitStack) -> tuple[VaultSimulator, str]:
    simulator = VaultSimulator(tokens={TOKEN: POLICY, "reader": {"secret/data/pay/*": {"read"}}})
    return simulator, await open_later.enter_async_context(fake_server(simulator.application()))


@pytest.fixture
async def github(open_later: AsyncExitStack) -> tuple[GitHubSimulator, str]:
    places = {REPOSITORY, f"{REPOSITORY}/environments/eu/prod", "/orgs/acme"}
    simulator = GitHubSimulator(tokens={TOKEN: ("/repos/acme", "/orgs/acme"), "other": ()}, places=places)
    return simulator, await open_later.enter_async_context(fake_server(simulator.application()))


@pytest.fixture
async def gitlab(open_later: AsyncExitStack) -> tuple[GitLabSimulator, str]:
    simulator = GitLabSimulator(tokens={TOKEN: PROJECT, "less": "developer"}, projects={PROJECT: [], "42": []})
    return simulator, await open_later.enter_async_context(fake_server(simulator.application()))


def vault_at(address: str, token: str = TOKEN, **settings: str) -> VaultSecrets:
    return VaultSecrets(VaultSettings.model_validate({"VAULT_ADDR": address, "VAULT_TOKEN": token} | settings))


def github_at(address: str, token: str = TOKEN) -> ActionsSecrets:
    return ActionsSecrets(GitHubSettings.model_validate({"GITHUB_API_URL": address, "GITHUB_TOKEN": token}))


def gitlab_at(address: str, token: str = TOKEN) -> ProjectVariables:
    return ProjectVariables(GitLabSettings.model_validate({"GITLAB_URL": address, "GITLAB_TOKEN": token}))


@pytest.fixture(params=["ssm", "vault", "github", "gitlab"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each target in turn."""
    found: Bench = request.getfixturevalue(f"bench_of_{request.param}")
    return found


@pytest.fixture(params=["ssm", "vault", "gitlab"])
def readable(request: pytest.FixtureRequest) -> Bench:
    """Each target in turn that can be read back."""
    found: Bench = request.getfixturevalue(f"bench_of_{request.param}")
    return found


@pytest.fixture
def bench_of_vault(vault: tuple[VaultSimulator, str]) -> Bench:
    simulator, address = vault
    name = "secret/pay/svc"

    def stored() -> str | None:
        data = simulator.latest(name)
        return None if data is None else json.dumps(data)

    return Bench(
        store=vault_at(address),
        name=name,
        lose=simulator.faults.lose,
        calls=lambda: len(simulator.faults.calls),
        stored=stored,
        writes=lambda: len(simulator.secrets.get(name, [])),
        denied=lambda: vault_at(address, "reader"),
    )


@pytest.fixture
def bench_of_github(github: tuple[GitHubSimulator, str]) -> Bench:
    simulator, address = github
    return Bench(
        store=github_at(address),
        name="acme/pay/AWS_KEY",
        lose=simulator.faults.lose,
        calls=lambda: len(simulator.faults.calls),
        stored=lambda: simulator.read(REPOSITORY, "AWS_KEY"),
        writes=lambda: len(simulator.secrets),
        denied=lambda: github_at(address, "other"),
        reads_back=False,
    )


@pytest.fixture
def bench_of_gitlab(gitlab: tuple[GitLabSimulator, str]) -> Bench:
    simulator, address = gitlab

    def stored() -> str | None:
        found = simulator.variable(PROJECT, "AWS_KEY")
        return None if found is None else found.value

    return Bench(
        store=gitlab_at(address),
        name=f"{PROJECT}/AWS_KEY",
        lose=simulator.faults.lose,
        calls=lambda: len(simulator.faults.calls),
        stored=stored,
        writes=lambda: simulator.writes,
        denied=lambda: gitlab_at(address, "less"),
    )


@pytest.fixture
def bench_of_ssm(aws: Aws, network: Network) -> Bench:
    name = f"/pay/{uuid.uuid4().hex}"
    client = aws.client("ssm")

    def versions() -> list[Any]:
        try:
            return list(client.get_parameter_history(Name=name, WithDecryption=True)["Parameters"])
        except client.exceptions.ParameterNotFound:
            return []

    def lose(call: int, how: str) -> None:
        assert how in {"", "answer_lost", "request_lost"}
        network.calls.clear()
        network.lose, network.how = call, "request_lost" if how == "request_lost" else "answer_lost"

    def denied() -> SecretStore:
        user = f"denied-{uuid.uuid4().hex[:8]}"
        aws.client("iam").create_user(UserName=user)
        key = aws.client("iam").create_access_key(UserName=user)["AccessKey"]
        own = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        return ParameterStore(**(aws.settings() | own))

    return Bench(
        store=ParameterStore(**aws.settings(network.address)),
        name=name,
        lose=lose,
        calls=lambda: len(network.calls),
        stored=lambda: str(versions()[-1]["Value"]) if versions() else None,
        writes=lambda: len(versions()),
        denied=denied,
    )


def same(text: str | SecretStr | None, secret: SecretStr) -> bool:
    """Whether a stored text is the secret, whatever white space is between its members."""
    shown = text.get_secret_value() if isinstance(text, SecretStr) else text
    return shown is not None and json.loads(shown) == json.loads(secret.get_secret_value())


def expect_no_secret(error: BaseException) -> None:
    """Neither the secret nor the credential is in an error: its text, its members, its traceback, its context."""
    assert error.__context__ is None, "it has the request, with the credential and the secret"
    for text in (str(error), repr(error), repr(error.__dict__), "".join(traceback.format_exception(error))):
        for hidden in ("never-seen", TOKEN, "SecretAccessKey"):
            assert hidden not in text


async def failing(call: Awaitable[Any], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        await call
    expect_no_secret(caught.value)
    return str(caught.value)


async def test_a_secret_is_read_back_exactly_and_a_repeat_changes_nothing(readable: Bench) -> None:
    assert await readable.store.current(readable.name) is None
    for secret in (OLD, NEW):
        await readable.store.put(readable.name, secret, version="v")
        assert same(readable.stored(), secret)
        assert same(await readable.store.current(readable.name), secret)
        writes = readable.writes()
        await readable.store.put(readable.name, secret, version="v")
        assert readable.writes() == writes


async def test_the_one_before_is_restored_or_the_name_forgotten(readable: Bench) -> None:
    await readable.store.put(readable.name, OLD, version="1")
    await readable.store.restore(readable.name)
    assert readable.stored() is None
    assert await readable.store.current(readable.name) is None
    await readable.store.put(readable.name, OLD, version="1")
    await readable.store.put(readable.name, NEW, version="2")
    await readable.store.restore(readable.name)
    assert same(readable.stored(), OLD)
    await readable.store.put(readable.name, NEW, version="3")
    await readable.store.restore(readable.name)
    assert same(await readable.store.current(readable.name), OLD)


async def test_there_is_nothing_to_restore_where_there_is_nothing(readable: Bench) -> None:
    await readable.store.restore(readable.name)
    assert readable.stored() is None


@pytest.mark.parametrize(
    "text", ["a password: not JSON", '{"value": "one"}', "[1, 2]", '"text"', "{}", "ä € 𝄞", '{"a":']
)
async def test_a_value_that_is_not_ours_is_read_as_it_is_and_comes_back(readable: Bench, text: str) -> None:
    """As one that a person wrote before the first rotation."""
    foreign = SecretStr(text)
    await readable.store.put(readable.name, foreign, version="1")
    found = await readable.store.current(readable.name)
    assert found is not None
    read = found.get_secret_value()
    assert read == text or json.loads(read) == json.loads(text)
    await readable.store.put(readable.name, NEW, version="2")
    await readable.store.restore(readable.name)
    assert await readable.store.current(readable.name) == found


@pytest.mark.parametrize("how", ["answer_lost", "request_lost"])
@pytest.mark.parametrize("first", [True, False])
async def test_whichever_call_of_a_put_is_lost_a_repeat_has_one_effect(bench: Bench, how: str, first: bool) -> None:
    """And no error has the secret in it."""
    store, lost, done = bench.store, 0, False
    base = bench.name
    expected: int | None = None
    while not done:
        if not first:
            bench.lose(0, "")
            await store.put(base, OLD if lost % 2 else NEW, version="old")
        secret = NEW if lost % 2 else OLD
        before, lost = bench.writes(), lost + 1
        bench.lose(lost, how)
        try:
            await store.put(base, secret, version="new")
            done = bench.calls() < lost
        except CloudUnavailable as error:
            expect_no_secret(error)
            await store.put(base, secret, version="new")
        assert same(bench.stored(), secret)
        added = bench.writes() - before
        expected = added if expected is None or not bench.reads_back else expected
        assert added == expected
        if first and bench.reads_back:
            bench.lose(0, "")
            await store.restore(base)  # which forgets it, so that the next put is a first one
            assert bench.stored() is None
            expected = None  # a version, where a deleted secret has them
    assert lost > 2


@pytest.mark.parametrize("how", ["answer_lost", "request_lost"])
@pytest.mark.parametrize("first", [True, False])
async def test_whichever_call_of_a_restore_is_lost_a_repeat_brings_the_one_before_back(
    readable: Bench, how: str, first: bool
) -> None:
    """By a caller that looks first whether the current secret is to be left, as a rollback does."""
    lost, done = 0, False
    while not done:
        lost += 1
        readable.lose(0, "")
        if not first:
            await readable.store.put(readable.name, OLD, version="1")
        await readable.store.put(readable.name, NEW, version="2")
        readable.lose(lost, how)
        for _ in range(3):
            try:
                if same(await readable.store.current(readable.name) or "null", NEW):
                    await readable.store.restore(readable.name)
            except CloudUnavailable as error:
                expect_no_secret(error)
                continue
            break
        done = readable.calls() < lost
        assert readable.stored() is None if first else same(readable.stored(), OLD)
    assert lost > 3


async def test_a_missing_right_is_refused_and_nothing_is_stored(bench: Bench) -> None:
    denied = bench.denied()
    await failing(denied.put(bench.name, NEW, version="1"), CloudRefused)
    assert bench.stored() is None
    if bench.reads_back:
        await bench.store.put(bench.name, OLD, version="1")
        await bench.store.put(bench.name, NEW, version="2")
        await failing(denied.restore(bench.name), CloudRefused)
        assert same(bench.stored(), NEW)


@pytest.fixture(params=["vault", "github", "gitlab"])
def spoken(request: pytest.FixtureRequest) -> tuple[Bench, RestFaults]:
    """Each target of HTTP in turn, and the faults of its server."""
    simulator, _ = request.getfixturevalue(request.param)
    return request.getfixturevalue(f"bench_of_{request.param}"), simulator.faults


@pytest.mark.parametrize("fault", ["throttled", "unavailable", "half_body", "page"])
async def test_what_passes_by_itself_is_unavailable_at_every_call(spoken: tuple[Bench, RestFaults], fault: str) -> None:
    bench, _ = spoken
    lost, done = 0, False
    while not done:
        lost += 1
        bench.lose(lost, fault)
        secret = pair(10 + lost)
        try:
            await bench.store.put(bench.name, secret, version="1")
            # An answer that no one reads may be cut short: the secret is stored.
            done = bench.calls() < lost
        except CloudUnavailable as error:
            expect_no_secret(error)
            bench.lose(0, "")
            await bench.store.put(bench.name, secret, version="1")
        assert same(bench.stored(), secret)
    assert lost > 2


async def test_no_redirect_is_followed_with_a_credential(spoken: tuple[Bench, RestFaults]) -> None:
    """As a standby of Vault, or a moved repository, answers: another server would get the token."""
    bench, faults = spoken
    arrived: list[str] = []

    async def note(request: web.Request) -> web.Response:
        arrived.append(request.path)
        return web.json_response({})

    elsewhere = web.Application()
    elsewhere.router.add_route("*", "/{path:.*}", note)
    async with fake_server(elsewhere) as address:
        faults.elsewhere = address
        bench.lose(1, "redirect")
        text = await failing(bench.store.put(bench.name, NEW, version="1"), CloudRefused)
    assert "redirect" in text
    assert arrived == []


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with fake_server(web.Application()) as address:
        pass  # its port is free again
    for store, name in (
        (vault_at(address), "secret/pay/svc"),
        (github_at(address), "acme/pay/AWS_KEY"),
        (gitlab_at(address), "acme/pay/AWS_KEY"),
    ):
        await failing(store.put(name, NEW, version="1"), CloudUnavailable)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("ssm", "/pay/svc:3"), ("ssm", "arn:aws:ssm:eu-central-1:1:parameter/x"), ("ssm", "/pay/a@b"),
        ("vault", "secret"), ("vault", "secret/../sys/mounts"), ("vault", "secret//x"),
        ("github", "acme/KEY"), ("github", "acme/pay/GITHUB_TOKEN"), ("github", "acme/pay/with-dash"),
        ("github", "acme/../KEY"), ("github", "acme/pay/environments/KEY"), ("github", "orgs/KEY"),
        ("gitlab", "KEY"), ("gitlab", "acme/pay/with-dash"), ("gitlab", "a/../KEY"), ("gitlab", "1/KEY?scope=prod"),
    ],
)  # fmt: skip
async def test_a_path_that_is_none_is_refused_before_any_call(aws: Aws, kind: str, path: str) -> None:
    stores: dict[str, SecretStore] = {
        "ssm": ParameterStore(**aws.settings("http://127.0.0.1:9")),
        "vault": vault_at("http://127.0.0.1:9"),
        "github": github_at("http://127.0.0.1:9"),
        "gitlab": gitlab_at("http://127.0.0.1:9"),
    }
    await failing(stores[kind].put(path, NEW, version="1"), TargetUnusable)


def test_each_target_is_found_by_its_name() -> None:
    found = load_targets()
    assert [found[name].reads_back for name in ("ssm", "vault", "github", "gitlab")] == [True, True, False, True]
    assert [found[name].extra for name in ("ssm", "vault", "github", "gitlab")] == ["aws", "", "github", ""]


@pytest.mark.parametrize(
    ("name", "environment", "fault"),
    [
        ("vault", {}, "VAULT_ADDR is not set"),
        ("vault", {"VAULT_ADDR": "https://vault"}, "VAULT_TOKEN or VAULT_TOKEN_FILE is not set"),
        ("vault", {"VAULT_ADDR": "http://vault", "VAULT_TOKEN": TOKEN}, "VAULT_ADDR: must use https"),
        ("vault", {"VAULT_ADDR": "https://v", "VAULT_TOKEN": TOKEN, "VAULT_CACERT": "/absent"}, "VAULT_CACERT"),
        ("github", {}, "GITHUB_TOKEN is not set"),
        ("github", {"GITHUB_TOKEN": f"{TOKEN}\nmore"}, "GITHUB_TOKEN: must be the key alone"),
        ("gitlab", {"GITLAB_TOKEN": TOKEN, "GITLAB_URL": "https://u:p@gitlab"}, "GITLAB_URL: must have neither"),
    ],
)
def test_a_missing_or_wrong_setting_is_named_and_no_value_of_any(
    monkeypatch: pytest.MonkeyPatch, name: str, environment: dict[str, str], fault: str
) -> None:
    for variable in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_TOKEN_FILE", "GITHUB_TOKEN", "GITHUB_API_URL", "GITLAB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(CloudRefused) as caught:
        load_targets()[name].open()
    assert fault in str(caught.value)
    expect_no_secret(caught.value)


# -- Parameter Store --------------------------------------------------------------------------------------------------


async def test_a_parameter_is_encrypted_and_retains_its_kms_key(aws: Aws, bench_of_ssm: Bench) -> None:
    """A write that names no key may use the account's default one, which another account cannot decrypt with."""
    client, name = aws.client("ssm"), bench_of_ssm.name
    client.put_parameter(Name=name, Value="placeholder", Type="SecureString", KeyId="alias/pay")
    await bench_of_ssm.store.put(name, NEW, version="1")
    shown = client.describe_parameters(ParameterFilters=[{"Key": "Name", "Values": [name]}])["Parameters"][0]
    assert (shown["Type"], shown["KeyId"]) == ("SecureString", "alias/pay")
    assert "never-seen" not in client.get_parameter(Name=name)["Parameter"]["Value"][:8]


@pytest.mark.parametrize(("size", "tier"), [(4_096, "Intelligent-Tiering"), (4_097, "Advanced"), (8_192, "Advanced")])
async def test_the_tier_follows_the_size(aws: Aws, bench_of_ssm: Bench, size: int, tier: str) -> None:
    name = bench_of_ssm.name
    await bench_of_ssm.store.put(name, SecretStr("x" * size), version="1")
    shown = aws.client("ssm").describe_parameters(ParameterFilters=[{"Key": "Name", "Values": [name]}])
    assert shown["Parameters"][0]["Tier"] == tier


async def test_what_no_parameter_takes_is_not_sent(bench_of_ssm: Bench) -> None:
    bench_of_ssm.lose(0, "")
    await failing(bench_of_ssm.store.put(bench_of_ssm.name, SecretStr("€" * 2_731), version="1"), SecretNotStored)
    assert bench_of_ssm.calls() == 0


async def test_a_parameter_in_clear_gets_no_secret(aws: Aws, bench_of_ssm: Bench) -> None:
    """Even one that holds it already."""
    client, name = aws.client("ssm"), bench_of_ssm.name
    client.put_parameter(Name=name, Value=NEW.get_secret_value(), Type="String")
    assert "String" in await failing(bench_of_ssm.store.put(name, NEW, version="1"), CloudRefused)
    assert bench_of_ssm.writes() == 1


async def test_a_version_that_was_written_twice_is_not_the_one_before(aws: Aws, bench_of_ssm: Bench) -> None:
    """As a late read after a lost answer leaves it: Parameter Store has no check-and-set."""
    client, name = aws.client("ssm"), bench_of_ssm.name
    for secret in (OLD, NEW, NEW, NEW):
        client.put_parameter(Name=name, Value=secret.get_secret_value(), Type="SecureString", Overwrite=True)
    await bench_of_ssm.store.restore(name)
    assert same(bench_of_ssm.stored(), OLD)


async def test_a_first_version_that_was_written_twice_is_forgotten(aws: Aws, bench_of_ssm: Bench) -> None:
    client, name = aws.client("ssm"), bench_of_ssm.name
    for _ in range(2):
        client.put_parameter(Name=name, Value=NEW.get_secret_value(), Type="SecureString", Overwrite=True)
    await bench_of_ssm.store.restore(name)
    assert bench_of_ssm.stored() is None


class AnsweringSsm:
    """An SSM that answers every call alike, for what moto never does."""

    def __init__(self, status: int, code: str) -> None:
        self.application = web.Application()
        self.application.router.add_post("/", self._answer)
        self._status, self._code = status, code

    async def _answer(self, _request: web.Request) -> web.Response:
        body = json.dumps({"__type": self._code, "message": "SecretAccessKey never-seen"})
        return web.Response(status=self._status, text=body, content_type="application/x-amz-json-1.1")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "ThrottlingException", CloudUnavailable), (500, "InternalServerError", CloudUnavailable),
        (503, "ServiceUnavailable", CloudUnavailable), (400, "InvalidKeyId", CloudRefused),
        (400, "AccessDeniedException", CloudRefused),
    ],
)  # fmt: skip
async def test_a_failure_of_parameter_store_is_classified_by_its_code(
    aws: Aws, status: int, code: str, kind: type[Exception]
) -> None:
    async with fake_server(AnsweringSsm(status, code).application) as address:
        text = await failing(ParameterStore(**aws.settings(address)).put("/pay/svc", NEW, version="1"), kind)
    assert code in text


# -- Vault and OpenBao ------------------------------------------------------------------------------------------------


async def test_the_members_of_a_json_secret_are_fields(
    vault: tuple[VaultSimulator, str], bench_of_vault: Bench
) -> None:
    """So that a program reads `AccessKeyId` as it would a field that a person wrote."""
    await bench_of_vault.store.put(bench_of_vault.name, NEW, version="1")
    assert vault[0].latest(bench_of_vault.name) == json.loads(NEW.get_secret_value())
    await bench_of_vault.store.put(bench_of_vault.name, SecretStr("a password"), version="2")
    assert vault[0].latest(bench_of_vault.name) == {"value": "a password"}


async def test_numbers_and_truth_are_not_taken_for_each_other(bench_of_vault: Bench) -> None:
    store, name = bench_of_vault.store, bench_of_vault.name
    for text in ('{"a": 1}', '{"a": true}', '{"a": 1.0}', '{"a": "1"}'):
        await store.put(name, SecretStr(text), version="1")
        found = await store.current(name)
        assert found is not None
        assert found.get_secret_value() == text
    assert bench_of_vault.writes() == 4


@pytest.mark.parametrize("first", [True, False])
async def test_another_writer_in_between_is_not_overwritten(
    vault: tuple[VaultSimulator, str], bench_of_vault: Bench, first: bool
) -> None:
    """A standby that is behind shows the old version: check-and-set refuses the write, and the next attempt looks."""
    simulator, store, name = vault[0], bench_of_vault.store, bench_of_vault.name
    if not first:
        simulator.write(name, {"a": "old"})
    simulator.write(name, {"a": "another writer's"})
    simulator.stale_reads = 1
    await failing(store.put(name, NEW, version="1"), CloudUnavailable)
    assert simulator.latest(name) == {"a": "another writer's"}
    await store.put(name, NEW, version="1")
    assert same(bench_of_vault.stored(), NEW)
    await store.restore(name)
    assert simulator.latest(name) == {"a": "another writer's"}


async def test_a_put_ends_when_a_read_shows_it(vault: tuple[VaultSimulator, str], bench_of_vault: Bench) -> None:
    simulator, store, name = vault[0], bench_of_vault.store, bench_of_vault.name
    simulator.write(name, {"a": "old"})
    simulator.lag = 2
    await failing(store.put(name, NEW, version="1"), CloudUnavailable)
    await failing(store.put(name, NEW, version="1"), CloudUnavailable)  # check-and-set: it is there already
    await store.put(name, NEW, version="1")
    assert len(simulator.secrets[name]) == 2


async def test_a_deleted_secret_is_none_and_is_written_over(
    vault: tuple[VaultSimulator, str], bench_of_vault: Bench
) -> None:
    """What was deleted before a rotation is not brought back by its rollback."""
    simulator, store, name = vault[0], bench_of_vault.store, bench_of_vault.name
    simulator.write(name, {"a": "old"})
    simulator.delete(name, 1)
    assert await store.current(name) is None
    await store.put(name, NEW, version="1")
    assert [one.number for one in simulator.secrets[name]] == [1, 2]
    await store.restore(name)
    assert await store.current(name) is None
    assert len(simulator.secrets[name]) == 2


async def test_a_destroyed_secret_is_written_over(vault: tuple[VaultSimulator, str], bench_of_vault: Bench) -> None:
    simulator, store, name = vault[0], bench_of_vault.store, bench_of_vault.name
    simulator.write(name, {"a": "old"})
    simulator.destroy(name, 1)
    assert await store.current(name) is None
    await store.put(name, NEW, version="1")
    assert same(await store.current(name), NEW)


@pytest.mark.parametrize("loss", ["deleted", "destroyed", "one version is retained"])
async def test_a_version_before_that_was_lost_since_is_said_and_nothing_is_changed(
    vault: tuple[VaultSimulator, str], bench_of_vault: Bench, loss: str
) -> None:
    simulator, store, name = vault[0], bench_of_vault.store, bench_of_vault.name
    simulator.most_versions = 1 if loss == "one version is retained" else 10
    await store.put(name, OLD, version="1")
    await store.put(name, NEW, version="2")
    if loss == "deleted":
        simulator.delete(name, 1)
    if loss == "destroyed":
        simulator.destroy(name, 1)
    assert "version 1" in await failing(store.restore(name), SecretNotStored)
    assert same(bench_of_vault.stored(), NEW)


async def test_a_mount_of_version_1_gets_no_secret(vault: tuple[VaultSimulator, str]) -> None:
    """There, a write for version 2 would succeed, as another secret."""
    simulator, address = vault
    simulator.mounts["secret/"] = 1
    await failing(vault_at(address).put("secret/pay/svc", NEW, version="1"), TargetUnusable)
    assert simulator.first_version == {}


async def test_a_mount_may_have_slashes_and_a_secret_a_namespace(vault: tuple[VaultSimulator, str]) -> None:
    simulator, address = vault
    simulator.mounts["teams/pay/kv/"] = 2
    simulator.namespace = "acme/"
    simulator.tokens[TOKEN] = {"teams/pay/kv/data/prod/*": {"create", "read"}}
    store = vault_at(address, VAULT_NAMESPACE="acme/")
    await store.put("teams/pay/kv/prod/aws%2f?", NEW, version="1")
    assert set(simulator.secrets) == {"teams/pay/kv/prod/aws%2f?"}
    await failing(vault_at(address).put("teams/pay/kv/prod/x", NEW, version="1"), CloudRefused)


async def test_a_token_file_is_read_before_each_request(vault: tuple[VaultSimulator, str], tmp_path: Path) -> None:
    """A Vault Agent writes a new token into it while the executor runs."""
    simulator, address = vault
    file = tmp_path / "token"
    store = VaultSecrets(VaultSettings.model_validate({"VAULT_ADDR": address, "VAULT_TOKEN_FILE": file}))
    await failing(store.put("secret/pay/svc", NEW, version="1"), CloudRefused)
    file.write_text(f"{TOKEN}\n")
    await store.put("secret/pay/svc", NEW, version="1")
    simulator.tokens = {"next": POLICY}
    await failing(store.current("secret/pay/svc"), CloudRefused)
    file.write_text("\n")
    await failing(store.current("secret/pay/svc"), CloudRefused)
    file.write_text("next\n")
    assert same(await store.current("secret/pay/svc"), NEW)


def test_the_simulated_clock_is_read_as_vault_writes_it() -> None:
    assert datetime.fromisoformat("2018-03-22T02:36:43.986212308Z").microsecond == 986_212


# -- GitHub -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("acme/pay/AWS_KEY", REPOSITORY),
        ("acme/pay/environments/eu/prod/AWS_KEY", f"{REPOSITORY}/environments/eu/prod"),
        ("orgs/acme/AWS_KEY", "/orgs/acme"),
    ],
)
async def test_a_workflow_reads_what_was_stored(github: tuple[GitHubSimulator, str], path: str, place: str) -> None:
    """Of a repository, an environment whose name has a slash, and an organization; twice is the same."""
    simulator, address = github
    store = github_at(address)
    for _ in range(2):
        await store.put(path, NEW, version="1")
        assert simulator.read(place, "AWS_KEY") == NEW.get_secret_value()
    assert not any("never-seen" in call for call in simulator.faults.calls)


async def test_a_secret_that_cannot_be_read_is_never_said_to_be_absent(bench_of_github: Bench) -> None:
    await bench_of_github.store.put(bench_of_github.name, NEW, version="1")
    bench_of_github.lose(0, "")
    assert "never returns" in await failing(bench_of_github.store.current(bench_of_github.name), CloudRefused)
    await failing(bench_of_github.store.restore(bench_of_github.name), CloudRefused)
    assert bench_of_github.calls() == 0


@pytest.mark.parametrize("page", [100, 2])
async def test_an_organizations_secret_stays_for_the_repositories_that_it_was_for(
    github: tuple[GitHubSimulator, str], page: int
) -> None:
    """A write that leaves them out clears the list, and the workflows of all of them fail."""
    simulator, address = github
    simulator.page = page
    simulator.secrets["/orgs/acme/AWS_KEY"] = Secret("old", "selected", [11, 12, 13])
    simulator.secrets["/orgs/acme/FOR_ALL"] = Secret("old", "all")
    store = github_at(address)
    for name in ("AWS_KEY", "FOR_ALL", "NEW_ONE"):
        await store.put(f"orgs/acme/{name}", NEW, version="1")
    found = {name: simulator.secrets[f"/orgs/acme/{name}"] for name in ("AWS_KEY", "FOR_ALL", "NEW_ONE")}
    assert (found["AWS_KEY"].visibility, found["AWS_KEY"].repositories) == ("selected", [11, 12, 13])
    assert (found["FOR_ALL"].visibility, found["NEW_ONE"].visibility) == ("all", "selected")
    assert found["NEW_ONE"].repositories == []


@pytest.mark.parametrize(
    ("headers", "message", "kind"),
    [
        ({"x-ratelimit-remaining": "0"}, "API rate limit exceeded", CloudUnavailable),
        ({"Retry-After": "60"}, "slow down", CloudUnavailable),
        ({}, "You have exceeded a secondary rate limit", CloudUnavailable),
        ({"x-ratelimit-remaining": "4999"}, "Resource not accessible", CloudRefused),
    ],
)
async def test_a_rate_limit_passes_and_a_missing_right_does_not(
    github: tuple[GitHubSimulator, str],
    bench_of_github: Bench,
    headers: dict[str, str],
    message: str,
    kind: type[Exception],
) -> None:
    github[0].limited = (headers, message)
    with pytest.raises(kind) as caught:
        await bench_of_github.store.put(bench_of_github.name, NEW, version="1")
    expect_no_secret(caught.value)
    if isinstance(caught.value, CloudUnavailable):
        assert caught.value.retry_after == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("headers", "minutes"),
    [
        ({"Retry-After": "60", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795860000"}, 1),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795858800"}, 20),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795857000"}, 0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9999999999"}, 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, 1),
        ({"x-ratelimit-remaining": "12", "x-ratelimit-reset": "1795858800"}, 1),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "1795857900"}, 5),
        ({}, 1),
    ],
)
@time_machine.travel(datetime(2026, 11, 28, 9, 20, tzinfo=UTC), tick=False)  # 1795857600
def test_a_limit_says_how_long_to_wait(headers: dict[str, str], minutes: int) -> None:
    """As GitHub and GitLab document it: Retry-After first, then the end of the window, then a minute."""
    for status in (403, 429):
        assert wait_of(Answer(status, httpx.Headers(headers), None)) == timedelta(minutes=minutes)


def test_a_failure_that_is_no_limit_asks_for_no_wait() -> None:
    assert wait_of(Answer(503, httpx.Headers({}), None)) is None
    assert wait_of(Answer(503, httpx.Headers({"retry-after": "5"}), None)) == timedelta(seconds=5)
    assert wait_of(Answer(500, httpx.Headers({"retry-after": "5"}), None)) is None


async def test_an_absent_place_and_a_wrong_token_are_refused(github: tuple[GitHubSimulator, str]) -> None:
    _, address = github
    assert "404" in await failing(github_at(address).put("acme/absent/KEY", NEW, version="1"), CloudRefused)
    assert "401" in await failing(github_at(address, "wrong").put("acme/pay/KEY", NEW, version="1"), CloudRefused)
    await failing(github_at(address).put("acme/pay/KEY", SecretStr("x" * 49_153), version="1"), SecretNotStored)


# -- GitLab -----------------------------------------------------------------------------------------------------------


async def test_a_new_variable_is_masked_protected_and_never_expanded(
    gitlab: tuple[GitLabSimulator, str], bench_of_gitlab: Bench
) -> None:
    await bench_of_gitlab.store.put(bench_of_gitlab.name, NEW, version="1")
    found = gitlab[0].variable(PROJECT, "AWS_KEY")
    assert found is not None
    assert (found.masked, found.protected, found.raw, found.environment_scope) == (True, True, True, "*")


async def test_an_existing_variable_stays_as_it_is_but_for_its_value_and_its_mask(
    gitlab: tuple[GitLabSimulator, str], bench_of_gitlab: Bench
) -> None:
    existing = Variable("AWS_KEY", "old value", protected=False, variable_type="file", description="of the team pay")
    gitlab[0].projects[PROJECT].append(existing)
    await bench_of_gitlab.store.put(bench_of_gitlab.name, NEW, version="1")
    found = gitlab[0].variable(PROJECT, "AWS_KEY")
    assert found is not None
    assert (found.protected, found.variable_type, found.description) == (False, "file", "of the team pay")
    assert found.masked
    await bench_of_gitlab.store.restore(bench_of_gitlab.name)
    found = gitlab[0].variable(PROJECT, "AWS_KEY")
    assert found is not None
    assert (found.value, found.masked) == ("old value", False)


async def test_a_value_that_gitlab_cannot_mask_is_stored_without_a_mask_but_never_instead_of_one(
    gitlab: tuple[GitLabSimulator, str], bench_of_gitlab: Bench
) -> None:
    """White space within a value, as a Google key's file has it; a mask that is there is a person's decision."""
    store, name = bench_of_gitlab.store, bench_of_gitlab.name
    spaced = SecretStr(json.dumps({"private_key": "-----BEGIN PRIVATE KEY-----\nnever-seen\n"}))
    await store.put(name, spaced, version="1")
    found = gitlab[0].variable(PROJECT, "AWS_KEY")
    assert found is not None
    assert not found.masked
    await store.put(name, NEW, version="2")
    assert "masked" in await failing(store.put(name, spaced, version="3"), CloudRefused)
    assert same(bench_of_gitlab.stored(), NEW)


async def test_a_hidden_variable_is_refused_and_not_written(
    gitlab: tuple[GitLabSimulator, str], bench_of_gitlab: Bench
) -> None:
    gitlab[0].projects[PROJECT].append(Variable("AWS_KEY", "old-value", masked=True, hidden=True))
    for call in (
        bench_of_gitlab.store.current(bench_of_gitlab.name),
        bench_of_gitlab.store.put(bench_of_gitlab.name, NEW, version="1"),
        bench_of_gitlab.store.restore(bench_of_gitlab.name),
    ):
        assert "hidden" in await failing(call, CloudRefused)
    assert gitlab[0].writes == 0


async def test_each_environment_scope_has_a_variable_and_a_value_before_of_its_own(
    gitlab: tuple[GitLabSimulator, str],
) -> None:
    """And no job gets the value before: neither one of an environment, nor one of none."""
    simulator, address = gitlab
    store = gitlab_at(address)
    every, prod = "42/AWS_KEY", "42/AWS_KEY?environment_scope=prod"
    simulator.tokens[TOKEN] = "42"
    for name, secret in ((every, pair(1)), (prod, pair(2)), (every, pair(3)), (prod, pair(4))):
        await store.put(name, secret, version="1")
    assert same(await store.current(every), pair(3))
    assert same(await store.current(prod), pair(4))
    for environment, secret in ((None, pair(3)), ("staging", pair(3)), ("prod", pair(4))):
        given = simulator.job_variables("42", environment)
        assert set(given) == {"AWS_KEY"}
        assert same(given["AWS_KEY"], secret)
    await store.restore(prod)
    assert same(await store.current(prod), pair(2))
    assert same(await store.current(every), pair(3))


async def test_a_rollback_leaves_no_copy_and_a_missing_one_is_said(
    gitlab: tuple[GitLabSimulator, str], bench_of_gitlab: Bench
) -> None:
    """Without the copy, the variable is not deleted as if it had been the first."""
    store, name = bench_of_gitlab.store, bench_of_gitlab.name
    await store.put(name, OLD, version="1")
    await store.put(name, NEW, version="2")
    await store.restore(name)
    assert [one.key for one in gitlab[0].projects[PROJECT]] == ["AWS_KEY"]
    assert "AWS_KEY_PREVIOUS" in await failing(store.restore(name), SecretNotStored)
    assert same(bench_of_gitlab.stored(), OLD)


async def test_a_replica_that_is_behind_is_waited_for(
    gitlab: tuple[GitLabSimulator, str], bench_of_gitlab: Bench
) -> None:
    store, name = bench_of_gitlab.store, bench_of_gitlab.name
    await store.put(name, OLD, version="1")
    gitlab[0].lag = 1
    for _ in range(2):  # the value before, and the new one
        await failing(store.put(name, NEW, version="2"), CloudUnavailable)
    await store.put(name, NEW, version="2")
    assert same(await store.current(name), NEW)


async def test_a_variable_that_another_attempt_has_created_is_looked_at_again(
    gitlab: tuple[GitLabSimulator, str], bench_of_gitlab: Bench
) -> None:
    store, name = bench_of_gitlab.store, bench_of_gitlab.name
    await store.put(name, OLD, version="1")
    gitlab[0].stale_reads = 1  # for this read, it is not there yet
    assert "400" in await failing(store.put(name, NEW, version="2"), CloudUnavailable)
    await store.put(name, NEW, version="2")
    await store.restore(name)
    assert same(bench_of_gitlab.stored(), OLD)


async def test_an_absent_project_and_a_wrong_token_are_refused(gitlab: tuple[GitLabSimulator, str]) -> None:
    _, address = gitlab
    assert "404" in await failing(gitlab_at(address).put("acme/absent/KEY", NEW, version="1"), CloudRefused)
    assert "401" in await failing(gitlab_at(address, "wrong").current("acme/pay/KEY"), CloudRefused)


# -- together ---------------------------------------------------------------------------------------------------------


async def test_one_rotation_fills_them_all_and_its_rollback_brings_all_back(
    bench_of_ssm: Bench, bench_of_vault: Bench, bench_of_github: Bench, bench_of_gitlab: Bench
) -> None:
    """GitHub's secret, which cannot be read, is written again from the first target."""
    benches = {"vault": bench_of_vault, "ssm": bench_of_ssm, "github": bench_of_github, "gitlab": bench_of_gitlab}
    targets = SecretTargets(
        {kind: lambda one=one: OpenTarget(one.store, one.reads_back) for kind, one in benches.items()}  # type: ignore[misc]
    )
    paths = [f"{kind}:{one.name}" for kind, one in benches.items()]
    for secret in (OLD, NEW):
        await targets.put(paths, secret, version="1")
        assert all(same(one.stored(), secret) for one in benches.values())
        assert same(await targets.expect_current(paths, lambda found, secret=secret: same(found, secret)), secret)  # type: ignore[misc]
    for _ in range(2):  # a repeat finds nothing of ours
        await targets.restore(paths, lambda found: same(found, NEW), version="1")
        assert all(same(one.stored(), OLD) for one in benches.values())


def test_a_mount_that_is_being_upgraded_is_waited_for() -> None:
    """So OpenBao answers after each restart, with a 400."""

    class Answer:
        status = 400

        def member(self, _name: str) -> list[str]:
            return [
                "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period"
            ]

    assert _is_passing(Answer())  # type: ignore[arg-type]
