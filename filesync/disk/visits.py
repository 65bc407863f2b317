"""Which directories an update enters, and what it does to the names in each."""

from collections.abc import Container, Iterator
from dataclasses import dataclass

from filesync.diff import diff
from filesync.manifest import Directory, Entry, Manifest, Subdirectory


@dataclass(frozen=True, slots=True)
class Visit:
    """One directory of the target that is new or differs.

    Attributes:
        path: where it is; b"" is the root.
        old: as the basis has it; None when it is new.
        new: as it shall be.
        removed: names that are gone.
        changes: (old or None, new) of each name that is new or differs, ascending by name.
            Subdirectories are among them only where there was none before.
    """

    path: bytes
    old: Directory | None
    new: Directory
    removed: tuple[Entry, ...]
    changes: list[tuple[Entry | None, Entry]]


def below(path: bytes, name: bytes) -> bytes:
    """Return the path of ``name`` in the directory ``path``."""
    return path + b"/" + name if path else name


def visits(
    basis: Manifest | None, target: Manifest, *, moved: Container[bytes] = ()
) -> Iterator[Visit]:
    """Yield the directories to enter, each before those in it; the same at every call.

    New directories whose paths are in ``moved`` are there already and are not entered. It is
    looked at after the visit of the directory above, which may thus still add to it.
    """
    for change in diff(basis, target):
        changes: list[tuple[Entry | None, Entry]] = [(None, entry) for entry in change.added]
        if change.changed:
            changes += change.changed
            changes.sort(key=lambda pair: pair[1].name)
        yield Visit(change.path, change.old, change.new, change.removed, changes)
        if any(type(entry) is Subdirectory for _, entry in changes):
            yield from _new(target, _subdirectories(change.path, changes, moved), moved)


def _new(
    target: Manifest, first: Iterator[tuple[bytes, Subdirectory]], moved: Container[bytes]
) -> Iterator[Visit]:
    stack = [first]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        path, entry = found
        directory = target.directory(entry.tree)
        changes: list[tuple[Entry | None, Entry]] = [
            (None, entry) for entry in directory.entries
        ]
        yield Visit(path, None, directory, (), changes)
        stack.append(_subdirectories(path, changes, moved))


def _subdirectories(
    path: bytes, changes: list[tuple[Entry | None, Entry]], moved: Container[bytes]
) -> Iterator[tuple[bytes, Subdirectory]]:
    for _, entry in changes:
        if isinstance(entry, Subdirectory) and (at := below(path, entry.name)) not in moved:
            yield at, entry
