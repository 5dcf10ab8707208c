"""The database's URL, as people's tools hand it over."""

import pytest

from keyturn.database import database_url


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
@pytest.mark.parametrize("url", ["sqlite:////srv/keyturn.db", "postgresql://keyturn@db.example.com/keyturn"])
def test_the_line_break_of_a_file_is_no_part_of_the_name(url: str, end: str) -> None:
    """`kubectl create secret --from-file` keeps it: SQLite would make another file in silence."""
    assert database_url(url + end) == database_url(url)
