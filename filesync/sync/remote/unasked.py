"""Names that a server gives though it was told to leave them out.

What rules leave out, and what no list names, is a server's to leave out: where it would go, its user
counts on it that no such name is written. So what comes is looked through once more.
"""

from filesync.disk.handles import shown
from filesync.disk.updating.visits import MAX_PATH_BYTES, check_path
from filesync.errors import MalformedManifest, UnexpectedMessage
from filesync.manifest import Directory, Entry, Manifest, Subdirectory
from filesync.sync.filter import Filter
from filesync.trees.diff import diff


class Unasked:
    """Refuses what ``filter``, which a server was told, leaves out of what it gives."""

    def __init__(self, filter: Filter) -> None:
        self._filter = filter
        self._looked_at = b""
        self._path_bytes = 0

    def refuse_new(self, there: Manifest, top: Manifest) -> None:
        """Look through what of ``top`` would change what is ``there``. Blocks.

        Raises:
            MalformedManifest: it is more than any update makes: one node may stand for millions of directories.
            UnexpectedMessage: some of it was to be left out.
        """
        if not self._filter:
            return
        for one in diff(there, top):
            if one.path:
                self._look_at(one.path, is_directory=True)
            prefix = one.path + b"/" if one.path else b""
            for entry in (*one.added, *(now for _, now in one.changed)):
                self._look_through(prefix, entry, top)

    def refuse_in(self, path: bytes, directory: Directory) -> None:
        """Look at the names in a directory that comes by itself, and at what leads to it.

        That is cheapest where neighbours come one after another.

        Raises:
            MalformedManifest: no directory has such a path.
            UnexpectedMessage: one of them was to be left out.
        """
        if not self._filter:
            return
        check_path(path)  # each that leads to it is looked at by its own path
        above = path
        while above and not self._looked_at.startswith(above + b"/"):
            self._look_at(above, is_directory=True)
            above = above.rpartition(b"/")[0]
        prefix = self._looked_at = path + b"/" if path else b""
        for entry in directory.entries:
            self._look_at(prefix + entry.name, is_directory=isinstance(entry, Subdirectory))

    def _look_through(self, prefix: bytes, entry: Entry, top: Manifest) -> None:
        path = prefix + entry.name
        self._look_at(path, is_directory=isinstance(entry, Subdirectory))
        if isinstance(entry, Subdirectory):
            for below, one in Manifest(entry.tree, top.nodes).walk():
                is_directory = isinstance(one, Subdirectory)
                self._path_bytes += is_directory * (len(path) + 1 + len(below))
                if self._path_bytes > MAX_PATH_BYTES:
                    raise MalformedManifest("paths of directories are too many")
                self._look_at(path + b"/" + below, is_directory=is_directory)

    def _look_at(self, path: bytes, *, is_directory: bool) -> None:
        if self._filter.excludes(path, is_directory):
            raise UnexpectedMessage(f"the server gives {shown(path)}, which was to be left out")
