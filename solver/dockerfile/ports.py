"""What EXPOSE lists."""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from solver.dockerfile.errors import Invalid

_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([A-Za-z]*))?")
_MAX_PORTS: Final = 1 << 17
"""Bound on what one instruction lists, a port that is there twice counted twice."""

_PROTOCOLS: Final = ("tcp", "udp", "sctp")


def parse_ports(words: Iterable[str]) -> list[str]:
    """Return ``port/protocol`` for each port of ``80``, ``53/udp``, ``8000-8010``.

    What ``docker run -p`` takes besides, as in ``127.0.0.1:8080:80``, is left out.

    Raises:
        Invalid: no port.
    """
    found: dict[str, None] = {}
    count = 0
    for word in words:
        match = _PORT.fullmatch(unpublished(word))
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else 0
        protocol = (match[3] or "tcp").lower() if match else ""
        if not 0 < first <= last <= 65535 or protocol not in _PROTOCOLS:
            message = f"{word[:80]!r} is not a port, such as 80, 53/udp or 8000-8010"
            raise Invalid(message, word)
        count += last - first + 1
        if count > _MAX_PORTS:
            raise Invalid(f"more than {_MAX_PORTS} ports", word)
        found |= dict.fromkeys(f"{port}/{protocol}" for port in range(first, last + 1))
    return list(found)


def unpublished(word: str) -> str:
    """Return the container's port of ``[[ADDRESS:]PORT:]PORT``; another word as it is."""
    above, colon, port = word.rpartition(":")
    address, _, host_port = above.rpartition(":")
    if not colon or not _is_host(address, host_port):
        return word
    return port


def _is_host(address: str, port: str) -> bool:
    if port and not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?", port):
        return False
    try:
        return not address or bool(ip_address(re.sub(r"^\[(.*)\]$", r"\1", address)))
    except ValueError:
        return False
