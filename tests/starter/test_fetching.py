"""`keyturn inventory fetch`, as it is run."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyturn.lab.simulator.aws_iam import AwsEstate
from tests.support.servers import fake_server
from tests.support.warm import run_warm


@pytest.fixture
async def estate(tmp_path: Path) -> AsyncIterator[tuple[AwsEstate, dict[str, str]]]:
    """Two accounts, and the environment of a command that reads them."""
    made = AwsEstate()
    made.fill(accounts=2, users=10)
    async with fake_server(made.application()) as address:
        yield (
            made,
            {
                "PATH": os.environ["PATH"],
                "AWS_ENDPOINT_URL": address,
                "AWS_DEFAULT_REGION": "eu-central-1",
                "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",  # pragma: allowlist secret
                "AWS_SECRET_ACCESS_KEY": "no secret of anyone's",  # pragma: allowlist secret
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AWS_EC2_METADATA_DISABLED": "true",
                "KEYTURN_AWS_ACCOUNTS": "000000000001 000000000002",
                "KEYTURN_AWS_EXTERNAL_ID": "external-1",
            },
        )


async def test_what_was_fetched_is_what_check_reads(
    estate: tuple[AwsEstate, dict[str, str]], warm: Path, tmp_path: Path
) -> None:
    """The digest is printed; no key's ID is, on either stream."""
    _, environment = estate

    async def run(*words: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(run_warm, warm, list(words), environment=environment, folder=tmp_path)
        return done.returncode, done.stdout, done.stderr

    fetch = ("inventory", "fetch", "--from", "aws", "--out", "keys.jsonl")
    status, out, err = await run(*fetch)
    manifest = json.loads((tmp_path / "keys.jsonl.json").read_text())
    assert (status, out) == (0, f"keys.jsonl: 30 keys of 2 accounts\nsha256 {manifest['sha256']}\n"), err
    assert "AKIA" not in out + err
    status, out, err = await run("inventory", "check", "keys.jsonl", "--policy", "CIS-AWS-4.0-1.14", "--json")
    assert (status, json.loads(out)["format"], json.loads(out)["rows"]) == (0, "jsonl", 30), err


async def test_what_cannot_be_read_is_named_with_what_to_do(
    estate: tuple[AwsEstate, dict[str, str]], warm: Path, tmp_path: Path
) -> None:
    """Exit status 1, and 2 for a cloud that there is none of."""
    made, environment = estate
    made.denied.add(("ListAccessKeys", "000000000002"))

    async def run(*words: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(run_warm, warm, list(words), environment=environment, folder=tmp_path)
        return done.returncode, done.stdout, done.stderr

    fetch = ("inventory", "fetch", "--from", "aws", "--out", "keys.jsonl")
    status, out, err = await run(*fetch)
    assert (status, out) == (1, "")
    assert "Error (snapshot_incomplete): 1 of 2 accounts could not be read:\n" in err
    assert "\n  000000000002: ListAccessKeys: AccessDenied\n" in err
    assert "--allow-missing" in err
    status, out, err = await run(*fetch, "--allow-missing")
    assert (status, "keys.jsonl: 15 keys of 1 account\n" in out) == (0, True), err
    assert "missing: 000000000002: ListAccessKeys: AccessDenied" in err
    status, _, err = await run("inventory", "fetch", "--from", "oracle", "--out", "keys.jsonl")
    assert (status, "'oracle' is not one of 'aws', 'entra', 'gcp', 'kubernetes'" in err) == (2, True)
