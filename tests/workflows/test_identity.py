"""The workflow id is the idempotency key: as many ids as rotations."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from keyturn.contracts import PolicyRef
from keyturn.workflows.identity import plain, stored_id, workflow_id_of

names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:/@+=,-]{0,20}\Z")
lines = st.sets(
    st.tuples(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._@+=-]{0,10}\Z"), st.integers(1, 99)), min_size=1, max_size=3
)
rotations = st.tuples(names, names, names, lines)


def id_of(rotation: tuple[str, str, str, set[tuple[str, int]]]) -> str:
    tenant, account, key, refs = rotation
    return workflow_id_of(tenant, account, key, [PolicyRef(id=name, version=version) for name, version in refs])


def test_an_id_is_readable() -> None:
    """An operator sees account, key, policy line and its version."""
    line = PolicyRef(id="P-7", version=1)
    assert workflow_id_of("default", "acct_10234", "key_1", [line]) == "rotate:default:acct_10234:key_1:P-7@1"


def test_the_order_of_policy_lines_does_not_matter() -> None:
    """The same lines are the same question."""
    a, b = PolicyRef(id="P-7", version=1), PolicyRef(id="P-8", version=2)
    assert workflow_id_of("t", "a", "k", [a, b]) == workflow_id_of("t", "a", "k", [b, a])


@given(rotations, rotations)
def test_two_rotations_never_share_an_id(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    """No choice of names can make one rotation's id another's."""
    assert (id_of(one) == id_of(other)) == (one == other)


def test_no_id_is_longer_than_temporals_stores_keep_and_each_is_still_the_only_one_of_its_kind() -> None:
    """Their columns have 255 characters; plain names and eight lines had 334."""
    lines = [PolicyRef(id=f"LINE-{'x' * 50}-{n}", version=1) for n in range(8)]
    accounts = [f"arn:aws:iam::123456789012:user/{'division/' * 50}svc-{n}" for n in range(20)]
    ids = {workflow_id_of("tenant", account, f"key_{n}", lines[: n % 8 + 1]) for n, account in enumerate(accounts)}
    assert len(ids) == len(accounts)
    assert max(map(len, ids)) <= 255
    for account in accounts:
        whole = workflow_id_of("tenant", account, "key_1", lines)
        assert workflow_id_of("tenant", account, "key_1", lines) == whole
        assert stored_id(whole, plain) == whole
        long = ":".join(["rotate", "tenant", quote(account, safe=""), "key_1", "P-7@1"])
        assert stored_id(long, plain) == workflow_id_of("tenant", account, "key_1", [PolicyRef(id="P-7", version=1)])
