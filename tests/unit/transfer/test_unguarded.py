"""What the kernel says of a connection that nobody guards."""

import os
import socket
from pathlib import Path

from filesync.transfer.connection.guard_zmq import Unguarded
from filesync.transfer.stats import Moved


def test_what_a_connection_has_carried_is_known_before_anybody_reads_it() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as near,
    ):
        far, _ = listening.accept()
        with far:
            connection = Unguarded(near.fileno())
            far.sendall(bytes(1000))
            near.recv(1)
            assert connection.moved().came == 1000


def test_what_has_the_descriptor_of_a_connection_later_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        fd = near.fileno()
        far, _ = listening.accept()
        with far:
            connection = Unguarded(fd)
            far.sendall(b"word")
            near.close()
            with socket.create_connection(listening.getsockname()) as other:
                assert other.fileno() == fd
                other.sendall(b"word")
                assert connection.moved() == Moved()
            with (tmp_path / "file").open("wb") as file:
                assert file.fileno() == fd
                before = len(os.listdir("/proc/self/fd"))
                assert connection.moved() == Moved()
                assert len(os.listdir("/proc/self/fd")) == before


def test_of_a_socket_of_this_machine_nothing_is_known() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"word")
        assert Unguarded(near.fileno()).moved() == Moved()
