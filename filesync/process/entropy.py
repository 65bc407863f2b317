"""What nobody can guess.

As ``secrets`` does it, which imports OpenSSL for what is not needed here: 2 ms of each sync with a
server, 6 of each without.
"""

from os import urandom


def random_bytes(count: int) -> bytes:
    """Return so many bytes."""
    return urandom(count)


def random_name() -> str:
    """Return a name of 16 hex digits, which nobody has given to anything."""
    return urandom(8).hex()


def random_bits(count: int) -> int:
    """Return a number of so many bits, leading zeros among them."""
    return int.from_bytes(urandom((count + 7) // 8)) >> (-count % 8)
