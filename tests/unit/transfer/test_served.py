"""Who has which tree: peers that serve, are waited for, and are lost."""

import asyncio
from typing import cast

import pytest
import zmq.asyncio

from filesync.errors import Unavailable
from filesync.transfer.connection import served as served_trees
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.connection.served import ServedTrees
from filesync.transfer.stats import Counters

TOKEN = b"t" * 16
PATIENT_S = 20.0


@pytest.fixture
def served() -> ServedTrees:
    return ServedTrees()


def channel() -> Channel:
    """A connection over which nothing is said."""
    return Channel(cast("zmq.asyncio.Socket", None), (), Counters(), name="peer")


async def waiting(served: ServedTrees, serve_s: float = PATIENT_S) -> asyncio.Task[Channel]:
    task = asyncio.create_task(served.wait_for(TOKEN, serve_s))
    await asyncio.sleep(0)
    return task


async def test_who_waits_for_a_tree_gets_whoever_serves_it(served: ServedTrees) -> None:
    first, second = await waiting(served), await waiting(served)
    peer = channel()
    served.note(peer, b"another tree....")
    served.note(peer, TOKEN)
    assert await first is await second is peer


async def test_nobody_waits_for_ever_for_a_tree(served: ServedTrees) -> None:
    with pytest.raises(Unavailable, match="did not call"):
        await served.wait_for(TOKEN, 0.01)


async def test_whoever_waits_for_a_peer_that_is_lost_waits_no_more(served: ServedTrees) -> None:
    peer = channel()
    served.note(peer, TOKEN)
    peer.lost = Unavailable("its connection has ended, and nobody was told yet")
    task = await waiting(served)
    assert not task.done()
    for tell in peer.on_lost:
        tell(peer.lost)
    with pytest.raises(Unavailable, match="is gone"):
        await task


async def test_a_peer_that_dials_again_takes_the_place_of_its_lost_self(
    served: ServedTrees,
) -> None:
    old, new = channel(), channel()
    served.note(old, TOKEN)
    served.note(new, TOKEN)
    old.lose(Unavailable("gone"))
    assert await served.wait_for(TOKEN, PATIENT_S) is new
    new.lose(Unavailable("gone, too"))
    with pytest.raises(Unavailable, match="is gone"):
        await served.wait_for(TOKEN, PATIENT_S)
    served.note(third := channel(), TOKEN)
    assert await served.wait_for(TOKEN, PATIENT_S) is third


async def test_of_too_many_trees_of_a_peer_the_oldest_are_forgotten(
    served: ServedTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_trees, "MAX_SERVED", 2)
    peer = channel()
    served.note(peer, TOKEN)
    for number in range(2):
        served.note(peer, bytes([number]) * 16)
    assert TOKEN not in peer.served
    with pytest.raises(Unavailable, match="did not call"):
        await served.wait_for(TOKEN, 0.01)


async def test_of_too_many_lost_trees_the_first_are_forgotten(
    served: ServedTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_trees, "MAX_LOST", 2)
    for token in (TOKEN, bytes(16), b"l" * 16):
        served.note(peer := channel(), token)
        peer.lose(Unavailable("gone"))
    with pytest.raises(Unavailable, match="is gone"):
        await served.wait_for(bytes(16), PATIENT_S)
    with pytest.raises(Unavailable, match="did not call"):
        await served.wait_for(TOKEN, 0.01)
