"""Where a tree may be had."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from filesync.transfer.connection.channel_zmq import Channel


class Replica(NamedTuple):
    """Where a tree may be had.

    Attributes:
        address: the sender's data plane; None if the sender cannot listen and will dial us.
        token: the offer's.
        channel: to a sender that has dialled us already; nobody waits for another to do so.
    """

    address: str | None
    token: bytes
    channel: "Channel | None" = None
