"""What the failure of a request means, and asking again."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import httpx

from worker.registry.config import DEFAULT_FILE
from worker.registry.errors import (
    BadRegistry,
    RegistryBusy,
    RegistryError,
    RegistryUnavailable,
)
from worker.registry.retry import Failure, wait_before_retry

log = logging.getLogger(__name__)

GAIN_BYTES: Final = 64 << 10
"""An attempt that brought so much was no failure: the count of those begins anew."""

LONG_S: Final = 5.0
"""Who waits for longer wants to know what for."""

T = TypeVar("T")


class Trouble(Exception):
    """A request failed in a way that may pass. Never leaves this package."""

    def __init__(
        self, failure: Failure, text: str, *, status: int = 0, asked_s: float | None = None
    ) -> None:
        super().__init__(failure, text, status, asked_s)
        self.failure = failure
        self.text = text
        self.status = status
        self.asked_s = asked_s

    def settled(self, failed: int) -> RegistryError:
        """Return the error to give up with, after ``failed`` failures in a row."""
        if self.status == 429:
            wait = "" if self.asked_s is None else f"; it asks to wait {self.asked_s:.0f} s"
            return RegistryBusy(f"{self.text}: too many requests{wait}. Log in, or try later")
        again = "" if failed == 1 else f", {failed} times in a row"
        return RegistryUnavailable(f"{self.text}{again}; try again later")


def ended_early(response: httpx.Response, text: str) -> Trouble | RegistryError:
    """Return what it means that a whole body is shorter than it should be: a lie, or a cut."""
    ends_by_closing = response.headers.keys().isdisjoint(
        ("content-length", "transfer-encoding")
    )
    return Trouble(Failure.CUT, text) if ends_by_closing else BadRegistry(text)


async def retrying(
    once: Callable[[], Awaitable[T]], *, gained: Callable[[], int] = lambda: 0
) -> T:
    """Do ``once`` until it does not fail in a way that may pass.

    Args:
        once: one attempt.
        gained: bytes that are there for certain. What is lost and comes again is no gain, so
            that a link which always breaks at the same place is given up.

    Raises:
        RegistryError: it went on failing, or failed for good.
    """
    failed = 0
    most = gained()
    while True:
        try:
            return await once()
        except Trouble as exc:
            failed = 1 if gained() - most >= GAIN_BYTES else failed + 1
            most = max(most, gained())
            wait_s = wait_before_retry(exc.failure, failed=failed, asked_s=exc.asked_s)
            if wait_s is None:
                raise exc.settled(failed) from exc
            is_long = exc.failure is Failure.STALLED or wait_s >= LONG_S
            level = logging.WARNING if is_long else logging.INFO
            log.log(level, "asked again reason=%s wait_s=%.2f", exc.text, wait_s)
            await asyncio.sleep(wait_s)


def trouble(exc: httpx.TransportError, name: str) -> Trouble | RegistryError:
    """Return what the failure of a connection means."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RegistryError(
            f"{name}: nobody we know vouches for its certificate ({cause.verify_message});"
            " configure its `ca`"
        )
    if isinstance(cause, ssl.SSLError) and isinstance(exc, httpx.ConnectError):
        return RegistryError(
            f"{name}: it does not speak TLS ({cause.reason}); if it is meant to speak plain"
            f' HTTP, say `http = true` below [registry."{name}"] in this worker\'s --registries'
            f" file ({DEFAULT_FILE}, if none is given)"
        )
    # The library looks at where it is redirected to even when it is not to follow.
    if isinstance(exc, httpx.UnsupportedProtocol) or isinstance(
        exc.__context__, httpx.InvalidURL
    ):
        return BadRegistry(f"{name}: {exc}")
    if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
        return Trouble(
            Failure.UNREACHED, f"{name}: cannot be reached: {str(exc) or 'no answer'}"
        )
    if isinstance(exc, httpx.TimeoutException):
        return Trouble(Failure.STALLED, f"{name}: it fell silent")
    return Trouble(Failure.CUT, f"{name}: the connection broke: {exc}")
