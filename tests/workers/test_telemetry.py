"""What a worker's log shows: one line of what was expected, everything of what nobody foresaw."""

import json
import subprocess
import sys

SCRIPT = """
import logging, sys
from temporalio.exceptions import ApplicationError
from keyturn.activities.failures import application_error
from keyturn.ledger.records import log_call
from keyturn.llm.errors import QuotaExhausted
from keyturn.workers.telemetry import configure_logging
from tests.keyturn.test_ledger import call

configure_logging(sys.argv[1])
of = {"activity_type": "decide", "attempt": 3, "workflow_id": "rotate:default:~1:~2:P-7@1", "namespace": "default"}
for error in (application_error(QuotaExhausted("the quota is used up"), attempt=3, remaining=None), RuntimeError("x")):
    try:
        raise error
    except Exception:
        logging.getLogger("temporalio.activity").warning(
            f"Completing activity as failed ({of})", exc_info=True, extra={"temporal_activity": of}
        )
log_call(call(failure=None))
"""


def logged(log_format: str) -> str:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=True)
    return ran.stderr


def test_a_failure_with_a_name_is_one_line_and_one_that_nobody_foresaw_keeps_its_traceback() -> None:
    """The line has the workflow by which the rest is found, the error's name, and what to do now."""
    named, unforeseen, _ = [json.loads(line) for line in logged("json").splitlines()]
    assert (named["event"], named["kind"], named["activity"]) == ("attempt_failed", "quota_exhausted", "decide")
    assert (named["attempt"], named["workflow_id"]) == (3, "rotate:default:~1:~2:P-7@1")
    assert named["hint"]
    assert "exception" not in named
    assert "RuntimeError: x" in unforeseen["exception"]


def test_a_call_fits_on_a_line_of_a_terminal_and_has_every_field_as_json() -> None:
    lines = logged("console").splitlines()
    (line,) = [line for line in lines if "model_call" in line]
    assert len(line) < 260
    assert "trace_id" in line
    assert "prompt_version" not in line
    assert len([line for line in lines if "attempt_failed" in line]) == 1
    *_, call = [json.loads(line) for line in logged("json").splitlines()]
    assert {"prompt_version", "passed_over", "finish_reason", "trace_id"} <= set(call)
