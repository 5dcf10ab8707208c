"""What `keyturn doctor` says of files that hold secrets."""

import os
from pathlib import Path

import pytest

from keyturn.workers.doctor_environment import files_of_secrets
from keyturn.workers.doctor_errors import FileOpen


@pytest.mark.parametrize(
    ("mode", "ours", "is_open"),
    [(0o600, True, False), (0o640, True, True), (0o440, False, False), (0o644, False, True)],
)
async def test_a_file_of_ours_is_open_if_others_can_read_it_and_a_mounted_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, ours: bool, is_open: bool
) -> None:
    """Kubernetes mounts a Secret as root's, readable by the pod's group: that is as closed as it can be."""
    file = tmp_path / "keys"
    file.touch()
    file.chmod(mode)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYTURN_PAYLOAD_KEYS_FILE", str(file))
    monkeypatch.setattr(os, "getuid", lambda: file.stat().st_uid + (0 if ours else 1))
    monkeypatch.setenv("KEYTURN_KUBERNETES_CA_FILE", "/etc/ssl/certs/ca-certificates.crt")  # for everyone to read
    if is_open:
        with pytest.raises(FileOpen, match="KEYTURN_PAYLOAD_KEYS_FILE"):
            await files_of_secrets()
    else:
        assert "KEYTURN_PAYLOAD_KEYS_FILE" in await files_of_secrets()


@pytest.mark.parametrize("name", ["TEMPORAL_TLS_CLIENT_KEY_PATH", "VAULT_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS"])
async def test_a_file_of_anothers_library_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / "key"
    file.touch(mode=0o644)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, str(file))
    with pytest.raises(FileOpen, match=name):
        await files_of_secrets()
