"""Unpacks a tar into a directory of the tree, as ``tar -x`` with that directory as its root.

Links on the way to a member's name are followed inside that directory and never lead out of it.
What is in the way of a member is replaced, a directory with all below it; a directory that
meets a directory is kept and gets the member's attributes. Numbers of users and groups are kept.
"""

import os
import stat
import tarfile
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import IO, Final, cast

from filesync.disk.content import write_sparse
from filesync.disk.handles import NEW_FLAGS
from filesync.disk.scanning.readfile import is_kept
from filesync.manifest import Xattrs
from filesync.process.wanted import check_wanted
from filesync.trees.select import clean
from worker.files.archive import Archive, open_archive
from worker.files.attributes import Attributes, set_open, set_unopened
from worker.files.errors import ArchiveRefused, PathInTheWay
from worker.files.tree import Owner, Tree, changing, join, located, split, text_of

_XATTR: Final = "SCHILY.xattr."
_PIECE_BYTES: Final = 1 << 20
_LAST_S: Final = Decimal(1 << 62).scaleb(-9)
"""The last time that a file is given, and the first before 1970."""
_SPECIAL: Final = {
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def unpack(
    file: IO[bytes],
    tree: Tree,
    make_target: Callable[[], bytes],
    *,
    owner: Owner | None,
) -> bool:
    """Unpack ``file`` if its content says that it is an archive; say whether it is.

    ``make_target`` gives the directory, and is called only for an archive. What had been
    unpacked when an error is raised stays.

    Raises:
        ArchiveRefused: a member leads out of the directory or cannot be; the archive is damaged.
        StoreError: this disk.
    """
    archive = open_archive(file)
    if archive is None:
        return False
    base = make_target()
    with tree.handles.pinned(base) as base_fd:
        unpacker = _Unpacker(tree, archive, base, base_fd, owner)
        for member in archive.members():
            check_wanted()
            unpacker.put(member)
    return True


class _Unpacker:
    def __init__(
        self,
        tree: Tree,
        archive: Archive,
        base: bytes,
        base_fd: int,
        owner: Owner | None,
    ) -> None:
        self._tree = tree
        self._archive = archive
        self._base = base
        self._base_fd = base_fd
        self._owner = owner
        self._parents: dict[bytes, bytes] = {}

    def put(self, member: tarfile.TarInfo) -> None:
        """Put one member where its name says."""
        names = _names(member.name)
        if not names:
            return  # "./": the directory that is unpacked into keeps its own attributes.
        above = self._parent(b"/".join(names[:-1]))
        path = join(above, names[-1])
        with changing(path), self._tree.handles.pinned(above) as fd:
            self._put_in(fd, path, names[-1], member)
        self._tree.touch(above)

    def _put_in(self, fd: int, path: bytes, name: bytes, member: tarfile.TarInfo) -> None:
        if member.isdir():
            self._put_directory(fd, path, name, member)
            return
        if member.islnk():
            self._put_hard_link(fd, path, name, member)
            return
        self._clear(fd, path)
        if member.isreg():
            self._put_file(fd, name, member)
        elif member.issym():
            target = _encoded(member.linkname)
            if not target or b"\0" in target:
                raise ArchiveRefused(f"{text_of(path)}: a link without a target")
            os.symlink(target, name, dir_fd=fd)
            set_unopened(fd, name, self._attributes(member))
        elif member.type in _SPECIAL:
            kind = _SPECIAL[member.type]
            device = os.makedev(member.devmajor, member.devminor)
            os.mknod(name, kind | 0o600, device, dir_fd=fd)
            set_unopened(fd, name, self._attributes(member))
        else:
            raise ArchiveRefused(
                f"{text_of(path)}: members of type {member.type!r} are unknown"
            )

    def _put_directory(
        self, fd: int, path: bytes, name: bytes, member: tarfile.TarInfo
    ) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._clear(fd, path)
                os.mkdir(name, 0o700, dir_fd=fd)
        wanted = self._attributes(member)
        set_open(self._tree.handles.open(path), wanted)
        self._tree.set_time_later(path, wanted.mtime_ns or 0)

    def _put_file(self, fd: int, name: bytes, member: tarfile.TarInfo) -> None:
        file = os.open(name, NEW_FLAGS, 0o600, dir_fd=fd)
        try:
            os.ftruncate(file, member.size)
            sparse = cast("list[tuple[int, int]] | None", getattr(member, "sparse", None))
            for offset, size in [(0, member.size)] if sparse is None else sparse:
                self._write(file, offset, size, member)
            set_open(file, self._attributes(member))
        finally:
            os.close(file)

    def _write(self, file: int, offset: int, size: int, member: tarfile.TarInfo) -> None:
        if offset < 0 or size < 0 or offset + size > member.size:
            raise ArchiveRefused(f"{member.name!r}: its map of holes makes no sense")
        end = offset + size
        while offset < end:
            data = self._archive.read(min(end - offset, _PIECE_BYTES))
            write_sparse(file, memoryview(data), offset)
            offset += len(data)

    def _put_hard_link(
        self, fd: int, path: bytes, name: bytes, member: tarfile.TarInfo
    ) -> None:
        names = _names(member.linkname)
        if not names:
            raise ArchiveRefused(f"{text_of(path)}: a hard link to a directory")
        target = join(self._parent(b"/".join(names[:-1]), make=False), names[-1])
        if target == path:
            return
        above, target_name = split(target)
        with self._tree.handles.pinned(above) as target_fd:
            try:
                status = os.stat(target_name, dir_fd=target_fd, follow_symlinks=False)
            except FileNotFoundError:
                status = None
            if status is None or stat.S_ISDIR(status.st_mode):
                raise ArchiveRefused(f"{text_of(path)}: a hard link to what is no file")
            self._clear(fd, path)
            os.link(
                target_name, name, src_dir_fd=target_fd, dst_dir_fd=fd, follow_symlinks=False
            )

    def _parent(self, path: bytes, *, make: bool = True) -> bytes:
        """Return where ``path`` leads inside the base directory; missing directories are made."""
        known = self._parents.get(path)
        if known is not None:
            return known
        try:
            found = located(self._base_fd, path, path)
        except PathInTheWay as exc:
            raise ArchiveRefused(f"{text_of(path)} is not a directory") from exc
        names = [os.fsencode(name) for name in found.names]
        resolved = b"/".join([*filter(None, [self._base]), *names])
        missing = tuple(os.fsencode(name) for name in found.missing)
        if missing and not make:
            raise ArchiveRefused(f"{text_of(path)}: a hard link to what is not there")
        if not missing and names and not self._tree.is_directory(resolved):
            raise ArchiveRefused(f"{text_of(path)} is not a directory")
        resolved = self._tree.make_below(resolved, missing)
        # Members of one directory come together; a planted link may change any other answer.
        self._parents = {path: resolved}
        return resolved

    def _clear(self, fd: int, path: bytes) -> None:
        self._parents = {}
        try:
            self._tree.make_way(fd, path)
        except PathInTheWay:
            self._tree.remove(path)

    def _attributes(self, member: tarfile.TarInfo) -> Attributes:
        uid, gid = self._owner or (member.uid, member.gid)
        if not (0 <= uid < 0xFFFFFFFF and 0 <= gid < 0xFFFFFFFF):
            raise ArchiveRefused(f"{member.name!r}: nobody has the numbers {uid}:{gid}")
        return Attributes(uid, gid, member.mode & 0o7777, _mtime_ns(member), _xattrs(member))


def _names(path: str) -> list[bytes]:
    """Return the names in a member's path; a leading '/' changes nothing."""
    encoded = _encoded(path)
    depth = 0
    for name in encoded.split(b"/"):
        depth += -1 if name == b".." else name not in (b"", b".")
        if depth < 0:
            raise ArchiveRefused(f"{text_of(encoded)} leads out of the directory")
    if b"\0" in encoded:
        raise ArchiveRefused(f"{text_of(encoded)} cannot be a path")
    return clean(encoded)


def _mtime_ns(member: tarfile.TarInfo) -> int:
    try:
        time_s = Decimal(member.pax_headers.get("mtime", member.mtime))
        # Bounded before it is a number: an exponent of six digits takes half a minute to write out.
        return int(max(-_LAST_S, min(time_s, _LAST_S)) * 10**9)
    except InvalidOperation:
        raise ArchiveRefused(f"{member.name!r}: its time makes no sense") from None


def _xattrs(member: tarfile.TarInfo) -> Xattrs:
    """Return a member's extended attributes but for those of the machine it was packed on."""
    found = (
        (_encoded(key.removeprefix(_XATTR)), _encoded(value))
        for key, value in sorted(member.pax_headers.items())
        if key.startswith(_XATTR)
    )
    return tuple(one for one in found if is_kept(one[0]))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
