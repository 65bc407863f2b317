"""Requests to the other side of a sync."""

from typing import Final, NamedTuple, TypeVar

import msgspec

from filesync.errors import UnexpectedMessage, UsageError
from filesync.sync.remote import wire
from filesync.transfer.connection.calls_zmq import call, call_only
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.wire import MAX_BODY_BYTES

STALL_S: Final = 60.0
_LONG: Final = (wire.Scan, wire.Give, wire.GiveGrowing, wire.Add, wire.Changing)
A = TypeVar("A", bound=wire.Answer)
M = TypeVar("M", bound=wire.Request | wire.Answer)


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
    stall_s = None if _may_take_long(request) else STALL_S
    answered, payload = await call(channel, _encoded(request), stall_s=stall_s)
    answer = wire.decode_answer(answered)
    if not isinstance(answer, kind):
        raise UnexpectedMessage(
            f"the answer to {type(request).__name__} is {type(answer).__name__}"
        )
    return answer, payload


async def tell(channel: Channel, request: wire.Request) -> None:
    """Send a request whose answer nobody needs, without a round trip.

    Raises:
        Unavailable: the connection is lost.
    """
    await call_only(channel, _encoded(request))


def too_old(option: str) -> UsageError:
    """Return what says that the other side does not do what ``option`` asks for."""
    return UsageError(f"the filesync there does not know {option}; it is older than this one")


def with_more(message: M, **more: object) -> M:
    """Return ``message`` with ``more`` in it; as it is where it would then be too long to be sent."""
    longer = msgspec.structs.replace(message, **more)
    return longer if len(wire.encode(longer)) <= MAX_BODY_BYTES else message


def _encoded(request: wire.Request) -> bytes:
    body = wire.encode(request)
    if len(body) > MAX_BODY_BYTES:
        raise UsageError("too many names or patterns for one sync; give fewer at once")
    return body


def _may_take_long(request: wire.Request) -> bool:
    return isinstance(request, _LONG) or (isinstance(request, wire.Prepare) and request.scan)
