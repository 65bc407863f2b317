"""The user's logins, as docker keeps them."""

import base64
import json
import os
from pathlib import Path

import pytest

from filesync.errors import UsageError
from solver.client.credentials import Logins
from worker.wire.images import Credential

SECRET = "correct-horse"


def auth(user: str = "me", secret: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def logins(tmp_path: Path, config: object) -> Logins:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return Logins(path)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("a.io", "a.io"),
        ("https://a.io/v2/", "a.io"),
        ("http://localhost:5000", "localhost:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
    ],
)
def test_a_login_is_found_by_its_host(tmp_path: Path, key: str, host: str) -> None:
    found = logins(tmp_path, {"auths": {key: auth()}})
    assert found.find(host) == Credential(host, "me", SECRET)
    assert found.find("other.io") is None
    assert found.find(f"{host}:1") is None


def test_a_password_may_have_colons(tmp_path: Path) -> None:
    found = logins(tmp_path, {"auths": {"a.io": auth(secret="a:b:c")}})
    assert found.find("a.io") == Credential("a.io", "me", "a:b:c")


def test_an_identity_token_comes_before_a_password(tmp_path: Path) -> None:
    entry = {**auth(), "identitytoken": "long"}
    found = logins(tmp_path, {"auths": {"a.io": entry}})
    assert found.find("a.io") == Credential("a.io", identity_token="long")


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"auths": []},
        {"auths": {"a.io": {}}},
        {"auths": {"a.io": 5}},
        {"auths": None},
        {"auths": {"a.io": {"auth": ""}}},
        {"auths": {"a.io": {"auth": 5}}},
        {"auths": {"a.io": auth(user="")}},
        {"auths": {"a.io": {"username": "me", "password": 5}}},
        {"auths": {"a.io": {"identitytoken": "", "username": "me"}}},
        {"credsStore": "", "credHelpers": {"a.io": 5}},
    ],
)
def test_a_file_without_a_login_gives_none(tmp_path: Path, config: object) -> None:
    assert logins(tmp_path, config).find("a.io") is None


def test_no_file_is_no_login(tmp_path: Path) -> None:
    assert Logins(tmp_path / "none").find("a.io") is None


def test_dockers_own_variable_says_where_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"a.io": auth()}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert Logins().find("a.io") is not None


@pytest.mark.parametrize("damage", ["not base64 !", base64.b64encode(b"\xff\xfe").decode()])
def test_a_damaged_login_is_told_without_the_secret(tmp_path: Path, damage: str) -> None:
    found = logins(tmp_path, {"auths": {"a.io": {"auth": damage}}})
    with pytest.raises(UsageError, match=r"the login at a\.io is damaged") as info:
        found.find("a.io")
    assert damage not in str(info.value)


def test_a_file_that_is_no_json_is_told_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"auths": "{SECRET}')
    with pytest.raises(UsageError, match="not JSON") as info:
        Logins(tmp_path / "config.json").find("a.io")
    assert SECRET not in repr(info.getrepr())


# --- helpers ---------------------------------------------------------------------------------


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of ``docker-credential-test``; write a script there."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin/docker-credential-test"
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_helper_is_asked_as_docker_asks_it(tmp_path: Path, helper: Path) -> None:
    script(
        helper,
        f"cat > {tmp_path}/asked; echo $1 >> {tmp_path}/asked\n"
        f"""echo '{{"ServerURL": "x", "Username": "me", "Secret": "{SECRET}"}}'""",
    )
    found = logins(tmp_path, {"credsStore": "test"})
    assert found.find("docker.io") == Credential("docker.io", "me", SECRET)
    assert (tmp_path / "asked").read_text() == "https://index.docker.io/v1/get\n"


def test_a_hosts_own_helper_comes_before_the_store_for_all(
    tmp_path: Path, helper: Path
) -> None:
    script(helper, """echo '{"Username": "<token>", "Secret": "long"}'""")
    config = {"credHelpers": {"a.io": "test"}, "credsStore": "none-such"}
    assert logins(tmp_path, config).find("a.io") == Credential("a.io", identity_token="long")


def test_a_helper_is_asked_once_for_a_host_however_many_images_are_there(
    tmp_path: Path, helper: Path
) -> None:
    script(helper, f"""cat >> {tmp_path}/asked; echo '{{"Username": "me", "Secret": "s"}}'""")
    found = logins(tmp_path, {"credsStore": "test"})
    assert [found.find(host) for host in ("a.io", "b.io", "a.io")] == [
        Credential(host, "me", "s") for host in ("a.io", "b.io", "a.io")
    ]
    assert (tmp_path / "asked").read_text() == "a.iob.io"


def test_a_helper_of_another_host_is_not_asked(tmp_path: Path, helper: Path) -> None:
    script(helper, f"touch {tmp_path}/asked; exit 1")
    found = logins(tmp_path, {"credHelpers": {"a.io": "test"}, "auths": {"b.io": auth()}})
    assert found.find("b.io") == Credential("b.io", "me", SECRET)
    assert not (tmp_path / "asked").exists()


def test_what_a_helper_does_not_have_may_be_in_the_file(tmp_path: Path, helper: Path) -> None:
    script(helper, "echo credentials not found in native keychain; exit 1")
    found = logins(tmp_path, {"credsStore": "test", "auths": {"a.io": auth()}})
    assert found.find("a.io") == Credential("a.io", "me", SECRET)
    assert found.find("b.io") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"echo {SECRET}; echo {SECRET} >&2; exit 1", "failed for a.io with status 1"),
        (f"echo {SECRET}", "gave no credential for a.io"),
        ("echo '[]'", "gave no credential for a.io"),
    ],
)
def test_a_helper_that_fails_is_told_without_what_it_printed(
    tmp_path: Path, helper: Path, text: str, says: str
) -> None:
    script(helper, text)
    with pytest.raises(UsageError, match=says) as info:
        logins(tmp_path, {"credsStore": "test"}).find("a.io")
    assert SECRET not in str(info.value)


def test_a_helper_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="docker-credential-none-such, which docker's"):
        logins(tmp_path, {"credsStore": "none-such"}).find("a.io")


def test_a_helper_is_a_name_and_no_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no credential helper"):
        logins(tmp_path, {"credsStore": "../../bin/sh"}).find("a.io")
