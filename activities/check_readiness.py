"""`check_readiness`: whether the worker that runs it can do its work."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

NOT_READY = "worker_not_ready"


class CheckReadiness:
    """The activity `check_readiness`, on `checks` by name, each of which raises if something is missing."""

    def __init__(self, checks: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        self._checks = checks

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """All of them, as a worker registers them."""
        return [self.check_readiness]

    @activity.defn
    async def check_readiness(self) -> None:
        """Run every check; raises an ApplicationError that names the one that failed, and is retried."""
        for name, check in self._checks.items():
            try:
                await check()
            except Exception as error:
                message = f"{name}: {type(error).__name__}; `keyturn doctor` beside this worker says more"
                raise ApplicationError(message, type=NOT_READY) from None
