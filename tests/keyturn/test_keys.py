"""Short-lived keys: read in the forms that command lines write, renewed before they end, and never repeated."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from keyturn.llm.errors import ProviderKeyUnavailable
from keyturn.llm.keys import (
    PAUSE_SECONDS,
    RENEW_BEFORE_SECONDS,
    RENEW_EVERY_SECONDS,
    RenewedKey,
    command_key,
    file_key,
    parse_key,
)

NOW = 1_790_000_000.0
TOKEN = "eyJ0eXAi.made.up"


AZ = {"accessToken": TOKEN, "expiresOn": "2023-10-31 21:59:10.000000", "tokenType": "Bearer"}


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (f"{TOKEN}\n", None),  # gcloud auth print-access-token
        (f"  {TOKEN}\r\n", None),
        # az account get-access-token, since 2.54 with the POSIX time beside the local one
        (json.dumps(AZ | {"expires_on": 1698760750}), 1698760750),
        (json.dumps(AZ | {"expires_on": "1698760750"}), 1698760750),
        (json.dumps(AZ), datetime(2023, 10, 31, 21, 59, 10).timestamp()),  # noqa: DTZ001 - it writes a local time
        # OAuth 2.0, and a metadata server
        (json.dumps({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}), NOW + 3599),
        # Kubernetes' client authentication, as `aws eks get-token` writes it
        (json.dumps({"status": {"token": TOKEN, "expirationTimestamp": "2026-11-26T12:00:00Z"}}), 1795694400.0),
        (json.dumps({"token": TOKEN}), None),
    ],
)
def test_a_key_is_read_in_the_forms_that_command_lines_write(text: str, ends: float | None) -> None:
    key, found = parse_key(text, now=NOW)
    assert (key.get_secret_value(), found) == (TOKEN, ends)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "ERROR: please run az login", "{", '{"error": "x"}', '{"token": 7}', "a\tb", "ключ", "x" * 40_000],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ProviderKeyUnavailable) as refused:
        parse_key(text, now=NOW)
    assert not text.strip() or text.strip()[:8] not in str(refused.value)


class Times:
    """The process's clock and the wall's, moved together; and what is given, one after the other."""

    def __init__(self, *given: str | ProviderKeyUnavailable) -> None:
        self.now, self.given, self.reads = 0.0, given, 0
        self.source = RenewedKey(self.read, wall=lambda: NOW + self.now, clock=lambda: self.now + 1_000)

    async def read(self) -> str:
        said = self.given[min(self.reads, len(self.given) - 1)]
        self.reads += 1
        if isinstance(said, ProviderKeyUnavailable):
            raise said
        return said

    async def key(self) -> str:
        key = (await self.source.current()).get_secret_value()
        await asyncio.sleep(0)  # a renewal beside the call takes its turn
        await asyncio.sleep(0)
        return key


def lasting(name: str, seconds: float, begun: float = 0.0) -> str:
    return f'{{"access_token": "{name}", "expires_on": {NOW + begun + seconds}}}'


async def test_a_key_is_renewed_before_it_ends_and_nobody_waits_for_that() -> None:
    times = Times(lasting("first", 3_600), lasting("second", 3_600, 3_600))
    assert [await times.key() for _ in range(64)] == ["first"] * 64
    times.now = 3_600 - RENEW_BEFORE_SECONDS - 1
    assert (await times.key(), times.reads) == ("first", 1)
    times.now += 2
    assert await times.key() == "first"  # while the next one is being read
    assert (await times.key(), times.reads) == ("second", 2)


async def test_calls_at_once_read_it_once() -> None:
    times = Times("one")
    assert set(await asyncio.gather(*(times.key() for _ in range(64)))) == {"one"}
    assert times.reads == 1


async def test_a_key_that_does_not_say_when_it_ends_is_read_again_every_few_minutes() -> None:
    times = Times("first", "second")
    await times.key()
    times.now = RENEW_EVERY_SECONDS + 1
    await times.key()
    assert await times.key() == "second"


async def test_where_it_cannot_be_renewed_the_old_one_serves_until_its_end() -> None:
    times = Times(lasting("first", 3_600), ProviderKeyUnavailable("the metadata server is away"))
    await times.key()
    times.now = 3_599
    assert await times.key() == "first"
    times.now = 3_601
    with pytest.raises(ProviderKeyUnavailable, match="metadata server"):
        await times.key()


async def test_a_command_that_fails_is_not_started_by_every_call() -> None:
    times = Times(ProviderKeyUnavailable("no login"), "later")
    for _ in range(64):
        with pytest.raises(ProviderKeyUnavailable, match="no login"):
            await times.key()
    assert times.reads == 1
    times.now = PAUSE_SECONDS + 0.1
    assert await times.key() == "later"


async def test_a_key_that_was_taken_back_early_is_read_again_and_one_that_was_just_read_is_not() -> None:
    times = Times("first", "second")
    first = SecretStr(await times.key())
    assert not times.source.reject(first)  # a wrong key, not an old one: the next would be as wrong
    times.now = PAUSE_SECONDS + 1
    assert times.source.reject(first)
    assert await times.key() == "second"
    assert times.source.reject(first)  # another call was under way with the old one


async def test_a_clock_that_is_fast_refuses_no_key() -> None:
    """What has ended by our clock may be good by the provider's, which judges it."""
    assert await Times(lasting("early", -600)).key() == "early"


