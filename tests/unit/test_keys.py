import os
import pwd
from pathlib import Path

import pytest

from filesync.errors import UsageError
from filesync.keys.files import (
    AllowFile,
    PublicKey,
    default_key,
    key_for,
    line,
    make_key,
    public_path,
    read_allowed,
    read_key,
)

ONE, TWO = PublicKey(bytes(range(32))), PublicKey(bytes(range(32, 64)))


def test_a_key_that_was_made_can_be_read(tmp_path: Path) -> None:
    made = make_key(tmp_path / "new" / "key", name="big")
    assert read_key(tmp_path / "new" / "key") == made
    assert len(made.public) == len(made.secret) == 32


def test_only_its_owner_can_read_a_new_secret_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_key(tmp_path / "key", name="big")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_the_public_file_is_a_line_for_an_allow_file(tmp_path: Path) -> None:
    made = make_key(tmp_path / "key", name="big one")
    assert read_allowed(public_path(tmp_path / "key")) == {made.public: "big one"}


def test_a_key_is_not_replaced_unless_that_is_wanted(tmp_path: Path) -> None:
    first = make_key(tmp_path / "key", name="a")
    with pytest.raises(UsageError, match="--force"):
        make_key(tmp_path / "key", name="a")
    assert read_key(tmp_path / "key") == first
    second = make_key(tmp_path / "key", name="a", replace=True)
    assert read_key(tmp_path / "key") == second != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.pub"]


def test_a_secret_is_in_no_text_about_it(tmp_path: Path) -> None:
    made = make_key(tmp_path / "key", name="a")
    assert repr(made.secret) not in repr(made)
    assert made.secret.hex() not in repr(made) + public_path(tmp_path / "key").read_text()


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601])
def test_a_secret_that_others_can_open_is_refused(mode: int, tmp_path: Path) -> None:
    make_key(tmp_path / "key", name="a")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(UsageError, match="others can read"):
        read_key(tmp_path / "key")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        f"{ONE.hex()}\n",
        f"filesync-secret-key-2 {ONE.hex()}\n",
        f"filesync-secret-key-1 {ONE.hex()[:-1]}\n",
        f"filesync-secret-key-1 {ONE.hex()}0\n",
        f"filesync-secret-key-1  {ONE.hex()}\n",
        f"filesync-secret-key-1 {ONE.hex().upper()}\n",
        f"filesync-secret-key-1 {ONE.hex()}\nfilesync-secret-key-1 {TWO.hex()}\n",
        "filesync-secret-key-1 \u0661" + ONE.hex()[1:],
    ],
)
def test_what_is_no_secret_key_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="no secret key"):
        read_key(path)


def test_files_that_are_no_text_or_too_large_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"\xff\xfe", b"#" * (2 << 20)):
        path.write_bytes(data)
        path.chmod(0o600)
        for read in (read_key, read_allowed):
            with pytest.raises(UsageError, match="file"):
                read(path)


def test_a_key_that_is_not_there_is_a_hint_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="filesync keygen"):
        read_key(tmp_path / "key")


def test_what_is_said_to_make_a_key_makes_the_one_that_was_named(tmp_path: Path) -> None:
    path = tmp_path / "two words" / "key"
    command = f"filesync keygen '{path.parent}'"
    with pytest.raises(UsageError, match=f"`{command}`$"):
        read_key(path)
    with pytest.raises(UsageError, match=f"`{command}`, which calls it {path}$"):
        read_key(path.with_name("other"))
    make_key(path, name="here")
    path.chmod(0o644)
    with pytest.raises(UsageError, match=f"`{command.replace('gen', 'gen --force')}`"):
        read_key(path)


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_public_key_is_not_taken_for_a_secret_that_others_can_read(
    tmp_path: Path, mode: int
) -> None:
    make_key(tmp_path / "key", name="here")
    (tmp_path / "key.pub").chmod(mode)
    with pytest.raises(UsageError, match="is no secret key: it has public ones"):
        read_key(tmp_path / "key.pub")


def test_without_a_home_directory_the_key_is_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nobody(_: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(UsageError, match="no home directory"):
        default_key()
    with pytest.raises(UsageError, match="is not there"):
        read_key(tmp_path / "key")


def test_an_allow_file_has_comments_names_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(f"# machines\n\n{ONE.hex()} big  one\n  {TWO.hex()}\n")
    assert read_allowed(path) == {ONE: "big  one", TWO: ""}


@pytest.mark.parametrize("bad", ["x", ONE.hex()[:-1], ONE.hex() + "0", ONE.hex().upper()])
def test_a_line_that_is_no_key_is_named(bad: str, tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(f"{ONE.hex()} a\n{bad} b\n")
    with pytest.raises(UsageError, match="line 2"):
        read_allowed(path)


def test_an_allow_file_that_anyone_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(line(ONE, "a"))
    path.chmod(0o666)
    with pytest.raises(UsageError, match="anyone can write"):
        read_allowed(path)


def test_a_name_cannot_add_a_line(tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(line(ONE, f"a\n{TWO.hex()}"))
    assert list(read_allowed(path)) == [ONE]


def test_a_changed_allow_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(line(ONE, "a"))
    allowed = AllowFile(path)
    assert allowed.allows(ONE)
    assert not allowed.allows(TWO)
    assert not allowed.refresh()
    path.write_text(line(TWO, "b"))
    assert allowed.refresh()
    assert allowed.allows(TWO)
    assert not allowed.allows(ONE)


def test_an_allow_file_that_breaks_later_leaves_what_it_said(tmp_path: Path) -> None:
    path = tmp_path / "allow"
    path.write_text(line(ONE, "a"))
    allowed = AllowFile(path)
    path.write_text("nonsense\n")
    assert not allowed.refresh()
    path.unlink()
    assert allowed.allows(ONE)


def test_only_an_address_with_a_key_takes_one(tmp_path: Path) -> None:
    assert key_for("tcp://127.0.0.1:1", tmp_path / "none") is None
    made = make_key(tmp_path / "key", name="a")
    assert key_for(f"tcp://{ONE.hex()}@127.0.0.1:1", tmp_path / "key") == made
