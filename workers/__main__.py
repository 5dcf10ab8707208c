"""`python -m keyturn.workers` is `keyturn worker`."""

from keyturn.console import run_and_leave
from keyturn.workers.run import serve_worker

if __name__ == "__main__":
    run_and_leave(serve_worker)
