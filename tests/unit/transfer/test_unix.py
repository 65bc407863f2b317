import os
import stat
from pathlib import Path

import pytest

from filesync.errors import UsageError
from filesync.transfer.connection.unix import remove_sockets, socket_directory


def test_a_socket_has_room_for_its_path_wherever_temporary_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path / ("x" * 100)
    far.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(far))
    with socket_directory() as made:
        assert len(os.fsencode(made / ("x" * 16))) <= 107
    assert not any(far.iterdir())


def test_nobody_else_reaches_a_socket_and_nothing_is_left() -> None:
    with socket_directory() as made:
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        (made / "socket").touch()
        remove_sockets(made)
        assert not made.exists()
    assert not made.exists()


def test_without_room_for_a_socket_the_error_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/none")
    with pytest.raises(UsageError, match=r"in /proc/none: .*; set TMPDIR"), socket_directory():
        pass