async def test_a_command_gives_the_key_and_sees_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEYTURN_PAYLOAD_KEYS", "DATABASE_URL", "TEMPORAL_API_KEY"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("AZURE_CLIENT_ID", "theirs")
    code = (
        "import os; print(os.environ['AZURE_CLIENT_ID'] + str(sum(value == 'ours' for value in os.environ.values())))"
    )
    assert (await command_key([sys.executable, "-c", code]).current()).get_secret_value() == "theirs0"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; print('token-1'); sys.stderr.write('token-2'); sys.exit(3)", "exited with status 3"),
        ("print()", "gave no key"),
        ("while True: print('token-1' * 1000)", "more than a key"),
        ("import time; print('token-1', flush=True); time.sleep(60)", "did not finish within 1 s"),
    ],
)
async def test_a_command_that_gives_no_key_is_named_and_what_it_wrote_is_not(code: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(ProviderKeyUnavailable, match=reason) as refused:
        await command_key([sys.executable, "-c", code], seconds=1).current()
    assert "token-" not in str(refused.value)
    assert time.monotonic() - began < 10


async def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(ProviderKeyUnavailable, match="No such file"):
        await command_key(["/nowhere/az"]).current()


async def test_the_children_of_a_command_end_with_it(tmp_path: Path) -> None:
    """A wrapper's hanging child would stay behind, once for every renewal."""
    file = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {file}; wait"
    with pytest.raises(ProviderKeyUnavailable):
        await command_key(["sh", "-c", script], seconds=1).current()
    child = int(file.read_text())
    await _until(lambda: not _runs(child))


async def test_a_key_in_a_file_is_what_stands_there(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ProviderKeyUnavailable, match=f"{file}: No such file"):
        await file_key(file).current()
    file.write_text(f"{TOKEN}\n")
    assert (await file_key(file).current()).get_secret_value() == TOKEN
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ProviderKeyUnavailable, match="no file of UTF-8 text"):
        await file_key(file).current()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


async def _until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not met():
            await asyncio.sleep(0.05)


async def test_a_machine_that_slept_reads_its_key_again_at_once() -> None:
    """The process's clock stands still in sleep; the key's end does not."""
    times = Times(lasting("first", 3_600), lasting("second", 3_600, 3_601))
    await times.key()
    slept = RenewedKey(times.read, wall=lambda: NOW + times.now, clock=lambda: 1_000.0 + times.now / 1_000)
    times.reads = 0
    assert (await slept.current()).get_secret_value() == "first"
    times.now = 3_601 + PAUSE_SECONDS * 1_000
    assert (await slept.current()).get_secret_value() == "second"


@pytest.mark.parametrize("ends", ["1" + "0" * 400, "1e999", "-5", "true", '"nonsense"', "null"])
def test_an_end_that_is_none_is_passed_over(ends: str) -> None:
    for name in ("expires_on", "expires_in"):
        assert parse_key(f'{{"access_token": "{TOKEN}", "{name}": {ends}}}', now=NOW)[1] is None


@pytest.mark.parametrize("text", [f"\ufeff{TOKEN}\n", f'"{TOKEN}"\n'])
def test_a_mark_and_the_quotes_of_json_are_no_part_of_a_key(text: str) -> None:
    assert parse_key(text, now=NOW)[0].get_secret_value() == TOKEN


async def test_a_command_that_leaves_something_running_gives_its_key_all_the_same() -> None:
    began = time.monotonic()
    key = await command_key(["sh", "-c", "echo token-1; sleep 600 &"], seconds=5).current()
    assert key.get_secret_value() == "token-1"
    assert time.monotonic() - began < 4


async def test_a_command_does_not_see_the_keys_of_other_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHERS_KEY", "theirs")
    command = command_key(["sh", "-c", "echo key-$OTHERS_KEY"], hidden={"OTHERS_KEY"})
    assert (await command.current()).get_secret_value() == "key-"


async def test_a_pipe_is_no_file_with_a_key(tmp_path: Path) -> None:
    """A reader that opens one waits for its other end, for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ProviderKeyUnavailable, match="no file"):
        await file_key(tmp_path / "pipe").current()
