"""A session that receives: what comes before it is looked at is bounded."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from filesync.errors import FilesyncError, UnexpectedMessage
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.receive import session_zmq
from filesync.transfer.receive.receiver import Receiver
from filesync.transfer.receive.session_zmq import Session
from filesync.transfer.replica import Replica
from filesync.transfer.stats import Counters, ReplicaStats
from filesync.transfer.wire import Frame


def flooded_by(times: int, payload: bytes) -> tuple[int, list[FilesyncError]]:
    """Let a peer send frames; return how many are handed on, and what it is blamed for."""
    lost: list[FilesyncError] = []
    came = 0

    def note(*_: object) -> None:
        nonlocal came
        came += 1

    async def main() -> None:
        inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        channel = Channel(cast(Any, None), (), Counters(), name="peer")
        machine = cast(Receiver, SimpleNamespace(session=1))
        replica = Replica("tcp://127.0.0.1:1", bytes(16))
        session = Session(
            machine,
            channel,
            replica,
            ReplicaStats(),
            inbox,
            note,
            lambda _, error: lost.append(error),
        )
        for _ in range(times):
            session.take(Frame(1, 1), payload)
        while not inbox.empty():
            inbox.get_nowait()()

    asyncio.run(main())
    return came, lost


@pytest.mark.parametrize(
    ("name", "bound", "payload"),
    [("MAX_OUTSTANDING_BYTES", 1000, bytes(100)), ("_MAX_INBOX", 9, b"")],
)
def test_a_peer_that_sends_faster_than_it_is_looked_at_is_blamed_once(
    monkeypatch: pytest.MonkeyPatch, name: str, bound: int, payload: bytes
) -> None:
    monkeypatch.setattr(session_zmq, name, bound)
    assert flooded_by(10, payload) == (10, [])
    came, (blamed,) = flooded_by(100, payload)
    assert came == 10
    assert isinstance(blamed, UnexpectedMessage)
