"""How a command is interrupted."""

import signal
import subprocess
import sys

import pytest

ASLEEP = """
import asyncio, signal, threading
from filesync.process.lifetime import run_command

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


CLEANING = """
import asyncio
from filesync.process.lifetime import run_command

async def clean_up():
    try:
        print("at work", flush=True)
        await asyncio.sleep(600)
    finally:
        try:
            print("cleaning", flush=True)
            await asyncio.sleep(600)
        except BaseException:
            print("torn", flush=True)

run_command(clean_up())
"""
CLEANS_UP = """
import asyncio
from filesync.command import cli
from filesync.process.lifetime import run_command

async def clean_up():
    try:
        print("at work", flush=True)
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.01)
        print("cleaned up", flush=True)

def command(*_, **__):
    try:
        run_command(clean_up())
    finally:
        print("left", flush=True)

cli.filesync.main = command
cli.main([])
"""
ENDING = """
import gc, time
from filesync.command import cli

def freeze():
    print("ending", flush=True)
    time.sleep(600)

gc.freeze = freeze
cli.main(["--version"])
"""
LOADING = """
import os, signal, sys, weakref
import {module} as entry

class Lock:
    pass

class Finder:
    def find_spec(self, name, *_):
        if name == "{loaded}":
            lock = Lock()
            # As what the import system calls when a module's lock goes: no exception leaves it.
            forgotten = weakref.ref(lock, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del lock

sys.meta_path.insert(0, Finder())
sys.argv = ["filesync", "keygen", "--help"]
entry.main()
"""


@pytest.mark.parametrize(
    ("module", "loaded"),
    [
        ("filesync.__main__", "filesync.command.cli"),
        ("filesync.command.cli", "filesync.keys.commands"),
    ],
)
def test_an_interrupt_while_modules_are_loaded_is_not_forgotten(
    module: str, loaded: str
) -> None:
    code = LOADING.format(module=module, loaded=loaded)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize(
    ("code", "signs"),
    [(CLEANING, [b"at work\n", b"cleaning\n"]), (ENDING, [b"ending\n"])],
    ids=["cleaning up", "ending"],
)
def test_a_further_interrupt_ends_the_process_without_a_word(
    code: str, signs: list[bytes]
) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        try:
            for sign in signs:
                while process.stdout.readline() != sign:
                    pass
                process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == (b"", b"")
            assert process.returncode == -signal.SIGINT
        finally:
            process.kill()


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_cleans_up_and_then_ends_by_that_signal(
    number: signal.Signals,
) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", CLEANS_UP], stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"at work\n"
            process.send_signal(number)
            assert process.communicate(timeout=60) == (b"cleaned up\nleft\n", b"")
            assert process.returncode == -number
        finally:
            process.kill()


def test_a_command_that_nohup_has_started_outlives_its_terminal() -> None:
    words = ["nohup", sys.executable, "-c", CLEANS_UP]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"at work\n"
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[0] == b"cleaned up\nleft\n"
            assert process.returncode != -signal.SIGHUP
        finally:
            process.kill()
