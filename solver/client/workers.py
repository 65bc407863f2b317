"""The workers that builds of this user have dialled: the next one most likely needs the same.

To dial takes three or four round trips, and who is to be dialled turns out late. So those whom a
manager's builds needed last are dialled while the manager is.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from filesync.digest import digest_of
from filesync.errors import FilesyncError
from filesync.surplus import surplus
from filesync.transfer.connection.address import is_here
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.plane_zmq import DataPlane

MAX_KEPT: Final = 4
"""Workers of one manager."""
MAX_MANAGERS: Final = 64
_SUFFIX: Final = ".workers"


class KnownWorkers:
    """Those that builds by one manager needed last; what cannot be read or written is none.

    Args:
        directory: where they are kept.
        manager: its address. Nothing is kept of one on this machine, who is dialled in no time.
    """

    def __init__(self, directory: Path, manager: str) -> None:
        self._path: Path | None = None
        if not is_here(manager):
            name = digest_of(manager.encode()).hex()[:32] + _SUFFIX
            self._path = directory / name
        self._known = self._read()
        self._needed: dict[str, None] = {}
        self._dialled: dict[str, Channel] = {}

    def dial(self, plane: DataPlane) -> None:
        """Dial them, and wait for nobody."""
        for address in self._known:
            with suppress(FilesyncError):
                self._dialled[address] = plane.dial(address)

    def need(self, address: str) -> None:
        """Take note that this build needs the worker at ``address``."""
        self._needed[address] = None

    def keep(self) -> None:
        """Keep for the next build those that this one needed, then others that have answered."""
        if self._path is None:
            return
        answered = [a for a, one in self._dialled.items() if not (one.lost or one.greeting)]
        kept = list(dict.fromkeys([*self._needed, *answered]))[:MAX_KEPT]
        if kept != self._known:
            with suppress(OSError):
                self._write(self._path, "".join(f"{address}\n" for address in kept))

    def _read(self) -> list[str]:
        if self._path is None:
            return []
        try:
            return self._path.read_text().splitlines()[:MAX_KEPT]
        except (OSError, UnicodeDecodeError):
            return []

    @staticmethod
    def _write(path: Path, text: str) -> None:
        is_new = not path.exists()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(text)
        new.replace(path)
        if is_new:
            for oldest in surplus(path.parent, MAX_MANAGERS, suffix=_SUFFIX):
                os.unlink(oldest)
