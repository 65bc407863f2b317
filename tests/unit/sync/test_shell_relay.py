"""What carries a connection over a remote shell's pipes, and when it gives the shell up."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from filesync.sync.shell import relay as relay_module
from filesync.sync.shell.relay import Relay
from filesync.transfer.timeouts import LEAST_BYTES

SILENT_S = 0.3


class Carried:
    """A relay by whose shell nothing comes: what is behind its socket, and whether it has ended."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.is_over = threading.Event()

    def say(self, size: int) -> bool:
        """Send so much every now and then, for twice as long as may be silent; say whether it ended."""
        for _ in range(20):
            try:
                self.near.sendall(bytes(size))
            except BrokenPipeError:  # it ends between the two
                return self.is_over.wait(SILENT_S)
            if self.is_over.wait(SILENT_S / 10):
                return True
        return False


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> Iterator[Carried]:
    monkeypatch.setattr(relay_module, "SILENT_S", SILENT_S)
    monkeypatch.setattr(relay_module, "LOOK_S", SILENT_S / 20)
    near, own = socket.socketpair()
    one = Carried(near)
    with read_dry() as sink:
        source, mute = os.pipe()
        relay = Relay(own, source, os.dup(sink), on_end=one.is_over.set)
        relay.start()
        yield one
        os.close(mute)
        relay.close()
        one.is_over.wait(10)
        os.close(source)
    near.close()


@contextmanager
def read_dry() -> Iterator[int]:
    """Give a pipe's end that takes all that is written."""
    source, sink = os.pipe()

    def read() -> None:
        while os.read(source, 1 << 16):
            pass

    reading = threading.Thread(target=read)
    reading.start()
    yield sink
    os.close(sink)
    reading.join()
    os.close(source)


def test_a_dead_shell_is_given_up_though_its_pipe_takes_what_is_said_meanwhile(
    carried: Carried,
) -> None:
    assert carried.say(10)


def test_a_shell_that_takes_much_is_not_dead_though_nothing_is_said_by_it(
    carried: Carried,
) -> None:
    assert not carried.say(LEAST_BYTES)
