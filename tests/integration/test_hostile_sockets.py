"""`filesync serve` and `sync` against peers that speak ZMTP by hand, to take memory or a place."""

import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench.processes import Cluster
from filesync.transfer.wire import VERSION, Call, Hello, Ping, encode
from solver.wire import Alive
from solver.wire import encode as to_manager

MAX_PEAK_BYTES = 400 << 20
"""An unfinished message of empty frames takes 32 bytes of ZeroMQ for each that travels."""
CUT_S = 20.0


def greeting(mechanism: bytes) -> bytes:
    signature = b"\xff" + bytes(8) + b"\x7f"
    return signature + b"\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


def frame(body: bytes, *, more: bool = False) -> bytes:
    if len(body) > 255:
        return struct.pack(">BQ", 2 | more, len(body)) + body
    return bytes([more, len(body)]) + body


def ready(kind: bytes = b"DEALER") -> bytes:
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return bytes([4, len(body)]) + body


def hello() -> bytes:
    return b"".join(frame(bytes(part)) for part in encode(Hello(VERSION)))


class Server:
    """A server as a process, what it has served, and sockets to it."""

    def __init__(self, root: Path, *options: str, descriptors: int | None = None) -> None:
        self._root = root
        self._peers = ExitStack()
        served = root / "served"
        served.mkdir()
        (served / "file").write_bytes(bytes(1 << 20))
        limit = "" if descriptors is None else f"ulimit -n {descriptors} && "
        command = [sys.executable, "-m", "filesync", "serve", str(served), *options]
        self._errors = (root / "errors").open("w")
        self.process = subprocess.Popen(
            ["sh", "-c", f'{limit}exec "$@"', "sh", *command, "--listen", "tcp://127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self._port = int(self.address.rpartition(":")[2])

    def close(self) -> None:
        self._peers.close()
        self.process.terminate()
        self.process.communicate(timeout=20)
        self._errors.close()
        assert self.process.returncode == 0

    def connect(self) -> socket.socket:
        """Return a connection that is closed when this is, if not before."""
        peer = socket.create_connection(("127.0.0.1", self._port), timeout=CUT_S)
        return self._peers.enter_context(peer)

    def handshake(self) -> socket.socket:
        peer = self.connect()
        peer.sendall(greeting(b"NULL") + ready())
        read(peer, 64 + len(ready()))
        return peer

    def greet(self) -> socket.socket:
        peer = self.handshake()
        peer.sendall(hello())
        read(peer, len(hello()))
        return peer

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024

    def errors(self) -> str:
        return (self._root / "errors").read_text()

    def serves(self) -> bool:
        """Whether an honest peer still gets what it wants."""
        dest = self._root / f"dest{time.monotonic_ns()}"
        command = ["sync", f"{self.address}/", str(dest)]
        subprocess.run([sys.executable, "-m", "filesync", *command], check=True, timeout=60)
        return (dest / "file").read_bytes() == bytes(1 << 20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.close()


def read(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        some = peer.recv(size - len(data))
        assert some, "the server has hung up"
        data += some
    return data


def send_until_cut(peer: socket.socket, data: bytes, *, at_most: int = 2 << 30) -> int:
    """Send ``data`` again and again; return how many bytes went before the server hung up."""
    sent = 0
    while sent < at_most:
        try:
            sent += peer.send(data)
        except ConnectionError:
            return sent
    pytest.fail(f"the server took {sent} bytes")


def is_cut(peer: socket.socket) -> bool:
    """Wait until the server has hung up; what it says meanwhile is passed over."""
    try:
        while peer.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    return True


def send_slowly(peer: socket.socket, data: bytes) -> int:
    """Send a few bytes a second; return how many went before the server hung up."""
    for sent in range(len(data)):
        try:
            peer.sendall(data[sent : sent + 1])
        except ConnectionError:
            return sent
        time.sleep(0.3)
    return len(data)


FLOODS = {
    "large frames": frame(bytes(1 << 20), more=True),
    "small frames": frame(b"x" * 40, more=True) * 20_000,
    "frames of nothing": frame(b"", more=True) * 50_000,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
def test_a_message_without_end_is_cut_off_and_takes_little_memory(
    flood: bytes, server: Server
) -> None:
    send_until_cut(server.greet(), flood)
    send_until_cut(server.handshake(), flood)
    assert server.peak_bytes() < MAX_PEAK_BYTES
    assert "no whole message" in server.errors()
    assert server.serves()


def test_many_at_once_without_end_take_no_more(server: Server) -> None:
    # Each stays below what one message may have; all together, 180 MiB, do not.
    part = frame(bytes(1 << 20), more=True) * 3
    peers = [server.greet() for _ in range(60)]
    for peer in peers:
        with suppress(ConnectionError):  # it may be cut already
            peer.sendall(part)
    deadline_s = time.monotonic() + CUT_S
    while "too much is unfinished" not in server.errors():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert server.peak_bytes() < MAX_PEAK_BYTES
    assert server.serves()


def test_a_frame_that_claims_8_gib_is_not_waited_for(server: Server) -> None:
    peer = server.greet()
    peer.sendall(struct.pack(">BQ", 2, 8 << 30))
    assert is_cut(peer)
    assert server.serves()


def test_messages_of_nonsense_cost_the_connection(server: Server) -> None:
    send_until_cut(server.greet(), frame(bytes(100_000)), at_most=64 << 30)
    assert server.peak_bytes() < MAX_PEAK_BYTES
    assert server.errors().count("\n") < 20
    assert server.serves()


def test_messages_that_never_run_out_hold_up_nobody(server: Server) -> None:
    honest = server.greet()
    pings = frame(bytes(encode(Ping())[0])) * 40_000
    for _ in range(128):
        peer = server.greet()
        peer.setblocking(False)
        with suppress(BlockingIOError):  # there is as much as the kernel holds
            peer.send(pings)
    # Its answer takes a task of its own; to take all those pings takes minutes.
    honest.sendall(frame(bytes(encode(Call(1, b""))[0])))
    said, deadline_s = b"", time.monotonic() + CUT_S
    while b"reply" not in said:
        said += read(honest, 1)
        assert time.monotonic() < deadline_s
    assert server.serves()


def test_of_those_that_are_silent_only_who_was_greeted_may_stay(server: Server) -> None:
    greeted = server.greet()
    silent, slow, mute = server.connect(), server.connect(), server.handshake()
    began = time.monotonic()
    said = send_slowly(slow, greeting(b"NULL") + ready())
    assert 0 < said < 64
    assert is_cut(silent)
    assert is_cut(mute)
    assert 5 < time.monotonic() - began < CUT_S
    greeted.sendall(b"".join(frame(bytes(part)) for part in encode(Ping())))
    assert server.serves()
    greeted.settimeout(0.5)
    with pytest.raises(TimeoutError):
        is_cut(greeted)


def test_ten_thousand_connections_leave_room_for_an_honest_one(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        for _ in range(min(10_000, hard - 500)):
            server.connect()
        assert server.serves()
        deadline_s = time.monotonic() + CUT_S
        while len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) >= 1_500:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        assert "too many connections" in server.errors()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.peak_bytes() < MAX_PEAK_BYTES


def test_a_server_with_few_descriptors_survives_more_connections_than_those(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path, descriptors=256)
    try:
        for _ in range(900):
            server.connect()
        assert server.serves()
    finally:
        server.close()


# --- listeners that are dialled --------------------------------------------------------------------


MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(status)
"""
"""Runs a command; its peak counts what started it, which is to be small."""


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def dialled(tmp_path: Path, first: bytes, flood: bytes) -> tuple[int, int, str]:
    """Have ``filesync sync`` dial a listener that greets so and then floods it.

    Returns its status, the most memory it had and what it said.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        command = ["sync", f"tcp://127.0.0.1:{port}/", str(tmp_path / "dest")]
        errors = stack.enter_context((tmp_path / "errors").open("w"))
        process = subprocess.Popen(
            [sys.executable, "-c", MEASURED, sys.executable, "-m", "filesync", *command],
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )
        stack.callback(kill_group, process)
        listener.settimeout(CUT_S)
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(CUT_S)
            peer.sendall(greeting(b"NULL") + ready(b"ROUTER"))
            read(peer, 64 + len(ready()) + len(hello()))
            peer.sendall(first)
            send_until_cut(peer, flood)
        process.wait(CUT_S)
    said, peak = (tmp_path / "errors").read_text().split("peak ")
    return process.returncode, int(peak) * 1024, said


@pytest.mark.parametrize("first", [b"", hello()], ids=["no greeting", "a greeting"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
def test_a_listener_whose_message_never_ends_takes_little_memory_of_who_dialled(
    flood: bytes, first: bytes, tmp_path: Path
) -> None:
    status, peak_bytes, said = dialled(tmp_path, first, flood)
    assert status == 1
    assert peak_bytes < MAX_PEAK_BYTES
    assert "Traceback" not in said


@pytest.mark.parametrize("first", [b"", hello()], ids=["no greeting", "a greeting"])
def test_a_listener_that_says_nonsense_takes_little_memory_of_who_dialled(
    first: bytes, tmp_path: Path
) -> None:
    status, peak_bytes, said = dialled(tmp_path, first, frame(bytes(100_000)))
    assert status == 1
    assert peak_bytes < MAX_PEAK_BYTES
    assert said.count("\n") < 20


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", workers=0) as cluster:
        yield cluster


def greet_manager(cluster: Cluster) -> socket.socket:
    """Return a connection on which messages may be sent."""
    where = ("127.0.0.1", int(cluster.manager.rpartition(":")[2]))
    peer = socket.create_connection(where, timeout=CUT_S)
    peer.sendall(greeting(b"NULL") + ready())
    read(peer, 64 + len(ready(b"ROUTER")))
    return peer


def must_answer(cluster: Cluster) -> None:
    asked = [sys.executable, "-m", "filesync", "workers", "--manager", cluster.manager]
    subprocess.run(asked, check=True, timeout=CUT_S, stdout=subprocess.DEVNULL)


def test_messages_that_never_run_out_do_not_hold_up_a_manager(cluster: Cluster) -> None:
    signs = frame(bytes(to_manager(Alive())[0])) * 40_000
    with ExitStack() as stack:
        for _ in range(128):
            peer = stack.enter_context(greet_manager(cluster))
            peer.setblocking(False)
            with suppress(BlockingIOError):  # there is as much as the kernel holds
                peer.send(signs)
        must_answer(cluster)


def test_messages_of_nonsense_cost_the_connection_to_a_manager(cluster: Cluster) -> None:
    with greet_manager(cluster) as peer:
        send_until_cut(peer, frame(bytes(1000)) * 10, at_most=64 << 30)
    must_answer(cluster)
    assert (cluster.root / "manager.log").read_text().count("\n") < 20
