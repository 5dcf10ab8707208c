import socket
from pathlib import Path

import pytest

from keyturn.web import ports
from keyturn.web.ports import free_loopback_port


@pytest.mark.skipif(not Path("/proc/sys/net/ipv4/ip_local_port_range").exists(), reason="Linux says it there")
def test_a_free_port_is_none_that_a_connection_may_get_meanwhile() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_loopback_port() < first for _ in range(50))


def test_a_port_on_which_something_listens_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_loopback_port()))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("random.randrange", lambda *_: port)
        assert free_loopback_port() != port


def test_where_connections_may_get_every_port_it_is_one_of_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "range")
    with socket.socket() as server:
        port = free_loopback_port()
        server.bind(("127.0.0.1", port))
    assert port >= 1024
