"""Prometheus' own tool, where `make tools` has built it: whether it accepts figures, and answers queries from them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
_BUILT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyturn" / "tools" / "promtool"
PROMTOOL = shutil.which("promtool") or (str(_BUILT) if _BUILT.exists() else None)
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (make tools)")
_SERIES = re.compile(r"^([a-z_]+(?:\{.*\})?) \S+$", re.MULTILINE)


def expect_accepted(figures: str) -> None:
    """Expect that Prometheus' linter has nothing to say of them."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=figures, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def queries_of_the_dashboard() -> list[str]:
    """What its panels ask, over five minutes."""
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "keyturn.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [re.sub(r"\$__(rate_interval|range)", "5m", query) for query in asked]


def unanswered(queries: Iterable[str], figures: str, folder: Path) -> list[str]:
    """The queries that have no answer where every series of a scrape rises steadily."""
    assert PROMTOOL is not None
    series = [{"series": name, "values": "0+3x20"} for name in _SERIES.findall(figures)]
    series.append({"series": 'up{job="keyturn-worker", instance="a"}', "values": "1x20"})
    silent = []
    for query in queries:
        counted = {"expr": f"count({query})", "eval_time": "15m", "exp_samples": []}
        test = {"interval": "1m", "input_series": series, "promql_expr_test": [counted]}
        file = folder / "query.yml"
        file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
        done = subprocess.run(
            [PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
        )
        assert "error" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
        if done.returncode == 0:  # nothing was expected, and nothing came
            silent.append(query)
    return silent
