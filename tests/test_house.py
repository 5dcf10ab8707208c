"""How the code is arranged: no module grows without a reason."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 250
# What stays together although it is longer, and why.
LONGER = {
    "workflows/rotation.py": "one workflow, from the decision to its job: its steps are read, and replayed, as one",
    "workflows/bulk.py": "one workflow: pages, pauses and its end change the same state",
    "workflows/rotate_key.py": "one workflow: each step of a key's rotation and what undoes it",
    "keyturn/execution/steps.py": "nine steps on one key, each of which looks first at what the others left",
    "keyturn/jobs/store.py": "everything that may create, join or withdraw a job, under one set of fences",
    "keyturn/jobs/leases.py": "everything that may change a claimed job, under one token",
    "keyturn/llm/boundary.py": "the one way to a model: order, limits, judgement, cache and record of a call",
    "keyturn/llm/http.py": "one request to a provider, whole or as a stream, and its failures",
    "keyturn/llm/classify.py": "one table of what providers' errors mean, and its readers",
    "keyturn/policy/grounding.py": "the gate: read from top to bottom as the proof does",
    "keyturn/bulk/pages.py": "a page's keys pass every check in one place",
    "keyturn/bulk/store.py": "all statements on runs and their items",
    "desk/desk.py": "all that page and API may do, on one object that holds the tenant",
    "desk/pages.py": "a route of the page each, with its form",
    "workers/wiring.py": "the one place that names concrete classes",
    "workers/endpoints.py": "one table of the endpoints' file, with each fault by its place",
    "workers/codec.py": "one server: who may decrypt, and what is logged of it",
    "starter/schedules.py": "the commands of one group, with their options",
    "starter/people.py": "the commands of one group, with their options",
    "starter/jobs.py": "the commands of one group, with their options",
    "starter/policy.py": "the commands of one group, with their options",
}
FOLDERS = ("activities", "application", "desk", "keyturn", "starter", "workers", "workflows")


def modules() -> dict[str, int]:
    found: dict[str, int] = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):  # which follows no links, as those of keyturn/
            found[str(file.relative_to(ROOT))] = len(file.read_text().splitlines())
    return found


def test_a_module_that_is_long_says_why() -> None:
    lengths = modules()
    assert len(lengths) > 200, "the folders are where they were"
    longer = {name for name, lines in lengths.items() if lines > MOST_LINES}
    assert longer == set(LONGER)
