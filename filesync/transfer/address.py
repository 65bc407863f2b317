"""Addresses of processes, and where it is safe to listen."""

import ipaddress
import re
from typing import Final

from filesync.errors import UsageError
from filesync.transfer.errors import InsecureListen

_TCP: Final = re.compile(
    r"tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]]+):(?P<port>\d{1,5}|\*)"
)


def check_address(address: str) -> str:
    """Return ``address`` if it is one that ZeroMQ can be told.

    Raises:
        UsageError: it is neither ``tcp://host:port`` nor ``ipc://…`` nor ``inproc://…``.
    """
    if address.startswith(("ipc://", "inproc://")) or _TCP.fullmatch(address):
        return address
    raise UsageError(f"{address!r} is not an address; write it like tcp://127.0.0.1:7701")


def check_listen_address(address: str, *, allow_insecure: bool = False) -> str:
    """Return ``address`` if listening there cannot be reached from another machine.

    Raises:
        UsageError: it is not an address.
        InsecureListen: it is not on loopback, and ``allow_insecure`` is not set.
    """
    match = _TCP.fullmatch(check_address(address))
    if match is None or allow_insecure or _is_loopback(match["host"].strip("[]")):
        return address
    raise InsecureListen(
        f"{address} can be reached from other machines and traffic is not encrypted; "
        "listen on 127.0.0.1, or say --allow-insecure in a network where you trust everyone"
    )


def is_here(address: str) -> bool:
    """Say whether ``address`` can be on this machine only."""
    match = _TCP.fullmatch(address)
    return match is None or _is_loopback(match["host"].strip("[]"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
