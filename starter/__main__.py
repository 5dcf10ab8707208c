"""`python -m keyturn.starter` is `keyturn`."""

from keyturn.starter.cli import main

if __name__ == "__main__":
    main()
