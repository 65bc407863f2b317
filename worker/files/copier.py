"""Puts entries of an input's manifest into the tree that an op changes.

The manifest is walked, the input's directory is only read from: nothing of it is looked up that
the manifest knows. Each directory is finished in one visit: its files, its empty
subdirectories, its own attributes and time; what comes into the subdirectories later changes
nothing of it, so few descriptors and no second pass are needed however deep a tree is.

20,000 files of 4 KiB take 0.40 s on tmpfs, 20 us each; ``cp -a`` takes 0.52 s.
"""

import os
import stat

from filesync.digest import Digest
from filesync.disk.handles import NEW_FLAGS, DirectoryHandles
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    Special,
    Subdirectory,
    Symlink,
)
from filesync.process.wanted import check_wanted
from worker.files.attributes import Attributes, attributes_of, set_open, set_unopened
from worker.files.content import copy_content
from worker.files.errors import PathInTheWay
from worker.files.mode import ChangeMode
from worker.files.tree import Owner, Tree, changing, join, split, text_of


class Copier:
    """Copies what one action names, path by path.

    Of each path that is begun, names of one file in the input become names of one file.
    """

    def __init__(
        self,
        tree: Tree,
        source: DirectoryHandles,
        *,
        owner: Owner | None,
        change_mode: ChangeMode | None,
    ) -> None:
        self._tree = tree
        self._source = source
        self._owner = owner
        self._change_mode = change_mode
        self._first: dict[bytes, bytes] = {}
        self._groups: dict[bytes, bytes] = {}

    def begin(self) -> None:
        """Begin another path: what is copied of it is no name of what was copied before."""
        self._first.clear()
        self._groups.clear()

    def copy_contents(
        self, manifest: Manifest, source: bytes, directory: Directory, target: bytes
    ) -> None:
        """Copy what is in ``directory``, which stands at ``source``, into the directory ``target``.

        A directory below it that is there already is kept and gets the source's attributes.

        Raises:
            PathInTheWay: a directory meets something else, or the other way round.
            StoreError: this disk.
        """
        todo: list[tuple[bytes, Digest, bytes]] = []
        self._copy_entries(source, directory, target, todo)
        while todo:
            check_wanted()
            source, digest, target = todo.pop()
            directory = manifest.directory(digest)
            self._copy_entries(source, directory, target, todo)
            self.finish(directory, target)

    def copy_directory(
        self, manifest: Manifest, source: bytes, directory: Directory, target: bytes
    ) -> None:
        """Copy ``directory`` with its own attributes to the path ``target``."""
        self._make_directory(target)
        self.copy_contents(manifest, source, directory, target)
        self.finish(directory, target)

    def finish(self, directory: Directory, target: bytes) -> None:
        """Give the directory ``target``, into which nothing comes any more, ``directory``'s attributes."""
        with changing(target):
            set_open(self._tree.handles.open(target), self._attributes(directory))
        self._tree.has_time(target)

    def copy_header(self, directory: Directory, target: bytes) -> None:
        """Make the directory ``target`` with the attributes of ``directory``, if it is not there."""
        if self._make_directory(target):
            with changing(target):
                set_open(self._tree.handles.open(target), self._attributes(directory))
            self._tree.set_time_later(target, directory.mtime_ns)

    def copy_entry(self, source: bytes, entry: Entry, target: bytes) -> None:
        """Copy the file, link or special file ``entry``, at ``source``, to the path ``target``."""
        above, name = split(target)
        from_above, from_name = split(source)
        with self._tree.handles.pinned(above) as fd, changing(target):
            self._put(self._source.open(from_above), from_name, entry, fd, name, target)
        self._tree.touch(above)

    def _copy_entries(
        self,
        source: bytes,
        directory: Directory,
        target: bytes,
        todo: list[tuple[bytes, Digest, bytes]],
    ) -> None:
        """Copy one directory's names, not what is in subdirectories: those go to ``todo``."""
        if not directory.entries:
            return
        children = []
        source_fd = self._source.open(source)
        with self._tree.handles.pinned(target) as target_fd:
            for entry in directory.entries:
                name = entry.name
                path = join(target, name)
                with changing(path):
                    if isinstance(entry, Subdirectory):
                        self._make_directory_in(target_fd, path)
                        children.append((join(source, name), entry.tree, path))
                    else:
                        self._put(source_fd, name, entry, target_fd, name, path)
        self._tree.touch(target)
        todo.extend(reversed(children))

    def _put(
        self, from_fd: int, from_name: bytes, entry: Entry, fd: int, name: bytes, path: bytes
    ) -> None:
        match entry:
            case File():
                if not (entry.link and self._link(entry, fd, name, path)):
                    self._put_file(from_fd, from_name, entry, fd, name, path)
                self._tree.hints[path] = (entry.size, entry.digest)
            case Symlink():
                self._put_link(entry, fd, name, path)
            case Special():
                self._put_special(entry, fd, name, path)
            case Subdirectory():
                raise AssertionError("directories are made elsewhere")

    def _put_file(
        self, from_fd: int, from_name: bytes, entry: File, fd: int, name: bytes, path: bytes
    ) -> None:
        try:
            file = os.open(name, NEW_FLAGS, 0o600, dir_fd=fd)
        except FileExistsError:
            self._make_way(fd, path)
            file = os.open(name, NEW_FLAGS, 0o600, dir_fd=fd)
        try:
            if entry.size:
                copy_content(from_fd, from_name, file, size=entry.size)
            set_open(file, self._attributes(entry))
        finally:
            os.close(file)
        if entry.link:
            self._first[entry.link] = path
            self._groups[path] = entry.link

    def _link(self, entry: File, fd: int, name: bytes, path: bytes) -> bool:
        """Make a further name of a file that was copied; False if it has to be copied again."""
        first = self._first.get(entry.link)
        if first is None or first == path:
            return False
        self._make_way(fd, path)
        above, first_name = split(first)
        try:
            os.link(
                first_name,
                name,
                src_dir_fd=self._tree.handles.open(above),
                dst_dir_fd=fd,
                follow_symlinks=False,
            )
        except OSError:
            # Too many links, or none across this mount: one more copy is as good a tree.
            return False
        return True

    def _put_link(self, entry: Symlink, fd: int, name: bytes, path: bytes) -> None:
        try:
            os.symlink(entry.target, name, dir_fd=fd)
        except FileExistsError:
            self._make_way(fd, path)
            os.symlink(entry.target, name, dir_fd=fd)
        uid, gid = self._owner or (entry.uid, entry.gid)
        wanted = Attributes(uid, gid, 0o777, entry.mtime_ns, entry.xattrs)
        set_unopened(fd, name, wanted)

    def _put_special(self, entry: Special, fd: int, name: bytes, path: bytes) -> None:
        device = os.makedev(entry.major, entry.minor)
        kind = stat.S_IFMT(entry.mode)
        self._make_way(fd, path)
        os.mknod(name, kind | 0o600, device, dir_fd=fd)
        set_unopened(fd, name, self._attributes(entry))

    def _make_way(self, fd: int, path: bytes) -> None:
        self._tree.make_way(fd, path)
        # What was copied under this name is there no more: nothing may be linked to it.
        group = self._groups.pop(path, None)
        if group is not None:
            self._first.pop(group, None)

    def _make_directory(self, path: bytes) -> bool:
        above = split(path)[0]
        with changing(path):
            made = self._make_directory_in(self._tree.handles.open(above), path)
        if made:
            self._tree.touch(above)
        return made

    def _make_directory_in(self, fd: int, path: bytes) -> bool:
        """Make a directory, 0700 until it is finished; False if there is one."""
        name = split(path)[1]
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                sentence = f"cannot copy to non-directory: {text_of(path)}"
                raise PathInTheWay(sentence) from None
            return False
        return True

    def _attributes(self, entry: File | Special | Directory) -> Attributes:
        return attributes_of(entry, self._owner, self._change_mode)
