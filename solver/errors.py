"""What can go wrong in a build, by what the caller does about it."""

from asyncio import CancelledError
from typing import Final

from filesync.errors import FilesyncError, Unavailable

WORKERS_OWN: Final = frozenset(
    {"store", "no-runtime", "runtime-failed", "git-missing", "registry-unavailable"}
)
"""Codes of failures that may be one worker's own, as a full disk is: another may do what it could not."""


class StepFailed(FilesyncError):
    """An op ran and failed, or cannot succeed anywhere. The build ends.

    Attributes:
        position: the step, by its place in the graph.
        name: the step, for people.
        detail: the reason.
        exit_status: of the command, if it was one.
        tail: the last lines that it printed.
    """

    code = "step-failed"

    def __init__(
        self,
        position: int,
        name: str,
        detail: str,
        exit_status: int | None = None,
        tail: str = "",
        reason: str = "step-failed",
    ) -> None:
        super().__init__(position, name, detail, exit_status, tail, reason)
        self.position = position
        self.name = name
        self.detail = detail
        self.exit_status = exit_status
        self.tail = tail
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


class OrderFailed(FilesyncError):
    """A worker answered an order with Failed.

    Attributes:
        worker: its name.
        reason: the code of what went wrong there.
        detail: the sentence.
    """

    code = "order-failed"

    def __init__(
        self,
        worker: str,
        reason: str,
        detail: str,
        exit_status: int | None = None,
        tail: str = "",
    ) -> None:
        super().__init__(worker, reason, detail, exit_status, tail)
        self.worker = worker
        self.reason = reason
        self.detail = detail
        self.exit_status = exit_status
        self.tail = tail

    def __str__(self) -> str:
        return f"worker {self.worker}: {self.detail}"


class WorkerLost(Unavailable):
    """A worker fell silent or left while it had an order. Its work runs elsewhere."""

    code = "worker-lost"

    def __init__(self, worker: str) -> None:
        super().__init__(worker)
        self.worker = worker

    def __str__(self) -> str:
        return f"worker {self.worker} is gone"


class ManagerLost(Unavailable):
    """The manager does not answer. Finished results are kept by the workers: build again."""

    code = "manager-lost"


class CutOff(Unavailable):
    """A build cannot go on: its manager, or who has the result, is gone. It can be begun again.

    Attributes:
        what: happened, without what to do about it.
    """

    code = "cut-off"

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self._remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; what was built is kept: {self._remedy}"


class NoWorker(FilesyncError):
    """No worker can run a step: none is connected, or none has the labels asked for."""

    code = "no-worker"


class InputLost(Unavailable):
    """The last worker that held an input is gone; the input is built again."""

    code = "input-lost"

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position

    def __str__(self) -> str:
        return f"no worker has the result of step {self.position} any more"


class BuildError(FilesyncError):
    """A build ended without a result.

    Attributes:
        reason: the code of what went wrong.
        exit_status: of the command that failed, if one did.
        tail: the last lines that it printed.
    """

    code = "build-failed"

    def __init__(
        self, reason: str, detail: str, exit_status: int | None = None, tail: str = ""
    ) -> None:
        super().__init__(reason, detail, exit_status, tail)
        self.reason = reason
        self.detail = detail
        self.exit_status = exit_status
        self.tail = tail

    def __str__(self) -> str:
        return f"{self.detail}\n{self.tail}".rstrip() if self.tail else self.detail


def first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first real failure of a group, however deep."""
    for exc in group.exceptions:
        found = first_failure(exc) if isinstance(exc, BaseExceptionGroup) else exc
        if not isinstance(found, CancelledError):
            return found
    return group.exceptions[0]
