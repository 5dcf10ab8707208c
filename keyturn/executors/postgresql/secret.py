"""The secret of a role, as consumers read it."""

import json
from typing import NamedTuple

from pydantic import SecretStr

from keyturn.executors.postgresql.names import is_generated, role_in


class RoleSecret(NamedTuple):
    """A password that Keyturn set, with the ID that it has."""

    key_id: str
    role: str
    password: SecretStr


def write_secret(key_id: str, password: SecretStr, address: dict[str, str]) -> SecretStr:
    """Return a secret with the fields of AWS's secrets for RDS, and `key_id`, which other readers do not know.

    https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html

    Args:
        key_id: of the password.
        password: of the role that the ID names.
        address: `host`, `port` and `dbname`, as libpq takes them: several hosts or ports are parted by commas.
    """
    port = address["port"]
    fields = {
        "engine": "postgres",
        "host": address["host"],
        "port": int(port) if port.isdigit() else port,
        "dbname": address["dbname"],
        "username": role_in(key_id),
        "password": password.get_secret_value(),
        "key_id": key_id,
    }
    return SecretStr(json.dumps(fields))


def read_secret(secret: SecretStr) -> RoleSecret | None:
    """Return what a stored secret holds; None if Keyturn did not write it: it stays as the version before."""
    try:
        fields = json.loads(secret.get_secret_value())
        key_id, role, password = fields["key_id"], fields["username"], fields["password"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(value, str) for value in (key_id, role, password)):
        return None
    if not is_generated(key_id) or role_in(key_id) != role:
        return None
    return RoleSecret(key_id, role, SecretStr(password))
