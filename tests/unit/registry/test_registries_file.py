from pathlib import Path

import pytest

from filesync.errors import UsageError
from worker.registry import Host, Registries, read_registries


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "registries.toml"
    path.write_text(text)
    return path


def test_a_file_is_read_in_buildkits_words(tmp_path: Path) -> None:
    text = """\
        debug = true
        [worker.oci]
          enabled = true
        [registry."docker.io"]
          mirrors = ["mirror.example:5000", "cache.example/docker-hub"]
        [registry."localhost:5000"]
          http = true
          insecure = true
    """
    found = read_registries(write(tmp_path, text))
    assert found.of("docker.io").mirrors == ("mirror.example:5000", "cache.example/docker-hub")
    assert found.of("localhost:5000") == Host(http=True, insecure=True)
    assert found.of("registry.example:5001") == Host(http=False)


@pytest.mark.parametrize("host", ["registry.example", "192.0.2.1:5000", "localhost.example"])
def test_a_registry_that_is_not_configured_is_spoken_to_over_verified_tls(host: str) -> None:
    assert Registries().of(host) == Host(http=False, insecure=False)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.2:5000", "[::1]:5000"]
)
def test_a_registry_on_this_machine_is_spoken_to_in_plain_http(host: str) -> None:
    assert Registries().of(host) == Host(http=True)
    assert Registries({host: Host(insecure=True)}).of(host) == Host(insecure=True)


def test_on_this_machine_nobody_is_spoken_to_in_plain_http_whom_a_registry_names() -> None:
    assert Registries().of_named("localhost:5000") == Host(http=False)
    assert Registries({"localhost:5000": Host(http=True)}).of_named("localhost:5000").http


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[registry", "registries.toml"),
        ('[registry."a.b"]\nhtpp = true', "htpp"),
        ('[registry."a.b"]\nhttp = "yes"', "bool"),
        ('[registry."a b"]\nhttp = true', "no host"),
        ('[registry."plain"]\nhttp = true', "has a dot or a port"),
        ('[registry."a.b"]\nmirrors = ["https://x.y"]', "no host"),
        ('[registry."a.b"]\nca = ["/no/such/file.pem"]', "No such file"),
    ],
)
def test_a_file_with_a_fault_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_registries(write(tmp_path, text))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_registries(tmp_path / "none.toml")
