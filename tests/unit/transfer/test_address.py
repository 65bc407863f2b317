from pathlib import Path

import pytest

from filesync.errors import UsageError
from filesync.transfer.connection.address import (
    carried,
    check_address,
    check_listen_address,
    is_here,
    key_in,
    parse_address,
    with_key,
)
from filesync.transfer.errors import InsecureListen


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:7701",
        "tcp://127.9.9.9:0",
        "tcp://localhost:*",
        "tcp://[::1]:7701",
        "ipc:///run/filesync.sock",
        "inproc://here",
    ],
)
def test_listening_where_only_this_machine_can_connect_is_fine(address: str) -> None:
    assert check_listen_address(address) == address


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:7701", "tcp://*:7701", "tcp://10.0.0.1:1", "tcp://[::]:1", "tcp://host:1"],
)
def test_listening_where_others_can_connect_must_be_allowed(address: str) -> None:
    with pytest.raises(InsecureListen, match="not encrypted"):
        check_listen_address(address)
    assert check_listen_address(address, allow_insecure=True) == address


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:7701", "tcp://host", "tcp://a:b", "udp://a:1", "tcp://a:1/x"]
)
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(UsageError, match="tcp://127"):
        check_address(address)


@pytest.mark.parametrize("port", ["65536", "99999"])
def test_a_port_that_there_is_not_is_refused_and_not_taken_for_another(port: str) -> None:
    with pytest.raises(UsageError, match="65535"):
        check_address(f"tcp://127.0.0.1:{port}")
    assert check_address("tcp://127.0.0.1:65535")


KEY = bytes(range(32))
WITH_KEY = f"tcp://{KEY.hex()}@192.0.2.7:7701"


def test_an_address_can_say_which_key_is_there() -> None:
    assert parse_address(WITH_KEY) == ("tcp://192.0.2.7:7701", KEY)
    assert parse_address("tcp://[::1]:1") == ("tcp://[::1]:1", None)
    assert with_key("tcp://192.0.2.7:7701", KEY) == WITH_KEY
    assert key_in(WITH_KEY) == KEY
    assert key_in("tcp://192.0.2.7:7701") is key_in("nonsense") is None


@pytest.mark.parametrize("key", ["", "ab", KEY.hex() + "0", KEY.hex().upper(), "user:password"])
def test_what_is_no_key_makes_no_address(key: str) -> None:
    with pytest.raises(UsageError, match="KEY@"):
        check_address(f"tcp://{key}@192.0.2.7:7701")


def test_with_keys_any_place_is_safe_to_listen_at() -> None:
    assert check_listen_address("tcp://0.0.0.0:1", has_keys=True) == "tcp://0.0.0.0:1"


@pytest.mark.parametrize("address", [WITH_KEY, "ipc:///run/filesync.sock"])
def test_where_to_listen_takes_no_key_and_keys_take_tcp(address: str) -> None:
    with pytest.raises(UsageError, match="key"):
        check_listen_address(address, has_keys=True)


def test_a_socket_without_permissions_is_not_listened_at() -> None:
    with pytest.raises(UsageError, match="whoever is on this machine"):
        check_listen_address("ipc://@filesync")


def test_a_unix_socket_is_here_unless_it_is_carried_on() -> None:
    there = carried(Path("/tmp/a/socket"))
    assert parse_address(there) == ("ipc:///tmp/a/socket", None)
    assert is_here("ipc:///tmp/a/socket")
    assert not is_here(there)
