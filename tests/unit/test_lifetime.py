"""How a command is interrupted."""

import signal
import subprocess
import sys

import pytest

ASLEEP = """
import asyncio, signal, threading
from filesync.lifetime import run_command

async def sleep():
    print("asleep", flush=True)
    await asyncio.sleep(600)

threading.Thread(target=threading.Event().wait, args=(600,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {blocked})
try:
    run_command(sleep())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("blocked", ["[]", "[signal.SIGINT]"], ids=["it", "another thread"])
def test_an_interrupt_wakes_a_command_whichever_thread_takes_it(blocked: str) -> None:
    code = ASLEEP.format(blocked=blocked)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"asleep\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[0] == b"interrupted\n"
        finally:
            process.kill()
