"""Users by name: ``user[:group]`` looked up in a tree's own account files.

Two rules live here and they differ on purpose:

* USER (`resolve_user`), what a command runs as: a user without a group has the group that
  ``/etc/passwd`` gives it (0 if it is a number without an entry) and its supplementary groups.
* chown (`resolve_owner`), what copied files belong to: a user by name has the group that
  ``/etc/passwd`` gives it, one by number the group of the *same number*, as in BuildKit. Docker's
  manual says the same number for both. A group alone is root's file of that group, and one that is
  said to be nothing (``ann:``) is 0. ``root`` is 0 whatever the files say.

All but `read_accounts` is pure and takes the files' bytes.
"""

from typing import Final

import msgspec

from worker.exec.errors import UserUnknown
from worker.exec.rooted import read_file

MAX_ACCOUNT_BYTES: Final = 4 << 20
MAX_ID: Final = (1 << 31) - 1


class Account(msgspec.Struct, frozen=True):
    """One line of ``/etc/passwd``."""

    name: str
    uid: int
    gid: int
    home: str


class Group(msgspec.Struct, frozen=True):
    """One line of ``/etc/group``."""

    name: str
    gid: int
    members: tuple[str, ...]


class User(msgspec.Struct, frozen=True):
    """Whom a command runs as; ``home`` is '/' where no account says otherwise."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


ROOT: Final = User(0, 0)


def parse_passwd(data: bytes) -> list[Account]:
    """Return the accounts in file order; lines that are none are skipped."""
    accounts = []
    for fields in _lines(data, min_fields=6):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            accounts.append(Account(fields[0], uid, gid, fields[5]))
    return accounts


def parse_group(data: bytes) -> list[Group]:
    """Return the groups in file order; lines that are none are skipped."""
    groups = []
    for fields in _lines(data, min_fields=3):
        gid = _number(fields[2])
        if gid is not None:
            members = fields[3].split(",") if len(fields) > 3 else []
            groups.append(Group(fields[0], gid, tuple(filter(None, members))))
    return groups


def resolve_user(text: str, passwd: bytes, group: bytes) -> User:
    """Return whom ``user[:group]`` runs as; empty is root.

    A given group is the only one; without it the account's own and supplementary groups hold.

    Raises:
        UserUnknown: a name that the files do not have, or a number out of range.
    """
    wanted, _, wanted_group = text.partition(":")
    account = _find_account(wanted or "0", parse_passwd(passwd))
    groups = parse_group(group)
    home = account.home or "/"
    if wanted_group:
        return User(account.uid, _find_gid(wanted_group, groups), home=home)
    extra = {g.gid for g in groups if account.name and account.name in g.members}
    return User(account.uid, account.gid, tuple(sorted(extra)), home)


def resolve_owner(text: str, passwd: bytes, group: bytes) -> tuple[int, int]:
    """Return the (uid, gid) that ``user[:group]`` or ``:group`` of a chown means.

    Raises:
        UserUnknown: nobody, a name that the files do not have, a number out of range.
    """
    if not text:
        raise UserUnknown(f"{text!r} names nobody")
    wanted, colon, wanted_group = text.partition(":")
    uid = gid = _number_of_root(wanted or "0")
    if uid is None or gid is None:
        account = _find_account(wanted, parse_passwd(passwd))
        uid, gid = account.uid, account.gid
    if not colon:
        return uid, gid
    number = _number_of_root(wanted_group or "0")
    return uid, _find_gid(wanted_group, parse_group(group)) if number is None else number


def read_accounts(root_fd: int) -> tuple[bytes, bytes]:
    """Return the bytes of the root's passwd and group; one that is not there is empty.

    Raises:
        UserUnknown: a file is unreasonably large or cannot be read.
    """
    try:
        passwd = read_file(root_fd, "/etc/passwd", max_bytes=MAX_ACCOUNT_BYTES)
        group = read_file(root_fd, "/etc/group", max_bytes=MAX_ACCOUNT_BYTES)
    except OSError as error:
        raise UserUnknown(f"the root's account files cannot be read: {error}") from error
    return passwd or b"", group or b""


def _find_account(wanted: str, accounts: list[Account]) -> Account:
    number = _number(wanted)
    for account in accounts:
        if account.name == wanted or account.uid == number:
            return account
    if number is None:
        raise UserUnknown(f"user {wanted!r} is not in the root's /etc/passwd")
    return Account("", number, 0, "/")


def _find_gid(wanted: str, groups: list[Group]) -> int:
    number = _number(wanted)
    for group in groups:
        if group.name == wanted or group.gid == number:
            return group.gid
    if number is None:
        raise UserUnknown(f"group {wanted!r} is not in the root's /etc/group")
    return number


def _number_of_root(text: str) -> int | None:
    return 0 if text == "root" else _number(text)


def _lines(data: bytes, *, min_fields: int) -> list[list[str]]:
    rows = (line.split(":") for line in data.decode(errors="replace").split("\n"))
    return [row for row in rows if len(row) >= min_fields and row[0][:1] not in ("", "#")]


def _number(text: str) -> int | None:
    # isdecimal alone lets other scripts' digits through, which int() reads as numbers.
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        return None
    return int(text) if int(text) <= MAX_ID else None
