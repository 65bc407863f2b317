import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.exec import User, UserUnknown, read_accounts, resolve_owner, resolve_user
from worker.exec.rooted import open_root
from worker.exec.user import MAX_ACCOUNT_BYTES, parse_group, parse_passwd

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
# a comment:x:7:7::/:
ann:x:1000:50:Ann:/home/ann:/bin/sh
broken line
bob:x:not-a-number:1::/:/bin/sh
"""
GROUP = b"""\
root:x:0:
staff:x:50:bob
wheel:x:10:root,ann
disk:x:6:ann
"""


def test_user_without_a_name_is_root_with_the_home_and_groups_of_its_account() -> None:
    assert resolve_user("", PASSWD, GROUP) == User(0, 0, (10,), "/root")


def test_user_of_a_root_without_account_files_is_root() -> None:
    assert resolve_user("", b"", b"") == User(0, 0, (), "/")


def test_named_user_has_its_primary_and_supplementary_groups() -> None:
    assert resolve_user("ann", PASSWD, GROUP) == User(1000, 50, (6, 10), "/home/ann")


def test_number_of_an_account_is_as_good_as_its_name() -> None:
    assert resolve_user("1000", PASSWD, GROUP) == resolve_user("ann", PASSWD, GROUP)


def test_given_group_is_the_only_group() -> None:
    assert resolve_user("ann:disk", PASSWD, GROUP) == User(1000, 6, (), "/home/ann")


def test_number_without_an_account_has_group_0() -> None:
    assert resolve_user("4321", PASSWD, GROUP) == User(4321, 0)


def test_number_of_a_group_that_is_nowhere_is_taken_as_it_is() -> None:
    assert resolve_user("4321:77", PASSWD, GROUP) == User(4321, 77)


@pytest.mark.parametrize("text", ["eve", "ann:eve", "bob", "-1", "2147483648", "٣", "ann:-1"])
def test_user_that_the_files_do_not_name_is_refused(text: str) -> None:
    with pytest.raises(UserUnknown):
        resolve_user(text, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("0", (0, 0)),
        ("1000", (1000, 1000)),
        ("ann", (1000, 50)),
        ("ann:", (1000, 0)),
        ("7:", (7, 0)),
        (":", (0, 0)),
        ("ann:staff", (1000, 50)),
        ("7:8", (7, 8)),
        ("7:disk", (7, 6)),
        (":disk", (0, 6)),
        (":8", (0, 8)),
    ],
)
def test_owner_has_its_accounts_group_by_name_and_the_same_number_by_number(
    text: str, owner: tuple[int, int]
) -> None:
    assert resolve_owner(text, PASSWD, GROUP) == owner


@pytest.mark.parametrize("text", ["", ":eve", "eve", "ann:eve", "99999999999"])
def test_owner_that_the_files_do_not_name_is_refused(text: str) -> None:
    with pytest.raises(UserUnknown):
        resolve_owner(text, PASSWD, GROUP)


@pytest.mark.parametrize("text", ["root", "root:root", ":root", "0:root"])
def test_root_owns_what_is_copied_to_where_there_are_no_accounts(text: str) -> None:
    assert resolve_owner(text, b"", b"") == (0, 0)


@given(st.binary(max_size=400))
def test_any_bytes_are_account_files(data: bytes) -> None:
    parse_passwd(data)
    parse_group(data)


def test_account_files_are_read_through_links_inside_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "usr").mkdir()
    (tmp_path / "group").write_text("outside:x:1:")
    (root / "usr/passwd").write_bytes(PASSWD)
    (root / "etc/passwd").symlink_to("/usr/passwd")
    (root / "etc/group").symlink_to("../../group")
    fd = open_root(root)
    try:
        assert read_accounts(fd) == (PASSWD, b"")
    finally:
        os.close(fd)


def test_account_file_that_is_no_regular_file_is_none_and_does_not_block(
    tmp_path: Path,
) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    (tmp_path / "etc/group").mkdir()
    fd = open_root(tmp_path)
    try:
        assert read_accounts(fd) == (b"", b"")
    finally:
        os.close(fd)


def test_account_file_of_unreasonable_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").touch()
    os.truncate(tmp_path / "etc/passwd", MAX_ACCOUNT_BYTES + 1)
    fd = open_root(tmp_path)
    try:
        with pytest.raises(UserUnknown, match="too large"):
            read_accounts(fd)
    finally:
        os.close(fd)
