"""The keyring of the suite. Names of accounts stay plain in it, so that tests may name workflows by them."""

from keyturn.keyring import PSEUDONYM, AccountNames, Keyring
from keyturn.keyring_files import new_key_line, parse_keyring

OLDER, NEWER = new_key_line("older"), new_key_line("newer")
PSEUDONYMS = new_key_line(PSEUDONYM)
KEYS_TEXT = f"{NEWER}\n{PSEUDONYMS}\n"
KEYRING = parse_keyring(KEYS_TEXT, source="tests", account_names="plain")


def ring(*lines: str, account_names: AccountNames = "plain", accepts_plain: bool = False) -> Keyring:
    """A keyring of these lines, the newest first."""
    text = "\n".join([*lines, PSEUDONYMS])
    return parse_keyring(text, source="tests", account_names=account_names, accepts_plain=accepts_plain)
