"""Requests to the other side of a sync, and work in threads."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, ParamSpec, TypeVar

from filesync.errors import UnexpectedMessage, UsageError
from filesync.sync.remote import wire
from filesync.transfer.connection.calls_zmq import call
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.threads import until_done
from filesync.transfer.wire import MAX_BODY_BYTES

STALL_S: Final = 60.0
_MAY_TAKE_LONG: Final = (wire.Scan, wire.Give, wire.GiveGrowing)
A = TypeVar("A", bound=wire.Answer)
P = ParamSpec("P")
T = TypeVar("T")


class Peer(NamedTuple):
    """The other side of a sync, and what this side talks to it with."""

    plane: DataPlane
    channel: Channel
    address: str


async def ask(channel: Channel, request: wire.Request, kind: type[A]) -> tuple[A, bytes]:
    """Return the answer to ``request``, of the one kind that it may be of, and its payload.

    Raises:
        UsageError: the request is too long.
        UnexpectedMessage: the answer is of another kind.
        Unavailable: the connection is lost, or the peer refuses or is silent.
    """
    body = wire.encode(request)
    if len(body) > MAX_BODY_BYTES:
        raise UsageError("too many names or patterns for one sync; give fewer at once")
    stall_s = None if isinstance(request, _MAY_TAKE_LONG) else STALL_S
    answered, payload = await call(channel, body, stall_s=stall_s)
    answer = wire.decode_answer(answered)
    if not isinstance(answer, kind):
        raise UnexpectedMessage(
            f"the answer to {type(request).__name__} is {type(answer).__name__}"
        )
    return answer, payload


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return ``work(...)``, made by a thread; cancelled, wait for its end first."""
    return await until_done(asyncio.to_thread(work, *args, **kwargs))
