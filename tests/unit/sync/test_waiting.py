"""How long somebody waits for a place, by what is heard of who gives to it."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from filesync.errors import Unavailable
from filesync.sync.filter import Filter
from filesync.sync.part import Part
from filesync.sync.places import Identity, Place
from filesync.sync.remote import waiting
from filesync.sync.remote.held import Held, Stage
from filesync.sync.remote.holders import Holders
from filesync.sync.remote.waiting import LOST_S, SILENT_S, Waiting
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.stats import Counters

TICK_S = 0.1


class Scene:
    """A giver to a directory, one who waits for it, and the time."""

    def __init__(self, socket: zmq.asyncio.Socket, root: Path) -> None:
        self.now_s = 100.0
        self.holders = Holders()
        self._socket = socket
        self._root = root
        self.giver = self.channel()
        self.held, self.directory = self.hold(self.giver, "dest")

    def channel(self) -> Channel:
        return Channel(self._socket, (), Counters(), name="peer")

    def hold(self, channel: Channel, name: str) -> tuple[Held, Identity]:
        (self._root / name).mkdir()
        fd = os.open(self._root / name, os.O_RDONLY)
        place = Place(fd, None, names=None, label=b"")
        held = Held(place, Part(), Filter(()), None, is_claimed=True)
        self.holders.hold(channel, held)
        return held, place.identity

    def waits(self, one: Waiting) -> Iterator[float]:
        """Yield how long it was waited, as often as it goes on."""
        began_s = self.now_s
        while one.goes_on(self.directory):
            yield self.now_s - began_s
            self.now_s += TICK_S


def with_scene(
    root: Path, monkeypatch: pytest.MonkeyPatch, play: Callable[[Scene, Waiting], None]
) -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        try:
            scene = Scene(context.socket(zmq.DEALER), root)
            monkeypatch.setattr(waiting, "monotonic", lambda: scene.now_s)
            play(scene, Waiting(scene.holders, scene.channel()))
            scene.giver.lose(Unavailable("the end"))
        finally:
            context.destroy(linger=0)

    asyncio.run(main())


def test_who_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(scene: Scene, one: Waiting) -> None:
        for waited_s in scene.waits(one):
            assert waited_s < SILENT_S + 2 * TICK_S + waiting.NOTICE_S
        assert scene.giver.lost is not None

    with_scene(tmp_path, monkeypatch, play)


def test_who_cannot_have_been_heard_while_this_process_was_suspended_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it said meanwhile is read when others have their turn."""

    def play(scene: Scene, one: Waiting) -> None:
        for waited_s in scene.waits(one):
            if waited_s > 1.0:
                break
        scene.now_s += 2 * SILENT_S
        assert one.goes_on(scene.directory)
        assert scene.giver.lost is None
        scene.giver.wire_in += 1
        assert not one.goes_on(scene.directory)

    with_scene(tmp_path, monkeypatch, play)


def test_who_is_lost_elsewhere_is_not_waited_for_and_ends_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(scene: Scene, one: Waiting) -> None:
        other = scene.channel()
        held, _ = scene.hold(other, "elsewhere")
        with held.used(Stage.NEW):
            other.lose(Unavailable("gone"))
            for waited_s in scene.waits(one):
                if waited_s > 2 * LOST_S:
                    break
            assert one.goes_on(scene.directory)

    with_scene(tmp_path, monkeypatch, play)


def test_who_is_lost_in_the_end_is_waited_for_as_long_as_one_who_is_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(scene: Scene, one: Waiting) -> None:
        for waited_s in scene.waits(one):
            if waited_s > 2 * LOST_S:
                break
        with scene.held.used(Stage.NEW):
            scene.giver.lose(Unavailable("gone"))
            waits = list(scene.waits(one))
        assert LOST_S - 2 * TICK_S < waits[-1] <= LOST_S

    with_scene(tmp_path, monkeypatch, play)
