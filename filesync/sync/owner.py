"""Whose all is at the destination: as far as who writes it may say, and as ``--chown`` does.

Names are looked up where it is written.
"""

import grp
import os
import pwd
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from filesync.disk.handles import shown
from filesync.errors import UsageError
from filesync.manifest import Manifest, Nodes
from filesync.manifest.owner import MAX_GROUPS, Writer, owned_by
from filesync.sync.options import NewOwner, Options, OwnerNames

MAX_NAME_CHARS: Final = 255
MAX_ID: Final = 0xFFFFFFFE
"""One more says to chown(2) that nothing is to change."""
_DIGITS: Final = frozenset("0123456789")


def this_writer() -> Writer | None:
    """Return who this process writes as; None if it may give files away.

    What it is given is to be looked at as he is to make it (``Found.written_by``): else all would
    seem to have changed, each time.
    """
    if os.geteuid() == 0:
        return None
    groups = [os.getegid(), *os.getgroups()[: MAX_GROUPS - 1]]
    with suppress(OSError):
        groups = mapped(groups, Path("/proc/self/gid_map").read_text())
    return Writer(os.geteuid(), frozenset(groups))


def mapped(numbers: Iterable[int], table: str) -> list[int]:
    """Return those that a user namespace's ``table`` (see user_namespaces(7)) has.

    In a container the kernel says one number for all groups that it does not map, also of those
    that a user is in: nothing can be given that.
    """
    rows = [tuple(map(int, row.split())) for row in table.splitlines()]
    return [one for one in numbers if any(at <= one < at + count for at, _, count in rows)]


def parse_owner(text: str) -> OwnerNames | None:
    """Return what ``USER:GROUP``, ``USER`` or ``:GROUP`` names; None for nothing.

    Raises:
        UsageError: it can be the name of nobody.
    """
    user, _, group = text.partition(":")
    for name in (user, group):
        if len(name) > MAX_NAME_CHARS or not name.isprintable() or ":" in name:
            raise UsageError("--chown: there is no such user or group; write USER:GROUP")
    return OwnerNames(user, group) if user or group else None


def look_up(names: OwnerNames) -> NewOwner:
    """Return whom this machine knows by ``names``. Blocks.

    All digits are a number, as in rsync, whoever has it.

    Raises:
        UsageError: nobody; or this user may not give anything to them.
    """
    uid = _id(names.user, "user", lambda name: pwd.getpwnam(name).pw_uid)
    gid = _id(names.group, "group", lambda name: grp.getgrnam(name).gr_gid)
    writer = this_writer()
    if writer and (uid not in (None, writer.uid) or gid not in (None, *writer.groups)):
        raise UsageError(
            "--chown: only root may give files to others, and who would write them is user"
            f" {writer.uid}, to whom all will belong; leave it out, or name a group of that user's"
        )
    return NewOwner(uid, gid)


def _id(name: str, kind: str, find: Callable[[str], int]) -> int | None:
    if not name:
        return None
    if _DIGITS.issuperset(name):
        if (number := int(name)) > MAX_ID:
            raise UsageError(f"--chown: {name} is no number of a {kind}")
        return number
    try:
        return find(name)
    except (KeyError, ValueError, OSError):  # not there, no name, or nobody to ask
        raise UsageError(
            f"--chown: no {kind} {shown(name.encode())} is known where the files go"
        ) from None


def as_known_here(options: Options) -> Options:
    """Return ``options`` with the number of whom all is given to on this machine. Blocks.

    Raises:
        UsageError: see ``look_up``.
    """
    if options.owner is None:
        return options
    return replace(options, new_owner=look_up(options.owner))


def given_to(owner: NewOwner | None, manifest: Manifest, nodes: Nodes) -> Manifest:
    """Return ``manifest`` as if all of it belonged to ``owner``, as far as that says."""
    return manifest if owner is None else owned_by(manifest, nodes, owner.uid, owner.gid)
