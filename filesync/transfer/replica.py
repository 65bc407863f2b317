"""Where a tree may be had."""

from typing import NamedTuple


class Replica(NamedTuple):
    """Where a tree may be had.

    Attributes:
        address: the sender's data plane; None if the sender cannot listen and will dial us.
        token: the offer's.
    """

    address: str | None
    token: bytes
