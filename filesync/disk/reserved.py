"""Names that are ours."""

from typing import Final

WORK_PREFIX: Final = b".filesync-"
"""Names at a root that begin so are ours: never part of a tree."""
