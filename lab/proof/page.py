"""The page of a proof, docs/proof.md: each run writes the tables of its own results."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
Row = Mapping[str, Any]


def rewrite(page: str, rows: Sequence[Row]) -> str:
    """Return a page with the results `rows` in the place that is marked for them: a proof's, or a soak's."""
    soaked = any(str(row["name"]).startswith("soak: ") for row in rows)
    place, tables = ("soak", _soak_table(rows)) if soaked else ("run", _proof_tables(rows))
    return re.sub(rf"(?s)(<!-- {place} -->\n).*?(<!-- end -->)", lambda found: found[1] + tables + found[2], page)


def _proof_tables(rows: Sequence[Row]) -> str:
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    happens: dict[str, str] = {}
    others = []
    for row in rows:
        fault, _, database = str(row["name"]).partition(" on ")
        what, said, figures = str(row["detail"]).rpartition(": ")
        if said and database in DATABASES and " " not in fault and fault != "all":
            happens.setdefault(fault, what)
            cells[fault][database] = figures + ("" if row["holds"] else " **violated**")
        else:
            others.append(f"- {row['name']}: {row['detail']}{'' if row['holds'] else ' **does not hold**'}\n")
    here = [database for database in DATABASES if any(database in of_it for of_it in cells.values())]
    table = f"| fault | what happens | {' | '.join(DATABASES[one] for one in here)} |\n|---|---|{'---|' * len(here)}\n"
    for fault, of_it in cells.items():
        table += f"| `{fault}` | {happens[fault]} | {' | '.join(of_it.get(one, '-') for one in here)} |\n"
    return f"{table}\n{''.join(others)}"


def _soak_table(rows: Sequence[Row]) -> str:
    table = "| figure | ratio | reach | |\n|---|---|---|---|\n"
    for row in rows:
        name = str(row["name"]).removeprefix("soak: ")
        table += f"| {name} | {row['ratio']} | {row['reach']} | {row['detail']} |\n"
    return table
