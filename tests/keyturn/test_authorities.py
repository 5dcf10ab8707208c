"""The authorities of a company's own, by the variables that OpenSSL's programs share."""

from pathlib import Path

import pytest

from keyturn.authorities import public_authorities
from keyturn.errors import SettingsInvalid
from keyturn.lab.stack.certificates import write_certificates
from keyturn.llm.http import http_client


@pytest.mark.parametrize("kind", ["absent", "empty", "a folder"])
def test_a_file_without_certificates_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A Secret that was not mounted into this pod, say."""
    file = tmp_path / "ca.pem"
    if kind == "empty":
        file.touch()
    elif kind == "a folder":
        file.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(SettingsInvalid, match="SSL_CERT_FILE"):
        public_authorities.__wrapped__()


@pytest.mark.parametrize("file", [None, "company.pem", "0a1b2c3d.0"])
def test_a_folder_without_certificates_by_their_hash_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str | None
) -> None:
    """OpenSSL would take it for an empty one; a list of folders is one that OpenSSL knows."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if file is not None:
        (tmp_path / file).write_bytes(write_certificates(tmp_path / "made", ["127.0.0.1"]).authority.read_bytes())
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'absent'}:{tmp_path}")
    if file == "0a1b2c3d.0":
        public_authorities.__wrapped__()
    else:
        with pytest.raises(SettingsInvalid, match="SSL_CERT_DIR"):
            public_authorities.__wrapped__()


def test_a_companys_own_authority_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(write_certificates(tmp_path / "made", ["127.0.0.1"]).authority))
    assert [one["issuer"] for one in public_authorities.__wrapped__().get_ca_certs()] != []


async def test_a_process_that_calls_others_does_not_start_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    public_authorities.cache_clear()
    try:
        with pytest.raises(SettingsInvalid, match="SSL_CERT_FILE"):
            async with http_client(1):
                pass
    finally:
        public_authorities.cache_clear()
