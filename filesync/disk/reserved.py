"""Names at a root that are ours: what an update that did not finish has left there."""

import re
from typing import Final

WORK_PREFIX: Final = b".filesync-"
"""A work directory's name; sixteen hex digits follow."""
PARTIAL_NAME: Final = b".filesync-partial"
_WORK: Final = re.compile(rb"\.filesync-[0-9a-f]{16}")


def is_reserved(name: bytes) -> bool:
    """Say whether ``name``, at a root, is ours: never part of a tree, and removed when found."""
    # Asked about each name at a root, of which next to none begins so.
    return name.startswith(WORK_PREFIX) and (name == PARTIAL_NAME or is_work(name))


def is_work(name: bytes) -> bool:
    """Say whether ``name`` is one that an update makes up."""
    return _WORK.fullmatch(name) is not None
