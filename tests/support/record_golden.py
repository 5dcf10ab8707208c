"""Write the golden payloads anew: `make golden`. The difference is what a reviewer reads."""

import json

from keyturn.policy.catalogue import load_catalogue
from keyturn.tasks.registry import load_tasks
from tests.keyturn.test_providers import GOLDEN
from tests.support.boundaries import WIRES
from tests.support.cases import GOLDEN_TIME, QUESTION, facts, request

if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    asked = request(credential=facts(key_id="key_1", observed_at=GOLDEN_TIME))
    fields = {"trace_id": "t", "account_id": "acct_10234", "question": QUESTION, "policy_lines": asked.policy_lines}
    lines = load_catalogue().resolve(asked.policy_lines)
    tasks = load_tasks()
    for name, posed in (("decide_rotation", asked), ("draft_reply", tasks["draft_reply"].request(**fields))):
        prompt = tasks[name].prompt(posed, lines)
        for wire, form in WIRES.items():
            text = json.dumps(form.payload("simulator-1", prompt), indent=2, ensure_ascii=False)
            (GOLDEN / f"{name}.{wire}.json").write_text(text + "\n")
