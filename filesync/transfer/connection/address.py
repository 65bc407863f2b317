"""Addresses of processes, and where it is safe to listen.

``tcp://host:port``, or ``tcp://KEY@host:port`` where KEY is the public key, in hex, of the one that
listens there: whoever dials believes nobody else, and proves itself with its own key. ``ipc://path``: a Unix
socket, for who may open it; ``carried://path``: one whose other end is on another machine.
"""

import ipaddress
import re
from pathlib import Path
from typing import Final, NamedTuple

from filesync.errors import UsageError
from filesync.transfer.errors import InsecureListen

_TCP: Final = re.compile(
    r"tcp://(?:(?P<key>[0-9a-f]{64})@)?"
    r"(?P<where>(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]@]+):(?P<port>\d{1,5}|\*))"
)
_CARRIED: Final = "carried://"
_MAX_PORT: Final = 65_535


class Address(NamedTuple):
    """Where to dial, as ZeroMQ is told, and the key that has to be there."""

    endpoint: str
    key: bytes | None


def parse_address(address: str) -> Address:
    """Return what ``address`` says.

    Raises:
        UsageError: it is neither ``tcp://[KEY@]host:port`` nor ``ipc://…``, ``carried://…`` nor
            ``inproc://…``.
    """
    if address.startswith(("ipc://", "inproc://")):
        return Address(address, None)
    if address.startswith(_CARRIED):
        return Address(f"ipc://{address.removeprefix(_CARRIED)}", None)
    # ZeroMQ takes a larger port for what is left of it in 16 bits: another one.
    if match := _TCP.fullmatch(address):
        if match["port"] != "*" and int(match["port"]) > _MAX_PORT:
            raise UsageError(f"{address}: a port is at most {_MAX_PORT}")
        key = match["key"]
        return Address(f"tcp://{match['where']}", bytes.fromhex(key) if key else None)
    raise UsageError(
        f"{address!r} is not an address; write it like tcp://127.0.0.1:7701, "
        "or with the other side's key as tcp://KEY@192.0.2.7:7701"
    )


def check_address(address: str) -> str:
    """Return ``address`` if it is one.

    Raises:
        UsageError: see ``parse_address``.
    """
    parse_address(address)
    return address


def key_in(address: str) -> bytes | None:
    """Return the key in ``address``; None if it has none, or is none."""
    match = _TCP.fullmatch(address)
    return bytes.fromhex(match["key"]) if match and match["key"] else None


def name_in(address: str) -> str | None:
    """Return the name of a host in ``address``; None if it has a number instead, or none."""
    match = _TCP.fullmatch(address)
    if match is None:
        return None
    try:
        ipaddress.ip_address(match["host"].strip("[]"))
    except ValueError:
        return match["host"]
    return None


def carried(path: Path) -> str:
    """Return the address of the socket at ``path``, which somebody carries on to another machine."""
    return f"{_CARRIED}{path}"


def with_key(endpoint: str, key: bytes) -> str:
    """Return the address of who listens at ``endpoint`` with the public key ``key``."""
    return f"tcp://{key.hex()}@{endpoint.removeprefix('tcp://')}"


def without_key(address: str) -> str:
    """Return ``address`` as people read it: its key has 64 digits, and nobody types it."""
    match = _TCP.fullmatch(address)
    return f"tcp://{match['where']}" if match else address


def check_listen_address(
    address: str, *, allow_insecure: bool = False, has_keys: bool = False
) -> str:
    """Return ``address`` if it is safe to listen there.

    Args:
        address: where.
        allow_insecure: the user trusts everyone who can reach it.
        has_keys: only those whose keys are known get in.

    Raises:
        UsageError: it is not an address to listen at.
        InsecureListen: it can be reached from another machine, and neither of both is so.
    """
    match = _TCP.fullmatch(check_address(address))
    if match is None:
        if has_keys:
            raise UsageError(f"{address}: only tcp:// addresses can be listened at with keys")
        if address.startswith("ipc://@"):
            raise UsageError(f"{address}: whoever is on this machine may open it; give a path")
        return address
    if match["key"]:
        raise UsageError(f"{address}: where to listen takes no key; --key is what is used")
    if has_keys or allow_insecure or is_loopback(match["host"].strip("[]")):
        return address
    raise InsecureListen(
        f"{address} can be reached from other machines and traffic is not encrypted; say "
        "who may connect with --allow FILE (see `filesync keygen --help`), listen on 127.0.0.1, "
        "or say --allow-insecure in a network where you trust everyone"
    )


def is_here(address: str) -> bool:
    """Say whether ``address`` can be on this machine only."""
    match = _TCP.fullmatch(address)
    if match is None:
        return address.startswith(("ipc://", "inproc://"))
    return is_loopback(match["host"].strip("[]"))


def is_everywhere(address: str) -> bool:
    """Say whether ``address`` stands for all of a machine's own: to listen at, not to be dialled."""
    match = _TCP.fullmatch(address)
    return match is not None and match["host"].strip("[]") in ("0.0.0.0", "*", "::")


def is_loopback(host: str) -> bool:
    """Say whether ``host`` is this machine, by its number or as ``localhost``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
