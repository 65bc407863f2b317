"""What can be wrong with a layer."""

from collections.abc import Iterator
from contextlib import contextmanager

from filesync.errors import PeerError, StoreError


class BadLayer(PeerError):
    """A layer's bytes are no layer, ask for what no tree can have, or are over a limit."""

    code = "bad-layer"


class BadSkeleton(BadLayer):
    """A layer's skeleton is none, or is over a limit. Its blob may be right."""

    code = "bad-skeleton"

    def __str__(self) -> str:
        return f"the skeleton of a layer is refused: {super().__str__()}"


class NotALayer(StoreError):
    """A tree holds what the layer format has no way to say. It can be exported as a directory."""

    code = "not-a-layer"


@contextmanager
def naming_layer(digest: str) -> Iterator[None]:
    """Have what is wrong with a layer in the block say which layer it is."""
    try:
        yield
    except BadLayer as exc:
        raise type(exc)(f"layer {digest}: {exc.args[0]}") from exc
