"""What can be wrong with a layer."""

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
