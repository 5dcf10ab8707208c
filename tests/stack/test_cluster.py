"""A cluster of Temporal's production server, as far as it can be tested without one (see `make cluster-test`)."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from keyturn.lab.cluster.programs import VERSION, build_programs
from keyturn.lab.stack.certificates import SERVER_NAME, write_certificates
from keyturn.lab.stack.processes import StackNotStarted

ROOT = Path(__file__).resolve().parents[2]


def test_its_server_is_the_one_of_the_containers() -> None:
    """What is proved on the cluster is proved of what people deploy."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    images = {services[name]["image"] for name in ("temporal", "temporal-schema", "temporal-namespace")}
    assert images == {f"temporalio/server:{VERSION}", f"temporalio/admin-tools:{VERSION}"}


def test_without_go_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And nothing is half built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackNotStarted, match="Go is not installed here"):
        build_programs()


def test_what_was_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where Go is gone meanwhile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "keyturn" / f"temporal-server-{VERSION}"
    folder.mkdir(parents=True)
    for name in ("server", "sql"):
        (folder / name).touch()
    assert build_programs().server == folder / "server"


@pytest.mark.parametrize("shows_one", [True, False])
async def test_who_shows_no_certificate_of_the_cluster_is_refused(tmp_path: Path, shows_one: bool) -> None:
    """Both sides prove who they are, by the authority that the cluster made."""
    made = write_certificates(tmp_path / "certificates", ["127.0.0.1"])
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made.authority))
    serving.load_cert_chain(made.server.certificate, made.server.key)
    serving.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.create_default_context(cafile=str(made.authority))
    if shows_one:
        calling.load_cert_chain(made.client.certificate, made.client.key)
    assert made.client.key.stat().st_mode & 0o077 == 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=calling, server_hostname=SERVER_NAME)
        writer.write(b"ping")
        answered = b""
        with suppress(ssl.SSLError, ConnectionError):  # with TLS 1.3 the refusal comes in place of the first answer
            answered = await reader.read()
        assert answered == (b"ping" if shows_one else b"")
        writer.transport.abort()
