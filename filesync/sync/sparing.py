"""What ``--delete`` leaves alone for what is mounted, where a sync stays on one file system."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from filesync.disk.handles import shown
from filesync.errors import UsageError
from filesync.manifest import Manifest, Subdirectory
from filesync.sync.filter import all_in, in_force, literal
from filesync.sync.part import Part


def sparing(
    rules: Sequence[bytes], *, given: Iterable[bytes], there: Iterable[bytes]
) -> tuple[bytes, ...]:
    """Return ``rules``, by which ``--delete`` leaves something alone, after others by which it leaves more.

    Args:
        rules: the user's.
        given: directories that are given without what is in them; what is there stays.
        there: directories at the destination that stay, with what is in them.

    All paths are from the transfer's root on.

    Raises:
        UsageError: there is no rule for one of them.
    """
    spared = {path: all_in(path) for path in sorted(given)}
    spared |= {path: literal(path) for path in sorted(there)}
    found: list[bytes] = []
    for path, rule in spared.items():
        if rule is None:
            raise UsageError(
                f"{shown(path)} is mounted, and has no name that could be spared; leave it out by "
                "--exclude, or leave out --delete"
            )
        found.append(rule)
    if not found:
        return tuple(rules)
    return (*found, *in_force(rules))


def sparing_of(
    rules: Sequence[bytes],
    parts: Sequence[Part],
    at: int,
    trees: Mapping[int, Manifest],
    *,
    met: Mapping[int, Collection[bytes]],
    there: Iterable[bytes],
) -> tuple[bytes, ...]:
    """Return ``sparing`` for where the part ``at`` goes, of which a scan met the mount points ``there``.

    For the other arguments see ``given_empty``.
    """
    stays = standing(parts[at], there, trees[at])
    return sparing(rules, given=given_empty(parts, trees, met), there=stays)


def too_many_mounts() -> UsageError:
    """Return what says that another machine cannot be told, or has not told, of all that is mounted."""
    return UsageError(
        "there is too much mounted for --delete to spare it on another machine; leave some of it "
        "out by --exclude, or leave out --delete"
    )


def given_empty(
    parts: Sequence[Part], trees: Mapping[int, Manifest], met: Mapping[int, Collection[bytes]]
) -> list[bytes]:
    """Return the directories that come empty for what is mounted there, from the transfer's root on.

    Not those of which another source has what is in them, as in rsync: that is all there is to be.

    Args:
        parts: all parts.
        trees: what is given of one part, and of those that ``shadowing`` names for it.
        met: mount points that the scans of these have met.
    """
    found = {parts[number].prefix + path for number, paths in met.items() for path in paths}

    def has(number: int, path: bytes) -> bool:
        """Say whether a part gives ``path`` as a directory with all that is in it."""
        part = parts[number]
        if part.inside == path or not path.startswith(part.prefix):
            return part.inside == path
        inside = path.removeprefix(part.prefix)
        is_given = isinstance(trees[number].find(inside), Subdirectory)
        return is_given and inside not in met[number]

    return [path for path in found if not any(has(number, path) for number in trees)]


def standing(part: Part, mounts: Iterable[bytes], top: Manifest) -> list[bytes]:
    """Return ``mounts``, which a scan of where ``part`` goes met, likewise; ``top`` is what is given there.

    A directory that was asked for by its name is looked into on whichever file system it is.
    """
    return [
        part.prefix + path
        for path in mounts
        if part.names is None or not isinstance(top.root.find(path), Subdirectory)
    ]
