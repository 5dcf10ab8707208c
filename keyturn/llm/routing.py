"""Routes: which provider and model a task asks, and which it asks next when one is unavailable or overloaded."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from keyturn.calls import FailedAttempt
from keyturn.errors import KeyturnError
from keyturn.llm.endpoint import LEAST_SECONDS_TO_ASK, Timeouts
from keyturn.llm.errors import (
    EndpointBusy,
    ProviderError,
    ProviderKeyUnavailable,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from keyturn.llm.outages import Outages
from keyturn.llm.wire import Completion, OnText
from keyturn.tasks.definition import Prompt
from keyturn.tasks.errors import UnknownTask

QUOTA_PASSES = "[next-on-quota]"  # behind a model: where its quota is used up, the next one is asked
DEFAULT = "*"  # the route of every task without its own

# A handshake takes a second over a bad network; 5 s outlast one lost packet, and a server that is not there by then is
# not there.
CONNECT_SECONDS = 5.0
# Where another provider follows, a silent one gets this share of what is left: most of it, because answers come whole
# and the first byte is nearly the last, and still enough for the next one to answer.
SHARE_BEFORE_NEXT = 0.6
# With less than this left, no provider can answer: the next one is not asked in vain.
LEAST_SECONDS = 0.5
# What sends a call to the next provider. A failure that a person must fix, a refusal and an invalid answer never do:
# the next one would hide what a person has to fix, or be asked until one says yes.
_PASSES_ON = (ProviderUnavailable, ProviderTimeout, RateLimited)
# Failures that say nothing of the provider: this worker had no key, or as many calls as it may make.
_NOT_ASKED = (EndpointBusy, ProviderKeyUnavailable)


Route = TypeVar("Route")


class Target(NamedTuple):
    """An endpoint's name and its model; and whether the next one is asked where its quota is used up."""

    provider: str
    model: str
    passes_quota_on: bool = False

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}{QUOTA_PASSES if self.passes_quota_on else ''}"


class ModelClient(Protocol):
    """A model behind any wire format."""

    name: str
    model: str
    passes_quota_on: bool

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts, trace_id: str, on_text: OnText | None = None
    ) -> Completion:
        """Ask once, in pieces if `on_text` is given; raises a ProviderError."""
        ...


@dataclass
class RouteResult:
    """What came of asking a route: who answered, and who was asked before and did not."""

    provider: ModelClient
    completion: Completion
    passed_over: tuple[FailedAttempt, ...] = ()


class RouteFailed(Exception):
    """No provider of the route answered. `error` is the first one's own failure; `passed_over` has all of them."""

    def __init__(self, error: KeyturnError, passed_over: tuple[FailedAttempt, ...]) -> None:
        super().__init__(str(error))
        self.error = error
        self.passed_over = passed_over


