"""Where a worker listens, and whether others can dial that."""

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from filesync.errors import UsageError
from worker import commands
from worker.options import WorkerOptions

FAR = "tcp://192.0.2.1:7700"


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where workers would have listened."""
    listened: list[str] = []

    async def note(options: WorkerOptions, **_: object) -> None:
        listened.append(options.listen)

    monkeypatch.setattr(commands, "run_worker", note)
    monkeypatch.setattr(commands, "_own_address", lambda _: "192.0.2.8")
    return listened


def _run(manager: str, listen: str) -> None:
    words = ["--manager", manager, "--state", "w", "--listen", listen]
    done = CliRunner().invoke(commands.worker, words, standalone_mode=False)
    if done.exception is not None:
        raise done.exception


@pytest.mark.parametrize("listen", ["tcp://0.0.0.0:0", "tcp://*:7701", "tcp://[::]:0"])
def test_a_worker_far_from_its_manager_has_to_say_an_address_that_others_can_dial(
    listened: list[str], listen: str
) -> None:
    with pytest.raises(UsageError, match=r"such as --listen tcp://192\.0\.2\.8:0$"):
        _run(FAR, listen)
    assert not listened


def test_a_worker_that_only_its_own_machine_can_dial_is_told_so_if_its_manager_is_far(
    listened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    _run(FAR, "tcp://127.0.0.1:0")
    assert listened == ["tcp://127.0.0.1:0"]
    assert [
        (one.levelno, "--listen tcp://192.0.2.8:0" in one.message) for one in caplog.records
    ] == [(logging.WARNING, True)]


@pytest.mark.parametrize(
    ("manager", "listen"),
    [
        (FAR, "tcp://192.0.2.8:0"),
        ("tcp://127.0.0.1:7700", "tcp://127.0.0.1:0"),
        ("tcp://localhost:7700", "tcp://0.0.0.0:0"),
    ],
)
def test_a_worker_that_can_be_dialled_is_told_nothing(
    listened: list[str], caplog: pytest.LogCaptureFixture, manager: str, listen: str
) -> None:
    _run(manager, listen)
    assert listened == [listen]
    assert not caplog.records


def test_a_worker_that_strangers_would_reach_is_told_where_its_manager_s_key_goes(
    tmp_path: Path,
) -> None:
    words = ["--manager", "tcp://127.0.0.1:1", "--listen", "tcp://0.0.0.0:0"]
    done = CliRunner().invoke(
        commands.worker, [*words, "--state", str(tmp_path / "w")], standalone_mode=False
    )
    assert isinstance(done.exception, UsageError)
    assert "--manager tcp://KEY@host:port" in str(done.exception)
    assert "--allow FILE" not in str(done.exception)


@pytest.mark.parametrize(
    ("manager", "own"),
    [("tcp://127.0.0.1:1", "127.0.0.1"), ("tcp://[::1]:1", "[::1]"), ("ipc:///a", "ADDRESS")],
)
def test_an_address_of_ones_own_is_the_one_that_the_manager_is_reached_by(
    manager: str, own: str
) -> None:
    assert commands._own_address(manager) == own
