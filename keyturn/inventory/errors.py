"""A file that is no inventory, or may not be read."""

from keyturn.errors import KeyturnError


class InventoryError(KeyturnError):
    """A file of keys."""

    kind = "inventory_error"
    next_step = "fail_and_fix_request"


class InventoryRefused(InventoryError):
    """A worker may not read this file: it is in another folder, no regular file, or too large."""

    kind = "inventory_refused"
    hint = "Put it below the worker's KEYTURN_INVENTORY_ROOT, as a regular file."


class InventoryInvalid(InventoryError):
    """The file is no inventory of a known format.

    `without_quotes` is the message without any text of the file, for readers to whom the file does not belong.
    """

    kind = "inventory_invalid"
    hint = "Give one of the formats in docs/reference/inventories.md; `keyturn inventory check FILE` says more."

    def __init__(self, message: str, *, without_quotes: str | None = None) -> None:
        super().__init__(message)
        self.without_quotes = without_quotes or message
