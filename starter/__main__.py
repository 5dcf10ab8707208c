"""`python -m starter` is `keyturn`."""

from starter.cli import main

if __name__ == "__main__":
    main()
