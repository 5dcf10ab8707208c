"""How often a key has encrypted is counted over the fleet, and said long before it may matter."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from keyturn.key_use import LIMIT, WARN_AT, KeyUse, keys_to_replace
from keyturn.keyring_files import new_keyring_text, parse_keyring


async def test_counts_of_many_workers_add_up(engine: AsyncEngine) -> None:
    use = KeyUse(engine)
    await asyncio.gather(*(use.add({"newer": 10, "older": 1}) for _ in range(20)))
    assert await use.totals() == {"newer": 200, "older": 20}


async def test_a_key_is_worn_at_half_of_what_it_may(engine: AsyncEngine) -> None:
    use = KeyUse(engine)
    assert keys_to_replace(await use.add({"newer": WARN_AT - 1})) == []
    assert keys_to_replace(await use.add({"newer": 1})) == ["newer"]
    assert WARN_AT * 2 == LIMIT == 2**32


def test_a_keyring_counts_each_encryption_once() -> None:
    keyring = parse_keyring(new_keyring_text(), source="a test")
    for _ in range(3):
        key_id, _ = keyring.encrypt(b"x", b"here")
    counted = keyring.take_encryptions()
    assert counted == {key_id: 3}
    assert keyring.take_encryptions() == {}
    keyring.give_back_encryptions(counted)
    keyring.encrypt(b"x", b"here")
    assert keyring.take_encryptions() == {key_id: 4}
