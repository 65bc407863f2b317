"""How a layer comes here: as its blob, or as what it is made of. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.manifest import File, Manifest, Subdirectory

WORTH: Final = 0.75
"""A blob is one file that is compressed already. Parts are compressed frame by frame, written down,
and read again here and there to be put together: that is worth a good share of the bytes."""
SMALL_BLOB_BYTES: Final = 256 << 10
"""A blob that is no larger comes at once: to ask for its skeleton first takes as long."""
SKELETON_SHARE: Final = 0.25
"""A skeleton that is a larger part of its blob than this is not worth looking at."""


class Way(StrEnum):
    """How a layer comes here."""

    BLOB = "blob"
    PARTS = "parts"


def is_worth_a_look(blob_bytes: int | None, skeleton_bytes: int) -> bool:
    """Say whether to get a layer's skeleton before it is decided how the layer comes.

    ``blob_bytes`` is None where nobody offers the blob.
    """
    if blob_bytes is None:
        return True
    return blob_bytes > SMALL_BLOB_BYTES and skeleton_bytes <= blob_bytes * SKELETON_SHARE


def way_of(
    *, blob_bytes: int | None, skeleton_bytes: int, wanted_bytes: int, lacking_bytes: int
) -> Way:
    """Return how a layer comes for few bytes, and by its blob where it makes little difference.

    Args:
        blob_bytes: None where nobody offers the blob.
        skeleton_bytes: of the compressed skeleton.
        wanted_bytes: of all contents, each counted once.
        lacking_bytes: of those that are not here.
    """
    if blob_bytes is None:
        return Way.PARTS
    # Contents travel compressed too, about as well as all of them did in the blob.
    shrink = min(1.0, blob_bytes / max(1, wanted_bytes))
    parts_bytes = skeleton_bytes + lacking_bytes * shrink
    return Way.PARTS if parts_bytes < blob_bytes * WORTH else Way.BLOB


class Choice(NamedTuple):
    """Trees to read contents from.

    Attributes:
        trees: which of the candidates, ascending.
        lacking: what none of them has.
    """

    trees: tuple[int, ...]
    lacking: Mapping[Digest, int]


def choose_trees(wanted: Mapping[Digest, int], candidates: Iterable[Manifest]) -> Choice:
    """Choose the candidates, best guess first, that have wanted contents no earlier one has."""
    left = dict(wanted)
    seen: set[Digest] = set()
    chosen: list[int] = []
    for number, tree in enumerate(candidates):
        before = len(left)
        for file in _files_of(tree, seen):
            left.pop(file.digest, None)
        if len(left) < before:
            chosen.append(number)
        if not left:
            break
    return Choice(tuple(chosen), left)


def _files_of(manifest: Manifest, seen: set[Digest]) -> Iterator[File]:
    """Yield the files of a tree but for directories that were looked into before."""
    stack = [manifest.tree]
    while stack:
        for entry in manifest.directory(stack.pop()).entries:
            if isinstance(entry, File):
                yield entry
            elif isinstance(entry, Subdirectory) and entry.content not in seen:
                seen.add(entry.content)
                stack.append(entry.tree)
