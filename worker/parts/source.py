"""What was read of an image, made an ephemeral source."""

from filesync.disk.updating.update import TreeUpdate
from filesync.errors import LocalError
from filesync.manifest import Manifest
from filesync.sources import Filling
from worker.parts.spool import Spool
from worker.parts.topdown import Found
from worker.store import Store


def fill(store: Store, filling: Filling, found: Found, spool: Spool) -> Manifest:
    """Make an empty ``filling`` hold what was found, with the contents in ``spool``. Blocks.

    Raises:
        StoreError: this disk.
    """
    contents, tree = spool.contents(found.files())
    target = found.proved(contents, store.nodes)
    update = TreeUpdate(filling.path, basis=None, target=target, local=[tree])
    try:
        update.prepare()
        if any(True for _ in update.wanted()):
            raise LocalError("a content that was read is not there")
        update.finish()
    finally:
        update.abort()
    return target
