"""The command line as a person of the tests has it."""

from keyturn.lab.stack.embedded import Stack
from keyturn.lab.stack.processes import program

KEYTURN = program("keyturn")


def lunas(stack: Stack) -> dict[str, str]:
    """The environment of a shell in which luna works with `stack`, and nothing else."""
    return {
        "PATH": str(KEYTURN.parent),
        "TEMPORAL_ADDRESS": stack.address,
        "DATABASE_URL": stack.database,
        "KEYTURN_PAYLOAD_KEYS_FILE": str(stack.keys),
        "KEYTURN_USER": "luna",
    }
