"""`python -m workers` is `keyturn worker`."""

import sys

from keyturn.errors import KeyturnError
from workers.commands import worker

if __name__ == "__main__":
    try:
        worker(prog_name="python -m workers")
    except KeyturnError as error:
        sys.exit(error.told)
