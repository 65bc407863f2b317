"""What a result is to somebody who would fetch it: layers, and the keys that they answer to. Pure."""

import msgspec

from filesync.digest import Digest
from worker.wire.orders import Layer, RefInfo


class Transferable(msgspec.Struct, frozen=True):
    """One ref of a chain, which stands on ``parent``.

    Attributes:
        info: the ref; what it is on any worker.
        layer: the descriptor of its own blob, which is the same wherever the ref is.
        parent: None for the lowest.
        keys: the cache records: keys that have this result.
    """

    info: RefInfo
    layer: Layer
    parent: "Transferable | None" = None
    keys: tuple[Digest, ...] = ()

    @property
    def ref(self) -> Digest:
        """The ref's identity."""
        return self.info.ref

    def chain(self) -> "tuple[Transferable, ...]":
        """Return this and all that it stands on, parents first."""
        links = [self]
        while (parent := links[-1].parent) is not None:
            links.append(parent)
        return tuple(reversed(links))


class Transfer(msgspec.Struct, frozen=True):
    """A result that can be pulled; a value, which holds nothing.

    Attributes:
        target: what is to be had.
        holder: the worker that had it when it was asked; others may have it too.
    """

    target: Transferable
    holder: str
