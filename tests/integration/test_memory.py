"""Memory that was used is used again, and a server gives it back when its clients have gone."""

import asyncio
import gc
import os
import platform
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from bench.processes import Cluster
from filesync.process import memory
from filesync.sync.options import Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote.client import Remote, sync_from, sync_to
from filesync.sync.remote.holders import Holders
from filesync.sync.remote.server import TreeServer
from filesync.transfer.coding.stream import StreamDecoder, StreamEncoder
from filesync.transfer.connection import listener_zmq
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.plane_zmq import DataPlane
from tests.integration.layer_pair import Side
from tests.integration.test_sync_plane import LOOPBACK
from worker.wire.disk import ReadUsage

PROGRAM: Final = (sys.executable, "-m", "filesync")
MIB: Final = 1 << 20
PAGE: Final = resource.getpagesize()
only_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="others have no arenas, and keep what they like"
)


@contextmanager
def serving(root: Path) -> Iterator[tuple[int, str]]:
    """Give the process and the address of a server of ``root``."""
    with subprocess.Popen(
        [*PROGRAM, "serve", str(root), "--listen", LOOPBACK], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.pid, server.stdout.readline().strip()
        finally:
            server.terminate()


async def given_back(root: Path, monkeypatch: pytest.MonkeyPatch, used_s: float) -> list[float]:
    """Return when memory was given back, in seconds after the last client of ``used_s`` had gone."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    gone: list[float] = []
    began = loop.time()
    drop_all = Holders._drop_all

    def dropping(self: Holders, channel: Channel) -> None:
        gone.append(loop.time())
        drop_all(self, channel)

    monkeypatch.setattr(Holders, "_drop_all", dropping)
    monkeypatch.setattr(listener_zmq, "PING_S", 0.05)
    monkeypatch.setattr(memory, "GIVE_BACK_S", 0.3)
    monkeypatch.setattr(memory, "give_back", lambda: times.append(loop.time()))
    server = TreeServer(ServedPlaces(root), read_only=False, caches=None)
    async with DataPlane(LOOPBACK, answer=server.answer) as plane:
        server.use(plane)
        remote = Remote(plane.address, b"dest")
        is_used = True
        while is_used:
            is_used = loop.time() - began < used_s
            await sync_to([os.fsencode(root / "src") + b"/"], remote, Options())
        await asyncio.sleep(1.2)
    return [time - gone[-1] for time in times]


@pytest.mark.parametrize("used_s", [0, 1])
def test_memory_is_given_back_some_time_after_a_client_has_gone_whoever_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used_s: int
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_bytes(b"content")
    times = asyncio.run(asyncio.wait_for(given_back(tmp_path, monkeypatch, used_s), 60))
    meanwhile, after = [t for t in times if t < 0], [t for t in times if t >= 0]
    assert bool(meanwhile) is bool(used_s)
    assert after
    assert after[-1] > 0.2
    assert len(after) <= 2, "nobody has come since"


def noting(
    make: Callable[..., None], made: list[weakref.ref[object]]
) -> Callable[[object], None]:
    """Return what does as ``make``, an ``__init__``, and takes note of what was made."""

    def note(self: object) -> None:
        make(self)
        made.append(weakref.ref(self))

    return note


async def streamed(root: Path, *, pulls: bool) -> None:
    """Have a directory come from a server, or go there, as a stream."""
    server = TreeServer(ServedPlaces(root), read_only=False, caches=None)
    options = Options(flow=Flow(Compress.ZSTD))
    async with DataPlane(LOOPBACK, answer=server.answer) as plane:
        server.use(plane)
        if pulls:
            there = [Remote(plane.address, b"src/")]
            await sync_from(there, os.fsencode(root / "dest"), options)
        else:
            given = [os.fsencode(root / "src") + b"/"]
            await sync_to(given, Remote(plane.address, b"dest"), options)


@pytest.mark.parametrize("pulls", [False, True], ids=["given", "taken"])
def test_what_streams_take_goes_with_their_sessions_before_python_looks_for_cycles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pulls: bool
) -> None:
    made: list[weakref.ref[object]] = []
    for end in (StreamEncoder, StreamDecoder):
        monkeypatch.setattr(end, "__init__", noting(end.__init__, made))
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_bytes(b"0123456789" * MIB)
    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(streamed(tmp_path, pulls=pulls), 60))
        assert len(made) == 2
        assert [one() for one in made] == [None, None]
    finally:
        gc.enable()


def test_a_worker_gives_memory_back_some_time_after_an_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []

    async def given_back() -> int:
        async with Side(tmp_path / "worker") as side:
            await side.service.perform(1, ReadUsage(), lambda _: None)
            assert not calls
            await asyncio.sleep(1)
        return len(calls)

    monkeypatch.setattr(memory, "GIVE_BACK_S", 0.3)
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(None))
    assert asyncio.run(given_back()) == 1


def test_giving_back_does_no_harm() -> None:
    used = [bytes(1000) for _ in range(100_000)]
    del used[::2]
    memory.give_back()
    assert all(not any(one) for one in used[::1000])


def test_what_is_held_in_a_cycle_alone_is_given_back() -> None:
    class Held:
        """What holds itself."""

        itself: "Held"

    gc.disable()
    try:
        held = Held()
        held.itself = held
        is_there = weakref.ref(held)
        del held
        assert is_there()
        memory.give_back()
        assert not is_there()
    finally:
        gc.enable()


def arenas(pid: int) -> int:
    """Count what glibc has threads allocate from, besides the heap: each begins at a multiple of 64 MiB."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    starts = [int(words[0].split("-")[0], 16) for words in lines if words[1] == "rw-p"]
    return sum(start % (64 << 20) == 0 for start in starts)


@only_glibc
def test_threads_of_a_server_share_what_they_allocate_from(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"src/{number % 20}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"src/{number % 20}/{number}").write_bytes(os.urandom(20_000))
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as (pid, address):
        subprocess.run([*PROGRAM, "sync", f"{tmp_path}/src/", f"{address}/dest/"], check=True)
        assert arenas(pid) <= 1


@only_glibc
def test_so_do_those_of_a_worker_and_of_a_manager(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_bytes(os.urandom(20_000))
    (tmp_path / "src/Dockerfile").write_text("FROM scratch\nCOPY file /a\nCOPY file /b\n")
    with Cluster(tmp_path / "cluster", workers=1) as cluster:
        cluster.build(tmp_path / "src", "-o", f"type=local,dest={tmp_path}/out")
        for process in cluster.processes.values():
            assert arenas(process.pid) <= 1


TAKEN_AGAIN = """
import resource
from filesync.process.memory import keep_pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        [bytearray(1 << 20) for _ in range(48)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_pages()
faults()
print(before, faults())
"""


@only_glibc
def test_what_is_kept_costs_no_fault_a_page_when_it_is_taken_again() -> None:
    command = [sys.executable, "-c", TAKEN_AGAIN]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, after = map(int, said.split())
    assert before > 5 * 48 * MIB // PAGE
    assert after < MIB // PAGE


@pytest.mark.parametrize("size", [1000, 2 * MIB])
@pytest.mark.parametrize("pulls", [False, True], ids=["given", "taken"])
def test_memory_is_kept_by_who_gives_and_by_who_takes_megabytes(
    tmp_path: Path, pulls: bool, size: int
) -> None:
    served, here = tmp_path / "served", tmp_path / "here"
    for root in (served, here):
        (root / "src").mkdir(parents=True)
        (root / "src/file").write_bytes(os.urandom(size))
    with serving(served) as (_, address):
        memory.keep_pages.cache_clear()
        if pulls:
            there = [Remote(address, b"src/")]
            asyncio.run(sync_from(there, os.fsencode(here / "dest"), Options()))
        else:
            given = [os.fsencode(here / "src") + b"/"]
            asyncio.run(sync_to(given, Remote(address, b"dest"), Options()))
    assert memory.keep_pages.cache_info().currsize == (size >= MIB)