def parse_routes(text: str, tasks: Collection[str], endpoints: Collection[str]) -> dict[str, tuple[Target, ...]]:
    """Return the routes by task that `text` states.

    Written as `ENDPOINT:MODEL, ENDPOINT:MODEL` for every task, or as `TASK = ROUTE; * = ROUTE`. Behind a model,
    `[next-on-quota]` says that the next one is asked where its quota is used up.

    Args:
        text: as it is set.
        tasks: the names of all tasks.
        endpoints: the names of all endpoints.

    Raises:
        ValueError: an unknown task or endpoint, a model twice in one route, or a task without a route.
    """
    routes: dict[str, tuple[Target, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        task, equals, listed = part.partition("=")
        task, listed = (task.strip(), listed) if equals else (DEFAULT, part)
        if task != DEFAULT and task not in tasks:
            raise ValueError(f"there is no task {task[:48]!r}; tasks: {', '.join(sorted(tasks))}")
        if task in routes:
            raise ValueError(f"{task} has two routes")
        routes[task] = _route(listed, endpoints)
    missing = [] if DEFAULT in routes else sorted(set(tasks) - set(routes))
    if missing:
        raise ValueError(f"no route for {', '.join(missing)}: add one, or a route for *")
    return routes


def route_of(routes: Mapping[str, Route], task: str) -> Route:
    """Return the route of a task: its own, or the default one; raises UnknownTask."""
    route = routes.get(task) or routes.get(DEFAULT)
    if route is None:
        raise UnknownTask(f"the task {task} has no route")
    return route


async def ask_in_turn(
    route: Sequence[ModelClient],
    prompt: Prompt,
    *,
    deadline: float,
    trace_id: str,
    admit: Callable[[ModelClient], Awaitable[None]],
    on_text: OnText | None = None,
    outages: Outages | None = None,
) -> RouteResult:
    """Ask the providers of `route` in turn, each at most once, until one answers.

    Args:
        route: whom to ask, in order.
        prompt: what to ask.
        deadline: by `time.monotonic()`, when the whole call must have ended.
        trace_id: sent along.
        admit: raises a KeyturnError if a provider may not be asked this.
        on_text: see `HttpModelClient.complete`; when the next provider is asked, the text starts over.
        outages: who is down, as far as is known: those are asked last.

    Raises:
        RouteFailed: no provider answered. The first one's failure counts, and its message names the others'.
    """
    failures: list[tuple[ModelClient, KeyturnError]] = []
    outages = outages or Outages()
    route = outages.in_order(route, _name)
    for place, provider in enumerate(route):
        left = deadline - time.monotonic()
        if failures and left < LEAST_SECONDS:
            break
        timeouts = _timeouts(max(left, 0.0), followed=False)
        try:
            await admit(provider)
            left = deadline - time.monotonic()  # looking up what the user has spent took some of it
            # No time is reserved for a provider that is down: it is asked only where no other answers.
            followed = any(not outages.is_open(_name(later)) for later in route[place + 1 :])
            timeouts = _timeouts(max(left, 0.0), followed=followed)
            outages.record_attempt(_name(provider))
            completion = await provider.complete(prompt, timeouts=timeouts, trace_id=trace_id, on_text=on_text)
        except KeyturnError as error:
            failures.append((provider, error))
            own_haste = isinstance(error, ProviderTimeout) and timeouts.first_byte < LEAST_SECONDS_TO_ASK
            was_asked = isinstance(error, ProviderError) and not isinstance(error, _NOT_ASKED)
            if was_asked and not own_haste:
                outages.record_failure(_name(provider), error)
            passes = isinstance(error, _PASSES_ON) or (isinstance(error, QuotaExhausted) and provider.passes_quota_on)
            if not passes:
                break
        else:
            outages.record_answer(_name(provider))
            return RouteResult(provider, completion, _failed_attempts(failures))
    # The only provider asked has no failed attempts before it.
    raise RouteFailed(_first_with_all_messages(failures), _failed_attempts(failures) if len(failures) > 1 else ())


def _name(provider: ModelClient) -> tuple[str, str]:
    return provider.name, provider.model


def _timeouts(left: float, *, followed: bool) -> Timeouts:
    first_byte = left * SHARE_BEFORE_NEXT if followed else left
    return Timeouts(connect=min(CONNECT_SECONDS, first_byte), first_byte=first_byte, total=left)


def _failed_attempts(failures: Sequence[tuple[ModelClient, KeyturnError]]) -> tuple[FailedAttempt, ...]:
    return tuple(
        FailedAttempt(provider=provider.name, model=provider.model, failure=error.kind) for provider, error in failures
    )


def _first_with_all_messages(failures: Sequence[tuple[ModelClient, KeyturnError]]) -> KeyturnError:
    """The first failure, with the others' messages behind its own: it is the one to fix, and none is hidden."""
    (_, first), *others = failures
    if others and isinstance(first, ProviderError):
        messages = "; ".join(f"{provider.name}: {error}" for provider, error in failures)
        return type(first)(messages, retry_after=first.retry_after)
    return first


def _route(listed: str, endpoints: Collection[str]) -> tuple[Target, ...]:
    targets = []
    for entry in filter(None, (entry.strip() for entry in listed.split(","))):
        endpoint, colon, model = (part.strip() for part in entry.partition(":"))
        passes_quota_on = model.endswith(QUOTA_PASSES)
        model = model.removesuffix(QUOTA_PASSES).strip()
        if not colon or not model or len(model) > 128 or not model.isprintable():
            raise ValueError(f"{entry[:80]!r} is not ENDPOINT:MODEL")
        if endpoint not in endpoints:
            raise ValueError(f"there is no endpoint {endpoint[:48]!r}; endpoints: {', '.join(endpoints)}")
        targets.append(Target(endpoint, model, passes_quota_on))
    if not targets:
        raise ValueError("a route names no model")
    if len({target[:2] for target in targets}) != len(targets):
        raise ValueError("a route names one model twice: each is asked once per attempt")
    if targets[-1].passes_quota_on:
        raise ValueError(f"{targets[-1]} is the last of its route: there is no next one")
    return tuple(targets)
