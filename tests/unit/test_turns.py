import asyncio

from filesync.digest import Digest, digest_of
from worker.turns import Turns

ONE, TWO, THREE = (digest_of(name) for name in (b"1", b"2", b"3"))


class Workshop:
    """Notes who works on what, and how many at once."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(at_once)
        self.working: list[Digest] = []
        self.most = 0

    async def work(self, *things: Digest) -> None:
        async with self.turns.turn(things):
            assert not set(things) & set(self.working)
            self.working += things
            self.most = max(self.most, len(self.working))
            for _ in range(5):
                await asyncio.sleep(0)
            for thing in things:
                self.working.remove(thing)


async def all_of(workshop: Workshop, *works: tuple[Digest, ...]) -> None:
    async with asyncio.timeout(5):
        await asyncio.gather(*(workshop.work(*things) for things in works))


async def test_nobody_works_on_what_somebody_works_on() -> None:
    workshop = Workshop(8)
    await all_of(workshop, *[(ONE,)] * 4, (TWO,), (THREE,))
    assert workshop.most == 3


async def test_no_more_than_few_work_at_once() -> None:
    workshop = Workshop(2)
    await all_of(workshop, (ONE,), (TWO,), (THREE,))
    assert workshop.most == 2


async def test_two_that_want_the_same_things_do_not_wait_for_each_other_for_ever() -> None:
    await all_of(Workshop(2), *[(ONE, TWO, THREE), (THREE, TWO, ONE), (TWO, TWO)] * 5)


async def test_who_has_nothing_to_do_waits_for_nobody() -> None:
    turns = Turns(1)
    async with turns.turn([ONE]), asyncio.timeout(5), turns.turn([]):
        pass


async def test_who_gives_up_while_it_waits_holds_up_nobody() -> None:
    workshop = Workshop(1)
    async with workshop.turns.turn([ONE]):
        waiting = asyncio.create_task(workshop.work(ONE, TWO))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    await all_of(workshop, (TWO,), (ONE,))
