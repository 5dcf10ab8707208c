"""`python -m keyturn.workers` is `keyturn worker`."""

from keyturn.console import run_and_leave


def main() -> None:
    """Import the worker when the process is prepared for it, and run it."""
    from keyturn.workers.run import serve_worker

    serve_worker()


if __name__ == "__main__":
    run_and_leave(main)
