"""A user without a home directory, as in a container that is given a number alone."""

import json
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner

from filesync.errors import UsageError
from filesync.sync.commands import sync
from solver.client.credentials import Logins
from solver.client.embedded import default_state


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is, who has no home."""

    def nobody(_: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_is_kept_in_a_directory_called_like_a_home(here: Path) -> None:
    (here / "src").mkdir()
    (here / "src/f").write_text("f")
    done = CliRunner().invoke(sync, ["src/", "dst"], catch_exceptions=False)
    assert done.exit_code == 0
    assert sorted(path.name for path in here.iterdir()) == ["dst", "src"]


def test_who_has_nowhere_to_keep_a_cluster_is_told_what_to_set() -> None:
    with pytest.raises(UsageError, match="no home directory; set XDG_CACHE_HOME"):
        default_state()


def test_who_has_no_home_has_no_logins(here: Path) -> None:
    (here / "config.json").write_text(json.dumps({"auths": {"a.io": {"auth": "bWU6cGFzcw=="}}}))
    assert Logins().find("a.io") is None
