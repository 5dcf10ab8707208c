"""What a task is: a request, a prompt with a stable beginning, the shape of the answer, and its business checks."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import JsonValue

from keyturn.canonical import canonical_json
from keyturn.contracts import Contract, ModelTask
from keyturn.policy.line import PolicyLine
from keyturn.rotations.decisions import Rejection
from keyturn.tasks.errors import UnknownPromptVersion

RequestT = TypeVar("RequestT", bound=ModelTask)
ProposalT = TypeVar("ProposalT")
VerdictT = TypeVar("VerdictT")

Section = tuple[str, JsonValue]
"""A named part of the document that a model reads; named parts in an order, because the order carries meaning."""


@dataclass(frozen=True)
class Reading:
    """How a model read a request: its unchecked proposal, if there is one, and why that was not accepted."""

    provider: str
    model: str
    proposed: object
    reason: str


@dataclass(frozen=True)
class Prompt:
    """What a provider is asked: our instructions, the data as one JSON document, and the schema of the answer.

    `stable` is the document's beginning, the same byte for byte for every request under the same policy lines, so that
    a provider's prompt cache can serve it; `varying` is the rest. `schema` is None where plain text is asked for.
    """

    version: str
    system: str
    stable: str
    varying: str
    schema_name: str
    schema: dict[str, JsonValue] | None
    max_output_tokens: int

    @property
    def user(self) -> str:
        """The whole document."""
        return self.stable + self.varying

    @property
    def prefix_key(self) -> str:
        """A short name of the shared prefix, by which a provider may send equal prefixes to the same cache."""
        return f"{self.version}:{hashlib.sha256((self.system + self.stable).encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Task(Generic[RequestT, ProposalT, VerdictT]):
    """One kind of model call.

    Attributes:
        name: as in `ModelTask.task`; the same as its folder.
        request: the contract of the question; its defaults state prompt version and timeout.
        proposal: the unchecked shape of the answer; None where the answer is plain text.
        answer: what an accepted answer is. Never the proposal itself.
        schema: the JSON schema that the provider is asked to follow; None for plain text.
        stable: the document's beginning, from the policy lines alone.
        varying: the rest of it, from request, lines and time; all that users and inventories supply is here.
        judge: the business checks, at a time; pure, and it never raises for what a model wrote.
        max_output_tokens: where an answer is cut off.
        max_cost_usd: a call estimated above it is refused before it is made.
        cache_for: how long an accepted answer may be given again for the same input; None if it is not repeatable.
        prompts: wording by version.
        by_rule: answers a request that asks for no model; returns None where a model must be asked. None for tasks that
            have no rules.
        disagree: what becomes of answers that contradict the evidence, given what each model said and why it was not
            accepted; None for tasks in which no answer can.
    """

    name: str
    request: type[RequestT]
    proposal: type[Contract] | None
    answer: type[VerdictT]
    schema: dict[str, JsonValue] | None
    stable: Callable[[Sequence[PolicyLine]], list[Section]]
    varying: Callable[[RequestT, Sequence[PolicyLine], datetime | None], list[Section]]
    judge: Callable[[ProposalT, RequestT, Sequence[PolicyLine], datetime | None], VerdictT | Rejection]
    max_output_tokens: int
    max_cost_usd: Decimal
    cache_for: timedelta | None
    prompts: Mapping[str, str]
    by_rule: Callable[[RequestT, Sequence[PolicyLine], datetime], VerdictT | None] | None = None
    disagree: Callable[[RequestT, Sequence[PolicyLine], Sequence[Reading], datetime], Contract] | None = None

    def prompt(self, request: RequestT, lines: Sequence[PolicyLine], at: datetime | None = None) -> Prompt:
        """Return the prompt for `request`; raises UnknownPromptVersion, naming the versions that there are.

        Args:
            request: what to ask.
            lines: its policy lines.
            at: when it is asked; None for the evidence's own time.
        """
        # By hand and not by canonical JSON of the whole, which would sort the order away.
        stable = ",\n".join(_section_text(section) for section in self.stable(lines))
        varying = ",\n".join(_section_text(section) for section in self.varying(request, lines, at))
        return Prompt(
            version=request.prompt_version,
            system=self.instructions(request.prompt_version),
            stable="{" + stable + (",\n" if stable else ""),
            varying=varying + "}",
            schema_name=self.name,
            schema=self.schema,
            max_output_tokens=self.max_output_tokens,
        )

    def instructions(self, version: str) -> str:
        """Return the wording of one version; raises UnknownPromptVersion."""
        if version not in self.prompts:
            known = ", ".join(sorted(self.prompts))
            raise UnknownPromptVersion(f"{self.name} has no prompt {version!r}. Known prompts: {known}")
        return self.prompts[version]

    @property
    def default_prompt_version(self) -> str:
        """The version that requests name unless they say otherwise."""
        return str(self.request.model_fields["prompt_version"].default)


def prompts_beside(file: str) -> dict[str, str]:
    """Return the prompts (`NAME@VERSION.md`) in the folder of `file`, by their version."""
    return {prompt.stem: prompt.read_text(encoding="utf-8") for prompt in sorted(Path(file).parent.glob("*@*.md"))}


def policy_section(lines: Sequence[PolicyLine]) -> list[Section]:
    """Return the policy lines in a fixed order: the usual stable beginning."""
    return [("policy_lines", [_line_as_json(line) for line in sorted(lines, key=lambda line: line.id)])]


def answer_schema(**properties: JsonValue) -> dict[str, JsonValue]:
    """Return a JSON schema of an object that must have exactly these properties, as strict structured output asks."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@lru_cache(maxsize=1_024)  # the same lines in every call; more than that many are in no catalogue
def _line_as_json(line: PolicyLine) -> JsonValue:
    return line.model_dump(mode="json", include={"id", "wording", "applies_to", "window_days", "rule", "approval"})


def _section_text(section: Section) -> str:
    name, value = section
    return f"{canonical_json(name)}:{canonical_json(value)}"
