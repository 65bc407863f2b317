"""What can be wrong with a layer."""

from filesync.errors import PeerError, StoreError


class BadLayer(PeerError):
    """A layer's bytes are no layer, ask for what no tree can have, or are over a limit."""

    code = "bad-layer"


class NotALayer(StoreError):
    """A tree holds what the layer format has no way to say. It can be exported as a directory."""

    code = "not-a-layer"
