import pytest

from filesync.errors import UsageError
from filesync.transfer.address import check_address, check_listen_address
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
