"""What ``--files-from`` lists, in a message, and back within the bounds of what it says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from filesync.errors import MalformedMessage
from filesync.sync.remote import fields
from filesync.transfer.coding import codec

if TYPE_CHECKING:  # few syncs are of a list
    from filesync.sync.listed import Listed


def pack_list(listed: "Listed") -> fields.Listed | None:
    """Return what lists the same on the other side; None if it is nothing, or more than a message has."""
    paths = listed.paths()
    raw = b"\0".join(paths)
    if not raw or not _is_bounded(paths):
        return None
    coding, payload = codec.compress(raw)
    if len(payload) > fields.MAX_LIST_PAYLOAD_BYTES:
        return None
    return fields.Listed(bytes(payload), len(raw), coding, all_below=listed.all_below)


def unpack_list(listed: fields.Listed) -> "Listed":
    """Return what a message lists.

    Raises:
        MalformedMessage: it is something else, or more than one side tells the other.
        UsageError: see ``Listed``.
    """
    from filesync.sync.listed import Listed

    raw = bytes(codec.decompress(listed.codec, listed.payload, listed.raw_bytes))
    paths = raw.split(b"\0")
    if not _is_bounded(paths):
        raise MalformedMessage("a list of more paths than one side tells the other")
    return Listed(paths, all_below=listed.all_below)


def _is_bounded(paths: Sequence[bytes]) -> bool:
    from filesync.trees.find import clean

    if len(paths) > fields.MAX_LISTED or sum(map(len, paths)) > fields.MAX_LISTED_BYTES:
        return False
    tops = {name for path in paths for name in clean(path)[:1]}
    is_wide = len(tops) > fields.MAX_TOPS or sum(map(len, tops)) > fields.MAX_NAMES_BYTES // 2
    return not is_wide and sum(len(p) * p.count(b"/") for p in paths) <= fields.MAX_ABOVE_BYTES
