"""A part of an image, on this worker."""

from typing import NamedTuple

from filesync.sources import SourceLease
from worker.store import TreeView


class ImagePart(NamedTuple):
    """What was read of an image, in a source that is leased.

    Attributes:
        bytes_moved: what came from the registry for it.
        files: how many contents came.
        bytes_whole: what all layers of the image are.
    """

    tree: TreeView
    lease: SourceLease
    bytes_moved: int
    files: int
    bytes_whole: int
