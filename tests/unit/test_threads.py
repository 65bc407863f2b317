"""Threads that outlive who waits for them."""

import asyncio
import threading

import pytest

from filesync.transfer.threads import until_done


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
