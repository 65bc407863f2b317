"""A tree that somebody works on, and what there is to say of trees: what they hold, and what is odd."""

import hashlib
import os
import random
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

FILES: Final = 60
SMALL_BYTES: Final = 60_000
BEING_MADE: Final = 0o700
"""The mode of a directory that a sync has made, until its end; no directory of ours has it."""
_MODES: Final = (0o600, 0o644, 0o755, 0o4711)
_YEARS_NS: Final = 2**60

Listing = dict[str, tuple[object, ...]]
Content = tuple[str, str]
"""A path below the tree, and what a file there holds (a hash)."""


class Tree:
    """A tree below ``root``, which changes a little again and again.

    Attributes:
        history: all that its files have ever held.
    """

    def __init__(
        self,
        root: Path,
        rng: random.Random,
        *,
        big_bytes: int = 0,
        files: int = FILES,
        most_changes: int = 29,
        may_link: bool = True,
    ) -> None:
        """Make the tree.

        Args:
            rng: says what it is and becomes.
            big_bytes: how large one file is at least, about.
            files: how many it begins with; when there are fewer than half, some come.
            most_changes: at one time, beside those in the largest file.
            may_link: there may be hard links.
        """
        self.root = root
        self.history: set[Content] = set()
        self._rng = rng
        self._big_bytes = big_bytes
        self._fewest = files // 2
        self._most_changes = most_changes
        self._may_link = may_link
        self._names = 0
        for number in range(files):
            path = root / f"d{number % 7}" / f"f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(rng.randrange(SMALL_BYTES)))
        (root / "empty").mkdir()
        self._edit_big()
        self.note()

    def change(self) -> None:
        """Change some of it in any way, while nobody reads it."""
        for _ in range(self._rng.randint(1, self._most_changes)):
            self._change_one()
        self._edit_big()
        for _ in range(self._fewest - len(self._files())):
            self._write(self._new_name(self._any_directory()))
        self.note()

    def disturb(self, rng: random.Random) -> None:
        """Change one file while somebody may read it: it is the one or the other, never a mix."""
        path = rng.choice(self._files())
        staged = self.root.with_name(f"{self.root.name}-staged")
        match rng.randrange(4):
            case 0:
                path.unlink()
            case 1:
                self._rename(path, self._new_name(path.parent))
            case 2:
                self._write(staged)
                self._rename(staged, self._new_name(path.parent))
            case _:
                self._write(staged)
                self._rename(staged, path)

    def note(self) -> None:
        """Add what the files hold now to the history."""
        self.history.update(contents(self.root))

    def _rename(self, path: Path, to: Path) -> None:
        """Rename a file; what it holds is known before anybody can see it there."""
        self.history.add((str(to.relative_to(self.root)), hash_of(path)))
        path.rename(to)

    def _change_one(self) -> None:
        change = self._rng.choice(
            (
                Path.unlink,
                self._splice,
                self._splice,
                self._write_beside,
                self._move,
                self._set_mode,
                self._set_time,
                self._link if self._may_link else self._move,
                self._become_another_kind,
                self._move_directory,
                self._swap,
                self._edit_unseen,
            )
        )
        change(self._rng.choice(self._files()))

    def _files(self) -> list[Path]:
        """Return all files, of which there is one at least."""
        files = [path for path in _below(self.root) if stat.S_ISREG(path.lstat().st_mode)]
        if not files:
            files = [self._new_name(self.root)]
            self._write(files[0])
        return files

    def _any_directory(self) -> Path:
        return self._rng.choice(
            [self.root, *(p for p in _below(self.root) if p.is_dir() and not p.is_symlink())]
        )

    def _new_name(self, directory: Path) -> Path:
        self._names += 1
        return directory / f"n{self._names}"

    def _write(self, path: Path) -> None:
        path.write_bytes(self._rng.randbytes(self._rng.randrange(4 * SMALL_BYTES)))

    def _write_beside(self, path: Path) -> None:
        self._write(self._new_name(path.parent))

    def _move(self, path: Path) -> None:
        path.rename(self._new_name(self._any_directory()))

    def _link(self, path: Path) -> None:
        os.link(path, self._new_name(self._any_directory()))

    def _set_mode(self, path: Path) -> None:
        path.chmod(self._rng.choice(_MODES))

    def _set_time(self, path: Path) -> None:
        os.utime(path, ns=(0, self._rng.randrange(_YEARS_NS)))

    def _splice(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        at = self._rng.randrange(len(data) + 1)
        data[at : at + self._rng.randrange(3000)] = self._rng.randbytes(
            self._rng.randrange(3000)
        )
        path.write_bytes(data)

    def _edit_unseen(self, path: Path) -> None:
        """Edit a file in place, and give it the times that it had."""
        was = path.stat()
        with path.open("r+b") as file:
            file.write(self._rng.randbytes(min(was.st_size, 10)))
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    def _edit_big(self) -> None:
        """Edit the largest file in some places, or make it."""
        path = max(self._files(), key=lambda path: path.stat().st_size)
        size = path.stat().st_size
        if size < self._big_bytes // 2:
            self._new_name(self.root).write_bytes(self._rng.randbytes(self._big_bytes))
            return
        with path.open("r+b") as file:
            for _ in range(self._rng.randrange(6)):
                file.seek(self._rng.randrange(size + 1))
                file.write(self._rng.randbytes(self._rng.randrange(1 + size // 200)))
        if self._rng.random() < 0.3:
            path.write_bytes(self._rng.randbytes(5000) + path.read_bytes())

    def _become_another_kind(self, path: Path) -> None:
        path.unlink()
        match self._rng.randrange(3):
            case 0:
                path.symlink_to(self._rng.choice(("f1", "..", "nowhere")))
            case 1:
                path.mkdir()
                self._write(self._new_name(path))
            case _:
                os.mkfifo(path)

    def _move_directory(self, _: Path) -> None:
        directory = self._any_directory()
        if directory == self.root:
            return
        if self._rng.random() < 0.3:
            shutil.rmtree(directory)
            directory.write_bytes(b"a file now")
            return
        others = [one for one in self.root.iterdir() if one.is_dir() and not one.is_symlink()]
        to = self._rng.choice([self.root, *others])
        if not to.is_relative_to(directory):
            directory.rename(self._new_name(to))

    def _swap(self, path: Path) -> None:
        other = self._rng.choice(self._files())
        if not path.samefile(other):
            free = self._new_name(self.root)
            path.rename(free)
            other.rename(path)
            free.rename(other)


def listed(root: Path) -> Listing:
    """Return all that there is to say of each name below a tree, and of its root."""
    found: Listing = {}
    groups: dict[int, str] = {}
    for path in [root, *_below(root)]:
        name, was = str(path.relative_to(root)), path.lstat()
        kind = stat.S_IFMT(was.st_mode)
        of_kind: tuple[object, ...] = ()
        if kind == stat.S_IFREG:
            of_kind = (was.st_size, hash_of(path), groups.setdefault(was.st_ino, name))
        elif kind == stat.S_IFLNK:
            of_kind = (str(path.readlink()),)
        owner = (was.st_uid, was.st_gid)
        found[name] = (oct(was.st_mode), *owner, was.st_mtime_ns, *of_kind)
    return found


def differences(one: Listing, other: Listing) -> list[str]:
    """Return what is not the same, a line for each name."""
    return [
        f"{name}: {one.get(name)} is not {other.get(name)}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def contents(root: Path) -> Iterator[Content]:
    """Yield what the files of a tree hold, but for directories that are being made."""
    for path in _below(root, finished=True):
        with suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                yield str(path.relative_to(root)), hash_of(path)


def ours(root: Path) -> list[str]:
    """Return the names in a destination that only a sync under way should have."""
    return sorted(filter(is_ours, os.listdir(root)))


def is_ours(name: str) -> bool:
    """Say whether a name, at a root, is of a sync and no part of the tree."""
    return name.startswith(".filesync-")


def hash_of(path: Path) -> str:
    """Return a hash of what a file holds; not the one that filesync goes by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _below(root: Path, *, finished: bool = False) -> Iterator[Path]:
    """Yield all names of a tree, sorted; follows no link."""
    for at, directories, files in os.walk(root):
        if at == str(root):
            directories[:] = [name for name in directories if not is_ours(name)]
        if finished:
            directories[:] = [name for name in directories if _is_finished(Path(at) / name)]
        directories.sort()
        for name in sorted(directories + files):
            yield Path(at) / name


def _is_finished(directory: Path) -> bool:
    try:
        return stat.S_IMODE(directory.lstat().st_mode) != BEING_MADE
    except FileNotFoundError:
        return False
