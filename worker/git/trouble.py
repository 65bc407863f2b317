"""What it means that git failed.

Importing this takes httpx, which is slow: do it where it is needed.
"""

import errno
import os
import re
from typing import Final

from filesync.errors import FilesyncError, StoreError
from worker.git.errors import BadRepository
from worker.git.listing import MAX_BYTES
from worker.registry.errors import NotInRegistry, RegistryDenied, RegistryError
from worker.registry.retry import Failure, is_transient
from worker.registry.trouble_http import Trouble
from worker.wire.urls import without_secrets

_MAX_SHOWN: Final = 300
_STATUS: Final = re.compile(r"returned error: (\d{3})|HTTP (\d{3})")
_TOO_LARGE: Final = "File too large"
_FULL: Final = "No space left on device"
_DENIED: Final = ("Authentication failed", "could not read Username", "could not read Password")
_UNREACHED: Final = ("Could not resolve", "Failed to connect", "Couldn't connect", "refused")
_STALLED: Final = ("too slow", "timed out")
_CUT: Final = (
    "RPC failed",
    "early EOF",
    "unexpected disconnect",
    "hung up",
    "reset by peer",
    "transfer closed",
    "Empty reply",
)
_NOT_TRUSTED: Final = ("certificate", "SSL", "TLS")
_NOT_SO: Final = (
    "unadvertised object",
    "not our ref",
    "does not support shallow",
    "couldn't find remote ref",
)


def trouble(said: str, name: str) -> Trouble | FilesyncError:
    """Return what it means that git could not speak with a server, by the end of what it has said.

    ``name`` is the repository's.
    """
    status = next((int(a or b) for a, b in _STATUS.findall(said)), 0)
    if status in (401, 403) or _has(said, _DENIED):
        return RegistryDenied(
            f"{name}: it may not be read, or is not there; have a RUN clone it with a"
            " --mount=type=secret, or put it into the context"
        )
    if status in (404, 410) or re.search(r"repository '.*' not found", said):
        return NotInRegistry(f"{name}: not found; is the URL right?")
    if is_transient(status):
        return Trouble(Failure.ANSWERED, f"{name}: status {status}", status=status)
    if status:
        return BadRepository(f"{name}: status {status}, which brings no repository")
    return _unanswered(said, name)


def local_trouble(said: str, name: str) -> FilesyncError:
    """Return what it means that git could not do what it needs no server for."""
    text = f"{name}: {_last_line(said)}"
    if _FULL in said:
        error = StoreError(text)
        error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return error
    if _TOO_LARGE in said:
        return BadRepository(f"{name}: more than {MAX_BYTES} bytes are not taken")
    return BadRepository(text)


def is_no_way(said: str) -> bool:
    """Say whether a server gives no commit by its id, or by that ref, or none alone."""
    return _has(said, _NOT_SO)


def _unanswered(said: str, name: str) -> Trouble | FilesyncError:
    text = f"{name}: {_last_line(said)}"
    if _has(said, (_FULL, _TOO_LARGE)):
        return local_trouble(said, name)
    if _has(said, _UNREACHED):
        return Trouble(Failure.UNREACHED, f"{name}: cannot be reached: {_last_line(said)}")
    if _has(said, _STALLED):
        return Trouble(Failure.STALLED, f"{name}: it fell silent")
    if _has(said, _NOT_TRUSTED):
        return RegistryError(f"{text}; configure its `ca`")
    if _has(said, _CUT):
        return Trouble(Failure.CUT, f"{name}: the connection broke: {_last_line(said)}")
    return local_trouble(said, name)


def _has(said: str, marks: tuple[str, ...]) -> bool:
    return any(mark in said for mark in marks)


def _last_line(said: str) -> str:
    """Return the one line of git's that says most: what servers say is not its own word."""
    lines = [line for line in said.splitlines() if not line.startswith("remote:")]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    line = (fatal or lines or ["it failed"])[-1]
    line = re.sub(r"^(fatal|error): (unable to access '.*': )?", "", line)
    return without_secrets(line)[:_MAX_SHOWN]
