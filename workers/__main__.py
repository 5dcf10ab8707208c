"""`python -m workers` is `keyturn worker`."""

from keyturn.console import run_and_leave
from workers.commands import worker

if __name__ == "__main__":
    run_and_leave(lambda: worker(prog_name="python -m workers"))
