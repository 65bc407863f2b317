"""Threads that outlive who waits for them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from filesync.process.wanted import check_wanted, until_given_up
from filesync.transfer.threads import (
    acquired,
    in_thread,
    take_threads_for_many,
    until_done,
    while_wanted,
)
from tests.unit.cancelling import Held, cancel_during


def test_whoever_is_cancelled_again_and_again_still_waits_for_the_thread() -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        ended.set()

    async def main() -> None:
        task = asyncio.create_task(until_done(asyncio.to_thread(work)))
        try:
            for _ in range(5):
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        finally:
            go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_a_call_is_made_even_if_who_waits_is_cancelled_before_there_is_a_thread_for_it() -> (
    None
):
    go, called = threading.Event(), threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.create_task(in_thread(go.wait))
        task = asyncio.create_task(in_thread(called.set))
        for _ in range(5):
            await asyncio.sleep(0)
            task.cancel()
        go.set()
        await busy
        with pytest.raises(asyncio.CancelledError):
            await task
        assert called.is_set()

    asyncio.run(main())


def test_who_is_cancelled_is_not_told_of_an_error_instead() -> None:
    go = threading.Event()

    def work() -> None:
        go.wait()
        raise ValueError("no")

    async def main() -> None:
        task = asyncio.create_task(in_thread(work))
        await asyncio.sleep(0)
        task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert isinstance(raised.value.__cause__, ValueError)

    asyncio.run(main())


@pytest.mark.parametrize("result", [7, ValueError("no")])
def test_what_a_thread_makes_is_handed_on(result: object) -> None:
    def work() -> object:
        if isinstance(result, Exception):
            raise result
        return result

    async def main() -> object:
        return await until_done(asyncio.to_thread(work))

    if isinstance(result, Exception):
        with pytest.raises(ValueError, match="no"):
            asyncio.run(main())
    else:
        assert asyncio.run(main()) == result


def test_what_was_acquired_is_the_callers_to_undo() -> None:
    held: list[int] = []

    def make() -> int:
        held.append(7)
        return 7

    assert asyncio.run(acquired(make, held.remove)) == 7
    assert held == [7]


def test_what_was_acquired_for_somebody_who_was_cancelled_is_undone() -> None:
    there: set[object] = set()

    def make() -> object:
        made = object()
        there.add(made)
        return made

    async def main() -> None:
        held = Held(make)
        await cancel_during(acquired(held, there.remove), held)
        assert held.made is not None
        assert not there

    asyncio.run(main())


def test_nothing_is_undone_of_what_could_not_be_made() -> None:
    go = threading.Event()

    def make() -> int:
        go.wait()
        raise ValueError("no")

    async def main() -> None:
        undone: list[int] = []
        task = asyncio.create_task(acquired(make, undone.append))
        await asyncio.sleep(0)
        task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not undone

    asyncio.run(main())


def test_who_is_cancelled_again_while_it_is_undone_waits_for_that_too() -> None:
    async def main() -> None:
        undo = Held(lambda _: None)
        task = asyncio.create_task(acquired(object, undo))
        await asyncio.sleep(0)
        task.cancel()
        await undo.is_reached()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        await undo.let_go()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_what_may_take_years_ends_when_nobody_waits_for_it() -> None:
    begun = threading.Event()

    def work() -> None:
        begun.set()
        while True:
            check_wanted()

    async def main() -> None:
        task = asyncio.create_task(while_wanted(work))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_what_is_wanted_is_done_and_so_is_what_nobody_can_give_up() -> None:
    def work() -> int:
        check_wanted()
        return 7

    assert asyncio.run(while_wanted(work)) == 7
    assert work() == 7


def test_what_nobody_waits_for_does_not_end_what_somebody_does() -> None:
    def work() -> int:
        check_wanted()
        return 7

    async def main() -> int:
        with until_given_up() as given_up:
            given_up.set()
        return await while_wanted(work)

    assert asyncio.run(main()) == 7


def test_long_calls_of_many_peers_do_not_keep_the_threads_from_others() -> None:
    go = threading.Event()

    async def main() -> None:
        take_threads_for_many()
        long = [asyncio.create_task(in_thread(go.wait)) for _ in range(40)]
        try:
            async with asyncio.timeout(10):
                assert await in_thread(lambda: "short") == "short"
            assert not any(task.done() for task in long)
        finally:
            go.set()
            await asyncio.gather(*long)

    asyncio.run(main())
