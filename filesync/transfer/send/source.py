"""What a session sends from."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from filesync.transfer.wire import DeltaItem, Range, RecipeItem

Come = Callable[[Sequence[Range]], Awaitable[None]]
"""Waits until ranges can be read; raises NotOffered or Unavailable if they never will."""


class Source(Protocol):
    """Contents, by digest.

    All methods block. They may be called from several threads at once, and raise

    * NotOffered: a content, or a range of one, that is not listed;
    * SourceChanged: a file is no longer what its entry says of it, or is gone;
    * Unavailable: one cannot be read.
    """

    def load(self) -> None:
        """Do what takes long, before anything is asked for."""

    def read(self, ranges: Sequence[Range]) -> bytes | bytearray:
        """Return the bytes of ``ranges``, one after another."""

    def recipes(self, items: Sequence[RecipeItem]) -> bytes:
        """Return the payload that answers for as many of ``items`` as go into one message."""

    def deltas(self, key: int, items: Sequence[DeltaItem], signatures: bytes) -> bytes:
        """Return the payload that answers for all of ``items``."""

    def close(self) -> None:
        """Let go of what is held open, as soon as nobody reads it. Idempotent."""
