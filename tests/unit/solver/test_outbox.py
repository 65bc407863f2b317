"""A client that reads too slowly loses output of steps, and is told how much."""

import asyncio

import pytest

from filesync.digest import Digest
from filesync.errors import MalformedMessage
from solver.manager import outbox
from solver.manager.outbox import Outbox
from solver.wire import BuildFailed, Lack, StepDone, StepOutput, ToClient


def printed(number: int, step: int = 0) -> StepOutput:
    return StepOutput(step, 1, b"line %d\n" % number)


def dropped(size: int, step: int = 0) -> StepOutput:
    line = b"\n[%d bytes of output were dropped here: they came too fast]\n" % size
    return StepOutput(step, 2, line)


class SlowClient:
    """An outbox whose client reads when it is told to; three messages may wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox, "MAX_QUEUED", 2)
        self.read: list[ToClient] = []
        self.outbox = Outbox(self._send)

    async def catch_up(self) -> list[ToClient]:
        """Read all that waits; return it."""
        self.read.clear()
        pumping = asyncio.create_task(self.outbox.pump())
        await asyncio.sleep(0.01)
        pumping.cancel()
        return list(self.read)

    async def _send(self, message: ToClient, _: bytes) -> None:
        self.read.append(message)


def test_what_was_dropped_is_said_before_what_comes_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        slow = SlowClient(monkeypatch)
        for number in range(6):
            slow.outbox.tell(printed(number))
        assert await slow.catch_up() == [printed(0), printed(1), printed(2)]
        slow.outbox.tell(printed(6))
        slow.outbox.tell(printed(7))
        size = 3 * len(b"line 0\n")
        assert await slow.catch_up() == [dropped(size), printed(6), printed(7)]

    asyncio.run(main())


def test_what_was_dropped_last_is_said_when_the_step_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        slow = SlowClient(monkeypatch)
        for number in range(4):
            slow.outbox.tell(printed(number))
        done = StepDone(0, "w1", False, 1.0, ())
        slow.outbox.tell(done)
        assert (await slow.catch_up())[3:] == [dropped(len(b"line 0\n")), done]

    asyncio.run(main())


def test_what_was_dropped_last_of_any_step_is_said_when_the_build_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        slow = SlowClient(monkeypatch)
        for number in range(4):
            slow.outbox.tell(printed(number))
        slow.outbox.tell(printed(4, step=1))
        failed = BuildFailed("command-failed", "RUN make: no", 0)
        slow.outbox.answer(failed)
        size = len(b"line 0\n")
        said = (await slow.catch_up())[3:]
        assert said == [dropped(size), dropped(size, step=1), failed]

    asyncio.run(main())


def test_what_few_large_pieces_come_to_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        slow = SlowClient(monkeypatch)
        monkeypatch.setattr(outbox, "MAX_QUEUED", 1000)
        monkeypatch.setattr(outbox, "MAX_WAITING_BYTES", 10_000)
        large = StepOutput(0, 1, bytes(6000))
        for _ in range(9):
            slow.outbox.tell(large)
        assert await slow.catch_up() == [large, large]
        slow.outbox.tell(large)
        assert await slow.catch_up() == [dropped(7 * 6000), large]

    asyncio.run(main())


def test_a_client_that_asks_and_reads_no_answer_is_told_from_one_that_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        slow = SlowClient(monkeypatch)
        monkeypatch.setattr(outbox, "MAX_WAITING_BYTES", 10_000)
        for _ in range(9):
            slow.outbox.tell(StepOutput(0, 1, bytes(6000)))
        slow.outbox.check_reading()
        for _ in range(100):
            slow.outbox.answer(Lack((Digest(b"d" * 32),)))
        with pytest.raises(MalformedMessage):
            slow.outbox.check_reading()
        await slow.catch_up()
        slow.outbox.check_reading()

    asyncio.run(main())
