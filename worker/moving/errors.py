"""What can go wrong with layers on their way."""

from filesync.errors import PeerError, StoreError


class ImageMalformed(PeerError):
    """An image is not what its manifest says, or its manifest is no OCI image manifest."""

    code = "image-malformed"


class CameOtherwise(StoreError):
    """What was read of a file is not what it came to be, or it did not come to its end."""

    code = "came-otherwise"
