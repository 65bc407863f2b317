"""Offers: which trees a process lets others read, and by which token."""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Final, Self

from filesync.digest import Digest, digest_of
from filesync.process.entropy import random_bytes
from filesync.transfer.flow import Flow

if TYPE_CHECKING:
    from filesync.transfer.send.source import Come, Source

TOKEN_BYTES: Final = 16


def stand_in(token: bytes) -> Digest:
    """Return what stands for a tree that is on offer by ``token`` while its digest is not known."""
    return digest_of(token)


class Offer:
    """A tree that whoever knows ``token`` may read, until it is closed.

    Close it, or leave the ``with`` block, before the tree's root is changed or removed.

    Attributes:
        tree: its digest, or its ``stand_in``.
        flow: what sessions keep to at least.
        on_close: called once, when it is closed.
        come: awaited before anything is read, where it may not be there yet.
    """

    def __init__(
        self,
        tree: Digest,
        open_source: "Callable[[], Source]",
        *,
        token: bytes | None,
        flow: Flow,
        forget: Callable[["Offer"], None],
        come: "Come | None" = None,
    ) -> None:
        self.token = random_bytes(TOKEN_BYTES) if token is None else token
        self.tree = tree
        self._open_source = open_source
        self.flow = flow
        self.come = come
        self.source: Source | None = None
        self._opening = Lock()
        self.is_closed = False
        self.on_close: list[Callable[[], None]] = []
        self._forget = forget

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let nobody read it any more; sessions that are open end. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self._forget(self)
            for tell in list(self.on_close):
                tell()
            if self.source is not None:
                self.source.close()
                self.source = None

    def load(self) -> None:
        """List what may be read, before the first session needs it. Blocks; for any thread."""
        self.open().load()

    def open(self) -> "Source":
        """Return what sessions read from; its index is made by the first of them. For any thread."""
        with self._opening:  # one that is listed is opened in a thread, as a session begins
            if self.source is None:
                self.source = self._open_source()
            return self.source
