"""Pieces that a thread makes ahead of who takes them, so that two cores share the work."""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Final, Self

from filesync.process.wanted import check_wanted

_DEPTH: Final = 4
"""Pieces made and not taken; one is 1 MiB at most."""


class ReadAhead:
    """Iterate it inside its ``with`` block: ``pieces``, in order, and what they raise, or `NotWanted`.

    At the end of the block its thread is gone, and ``pieces`` will not be asked for more.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._made = SimpleQueue[bytes | BaseException | None]()
        self._room = threading.Semaphore(_DEPTH)
        self._is_over = False
        self._thread = threading.Thread(target=self._make, name="layer-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._room.release()
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        while (made := self._made.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            self._room.release()
            check_wanted()
            yield made

    def _make(self) -> None:
        try:
            for piece in self._pieces:
                self._room.acquire()
                if self._is_over:
                    return
                self._made.put(piece)
        except BaseException as exc:
            self._made.put(exc)
        else:
            self._made.put(None)
