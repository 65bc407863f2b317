"""Two data planes, and one against peers that break the protocol, over real sockets."""

import asyncio
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio
import zstandard

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.scan import scan
from filesync.disk.updating.update import TreeUpdate, UpdateStats, WantedFile
from filesync.errors import (
    ContentCorrupt,
    FilesyncError,
    MalformedMessage,
    Unavailable,
    UnexpectedMessage,
)
from filesync.manifest import Manifest, MemoryNodes
from filesync.transfer import wire
from filesync.transfer.coding import chunking, delta, recipe
from filesync.transfer.coding.stream import StreamEncoder
from filesync.transfer.connection import calls_zmq, channel_zmq, listener_zmq
from filesync.transfer.errors import (
    InsecureListen,
    NotOffered,
    Refused,
    TooMuchWanted,
    VersionMismatch,
)
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.plane_zmq import THREADS, DataPlane
from filesync.transfer.receive import candidates, incoming_zmq, landing_disk, pull_zmq
from filesync.transfer.receive.pull_zmq import Pull
from filesync.transfer.replica import Replica
from filesync.transfer.send import outgoing_zmq, send_zmq
from filesync.transfer.send.offer import Offer
from filesync.transfer.send.outgoing_zmq import MAX_SESSIONS
from filesync.transfer.stats import Progress, PullStats
from filesync.transfer.timeouts import Timeouts
from filesync.transfer.wire import Codec
from tests.integration.fewdescriptors import few_descriptors

LOOPBACK = "tcp://127.0.0.1:0"
BIG_BYTES = 16 << 20
PATIENT = Timeouts()
QUICK = Timeouts(opening_s=5.0, serve_s=5.0, stall_s=0.3)


def make_tree(root: Path, files: dict[str, bytes]) -> Manifest:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    nodes = MemoryNodes()
    return Manifest(scan(root, nodes).tree, nodes)


def make_big(root: Path) -> Manifest:
    """Make a tree of one large file."""
    root.mkdir()
    return make_tree(root, {"big": random.Random(4).randbytes(BIG_BYTES)})


def random_files(seed: int = 0) -> dict[str, bytes]:
    rng = random.Random(seed)
    sizes = [0, 1, 100, 4096, 70_000, 256 << 10, 300_000, 3 << 20]
    files = {f"d{n % 3}/f{n}": rng.randbytes(size) for n, size in enumerate(sizes)}
    files |= {f"many/{n}": rng.randbytes(rng.randrange(2000)) for n in range(300)}
    files["text"] = b"the same line again\n" * 50_000
    return files


def update_of(dest: Path, manifest: Manifest) -> TreeUpdate:
    """Return an update of ``dest``, as it is found, to ``manifest``."""
    dest.mkdir(exist_ok=True)
    basis = Manifest(scan(dest, manifest.nodes).tree, manifest.nodes)
    return TreeUpdate(dest, basis=basis, target=manifest)


def tree_of(root: Path) -> Digest:
    return scan(root, MemoryNodes()).tree


async def pull(
    plane: DataPlane,
    dest: Path,
    manifest: Manifest,
    *replicas: Replica,
    standby: Sequence[Replica] = (),
    progress: Callable[[Progress], None] | None = None,
    timeouts: Timeouts = PATIENT,
) -> PullStats:
    return await plane.pull(
        update_of(dest, manifest),
        replicas,
        tree=manifest.tree,
        standby=standby,
        progress=progress,
        timeouts=timeouts,
    )


@pytest.fixture
def source(tmp_path: Path) -> Manifest:
    root = tmp_path / "source"
    root.mkdir()
    return make_tree(root, random_files())


def test_a_tree_is_pulled_from_a_listener(source: Manifest, tmp_path: Path) -> None:
    seen: list[Progress] = []

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            replica = Replica(sender.address, offer.token)
            stats = await pull(
                receiver, tmp_path / "dest", source, replica, progress=seen.append
            )
            assert tree_of(tmp_path / "dest") == source.tree
            assert stats.content_bytes == source.summary.size
            assert seen[-1].content_bytes == stats.content_bytes
            # Every content but the empty one, once.
            assert seen[-1].files == stats.files == len(set(random_files().values())) - 1
            # On one machine nothing gets faster by being compressed: the first frame alone is.
            assert 0 < stats.content_bytes - receiver.counters.data_in < 1 << 20
            assert sender.counters.data_out == receiver.counters.data_in
            assert receiver.counters.data_out == sender.counters.data_in == 0
            assert stats.replicas[0].wire_in == stats.wire_in > receiver.counters.data_in

    asyncio.run(main())


def test_a_sender_that_cannot_listen_dials_the_receiver(
    source: Manifest, tmp_path: Path
) -> None:
    async def main() -> None:
        async with DataPlane() as sender, DataPlane(LOOPBACK) as receiver:
            offer = sender.offer(source, tmp_path / "source")
            serving = asyncio.create_task(sender.serve_to(receiver.address, offer))
            await pull(receiver, tmp_path / "dest", source, Replica(None, offer.token))
            assert tree_of(tmp_path / "dest") == source.tree
            offer.close()
            await serving

    asyncio.run(main())


def test_what_is_there_already_is_not_asked_for(source: Manifest, tmp_path: Path) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            await pull(
                receiver, tmp_path / "dest", source, Replica(sender.address, offer.token)
            )
            moved = receiver.counters.wire_in
            await pull(
                receiver, tmp_path / "dest", source, Replica("tcp://127.0.0.1:1", b"x" * 16)
            )
            assert receiver.counters.wire_in == moved

    asyncio.run(main())


def test_several_sessions_share_a_connection(source: Manifest, tmp_path: Path) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            replica = Replica(sender.address, offer.token)
            async with asyncio.TaskGroup() as group:
                pulls = [
                    group.create_task(
                        pull(receiver, tmp_path / f"dest{number}", source, replica)
                    )
                    for number in range(4)
                ]
            for number in range(4):
                assert tree_of(tmp_path / f"dest{number}") == source.tree
            counted = sum(task.result().wire_in for task in pulls)
            assert receiver.counters.data_in < counted <= receiver.counters.wire_in

    asyncio.run(main())


def updated(root: Path, old: dict[str, bytes], new: dict[str, bytes]) -> PullStats:
    """Bring a tree of ``old`` files to ``new`` ones over a connection; return what it took."""
    for name in ("source", "dest"):
        (root / name).mkdir()
    source = make_tree(root / "source", new)
    make_tree(root / "dest", old)

    async def main() -> PullStats:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, root / "source")
            replica = Replica(sender.address, offer.token)
            stats = await pull(receiver, root / "dest", source, replica)
            assert tree_of(root / "dest") == source.tree
            return stats

    return asyncio.run(main())


def test_an_insertion_in_a_large_file_moves_little(tmp_path: Path) -> None:
    old = random.Random(2).randbytes(16 << 20)
    new = old[: 8 << 20] + random.Random(3).randbytes(1 << 20) + old[8 << 20 :]
    stats = updated(tmp_path, {"image": old}, {"image": new})
    assert stats.copied_bytes >= (16 << 20) - (256 << 10)
    assert stats.wire_in + stats.wire_out < (1 << 20) + (256 << 10)


def test_a_large_file_that_changed_throughout_takes_little_memory(tmp_path: Path) -> None:
    old, new = (random.Random(seed).randbytes(192 << 20) for seed in (4, 5))
    for name, data in (("source", new), ("dest", old)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(data)
    server = subprocess.Popen(
        [sys.executable, "-m", "filesync", "serve", str(tmp_path), "--listen", LOOPBACK],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        copy = ["sync", f"{tmp_path}/source/", f"{address}/dest/"]
        subprocess.run([sys.executable, "-m", "filesync", *copy], check=True, timeout=120)
        lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        (peak,) = (line for line in lines if line.startswith("VmHWM"))
        assert int(peak.split()[1]) << 10 < 192 << 20
    finally:
        server.terminate()
        server.communicate(timeout=20)
    assert (tmp_path / "dest/file").read_bytes() == new


def test_single_bytes_changed_in_a_large_file_move_little(tmp_path: Path) -> None:
    old = random.Random(2).randbytes(4 << 20)
    new = bytearray(old)
    for at in range(16):
        new[at * 250_000 + 9] ^= 1
    stats = updated(tmp_path, {"image": old}, {"image": bytes(new)})
    # A chunk has 16 KiB on average; one such byte costs a piece or two of 512.
    assert stats.wire_in + stats.wire_out < 16 * (4 << 10)


def test_a_file_that_was_put_together_here_is_not_cut_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    versions = [rng.randbytes(4 << 20)]
    for _ in range(3):
        at = rng.randrange(4 << 20)
        versions.append(versions[-1][:at] + b"inserted" + versions[-1][at:])
    (tmp_path / "source").mkdir()
    make_tree(tmp_path / "dest", {"file": versions[0]})
    cut: list[int] = []

    def counting(
        read: chunking.Read, offset: int, end: int, *, enough: int | None = None
    ) -> recipe.Recipe:
        cut.append(end - offset)
        return chunking.cut(read, offset, end, enough=enough)

    monkeypatch.setattr(landing_disk, "cut", counting)

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            for version in versions[1:]:
                manifest = make_tree(tmp_path / "source", {"file": version})
                with sender.offer(manifest, tmp_path / "source") as offer:
                    replica = Replica(sender.address, offer.token)
                    stats = await pull(receiver, tmp_path / "dest", manifest, replica)
                assert (tmp_path / "dest/file").read_bytes() == version
                assert stats.content_bytes < 100_000

    asyncio.run(main())
    assert cut == [len(versions[0])]


def test_an_old_file_that_is_not_what_its_recipe_says_costs_bytes_alone(tmp_path: Path) -> None:
    rng = random.Random(4)
    first, second = rng.randbytes(4 << 20), rng.randbytes(4 << 20)
    (tmp_path / "source").mkdir()
    make_tree(tmp_path / "dest", {"file": first})

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:

            async def bring(content: bytes, *, rot: bool = False) -> PullStats:
                manifest = make_tree(tmp_path / "source", {"file": content})
                with sender.offer(manifest, tmp_path / "source") as offer:
                    replica = Replica(sender.address, offer.token)
                    update = update_of(tmp_path / "dest", manifest)
                    if rot:
                        (tmp_path / "dest/file").write_bytes(second)
                    stats = await receiver.pull(update, [replica], tree=manifest.tree)
                assert (tmp_path / "dest/file").read_bytes() == content
                return stats

            await bring(first + b"1")
            stats = await bring(first + b"2", rot=True)
            assert stats.content_bytes >= len(first)
            # What was told of it then is not believed any more, and cutting it helps again.
            assert (await bring(first + b"3")).content_bytes < 100_000

    asyncio.run(main())


def test_a_line_edited_in_small_files_moves_little(tmp_path: Path) -> None:
    rng = random.Random(2)
    old = {f"f{n}": rng.randbytes(60_000) for n in range(20)}
    new = {name: data[:30_000] + b"a line" + data[30_000:] for name, data in old.items()}
    stats = updated(tmp_path, old, new)
    assert stats.wire_in + stats.wire_out < 20 * 4000


@pytest.mark.parametrize("compress", Compress)
def test_holes_are_a_few_bytes_on_any_link(tmp_path: Path, compress: Compress) -> None:
    (tmp_path / "source").mkdir()
    with (tmp_path / "source" / "disk").open("wb") as disk:
        disk.write(b"begin")
        disk.truncate(64 << 20)
    source = make_tree(tmp_path / "source", {})

    async def main() -> PullStats:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            return await receiver.pull(
                update_of(tmp_path / "dest", source),
                [Replica(sender.address, offer.token)],
                tree=source.tree,
                flow=Flow(compress=compress),
            )

    # The frame that has the begin is sent as it is where nothing is compressed.
    assert asyncio.run(main()).wire_in < (2 << 20)
    assert tree_of(tmp_path / "dest") == source.tree
    assert (tmp_path / "dest" / "disk").stat().st_blocks * 512 < 2 << 20


def test_nothing_is_compressed_when_that_is_asked_for(source: Manifest, tmp_path: Path) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            stats = await receiver.pull(
                update_of(tmp_path / "dest", source),
                [Replica(sender.address, offer.token)],
                tree=source.tree,
                flow=Flow(compress=Compress.NONE),
            )
            assert receiver.counters.data_in == stats.content_bytes == source.summary.size

    asyncio.run(main())


def neighbours(count: int) -> dict[str, bytes]:
    """Return files that resemble each other, and of which no frame holds two."""
    text = random.Random(3).randbytes(600_000).hex().encode()
    return {f"f{n}": text[n * 1000 :] for n in range(count)}


@pytest.mark.parametrize("sessions", [1, 3])
def test_files_that_resemble_their_neighbours_take_few_bytes(
    sessions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing_zmq, "MAX_STREAMS", 1)
    (tmp_path / "source").mkdir()
    source = make_tree(tmp_path / "source", neighbours(6))

    async def main() -> list[PullStats]:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source", flow=Flow(Compress.ZSTD))
            replica = Replica(sender.address, offer.token)
            async with asyncio.TaskGroup() as group:
                pulls = [
                    group.create_task(pull(receiver, tmp_path / f"dest{n}", source, replica))
                    for n in range(sessions)
                ]
            for number in range(sessions):
                assert tree_of(tmp_path / f"dest{number}") == source.tree
            return [task.result() for task in pulls]

    taken = sorted(stats.wire_in for stats in asyncio.run(main()))
    whole = source.summary.size
    assert taken[0] < whole / 4
    # Who comes when there is no room for another stream gets frames that stand alone.
    assert all(one > whole / 2 for one in taken[1:])


# --- several replicas ---------------------------------------------------------------------------


def test_several_replicas_give_one_file_at_once(tmp_path: Path) -> None:
    source = make_big(tmp_path / "source")

    async def main() -> None:
        async with (
            DataPlane(LOOPBACK) as one,
            DataPlane(LOOPBACK) as two,
            DataPlane(window_bytes=4 << 20) as receiver,
        ):
            slowly = Flow(bytes_per_s=32 << 20)
            offers = [p.offer(source, tmp_path / "source", flow=slowly) for p in (one, two)]
            stats = await pull(
                receiver,
                tmp_path / "dest",
                source,
                *[Replica(p.address, o.token) for p, o in zip((one, two), offers, strict=True)],
            )
            assert tree_of(tmp_path / "dest") == source.tree
            assert all(replica.content_bytes >= 4 << 20 for replica in stats.replicas)
            assert stats.content_bytes == source.summary.size

    asyncio.run(main())


def test_pulls_at_once_share_the_memory_and_descriptors_that_one_may_take(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming_zmq, "ALL_WINDOWS_BYTES", 6 << 20)
    monkeypatch.setattr(incoming_zmq, "LEAST_WINDOW_BYTES", 2 << 20)
    monkeypatch.setattr(incoming_zmq, "may_open", lambda: 128)
    limits: list[int] = []
    files: list[int] = []
    limit = Pull.limit

    def noted(pull: Pull, window_bytes: int, delta_files: int) -> None:
        limits.append(window_bytes >> 20)
        files.append(delta_files)
        limit(pull, window_bytes, delta_files)

    monkeypatch.setattr(Pull, "limit", noted)

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane(window_bytes=5 << 20) as receiver:
            slowly = Flow(bytes_per_s=16 << 20)
            offer = sender.offer(source, tmp_path / "source", flow=slowly)
            given = Replica(sender.address, offer.token)
            await asyncio.gather(
                *(pull(receiver, tmp_path / f"{n}", source, given) for n in range(4))
            )
            assert all(tree_of(tmp_path / f"{n}") == source.tree for n in range(4))

    asyncio.run(main())
    coming, going = limits[:10], limits[10:]
    assert coming == [5] + [3] * 2 + [2] * 3 + [2] * 4, "no more than its own, and the least"
    assert going == [2] * 3 + [3] * 2 + [5]
    assert files[:10] == [16] + [8] * 2 + [5] * 3 + [4] * 4


def test_who_takes_is_sent_to_while_all_that_is_given_waits_for_the_disk(
    source: Manifest, tmp_path: Path
) -> None:
    waiting, is_taken = threading.Semaphore(0), threading.Event()

    class Slow(TreeUpdate):
        def finish(self) -> UpdateStats:
            waiting.release()  # as where a million names are to be removed, which takes a disk minutes
            assert is_taken.wait(20)
            return super().finish()

    async def main() -> None:
        async with DataPlane(LOOPBACK) as server, DataPlane(LOOPBACK) as client:
            taken, given = (
                Replica(plane.address, plane.offer(source, tmp_path / "source").token)
                for plane in (server, client)
            )
            async with asyncio.TaskGroup() as gifts:
                for number in range(THREADS):
                    update = Slow(tmp_path / f"{number}", basis=None, target=source)
                    gifts.create_task(server.pull(update, [given], tree=source.tree))
                for _ in range(THREADS):
                    await asyncio.to_thread(waiting.acquire)
                try:
                    await pull(
                        client, tmp_path / "taken", source, taken, timeouts=Timeouts(stall_s=2)
                    )
                finally:
                    is_taken.set()
        assert tree_of(tmp_path / "taken") == tree_of(tmp_path / "0") == source.tree

    asyncio.run(main())


def test_a_replica_that_is_much_slower_is_left_in_the_middle_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_zmq, "LAGGARD_S", 0.2)
    monkeypatch.setattr(pull_zmq, "_LOOK_S", 0.05)
    source = make_big(tmp_path / "source")

    async def main() -> None:
        async with (
            DataPlane(LOOPBACK) as slow,
            DataPlane(LOOPBACK) as fast,
            DataPlane(window_bytes=8 << 20) as receiver,
        ):
            crawling = slow.offer(source, tmp_path / "source", flow=Flow(bytes_per_s=128 << 10))
            offer = fast.offer(source, tmp_path / "source")
            stats = await pull(
                receiver,
                tmp_path / "dest",
                source,
                Replica(slow.address, crawling.token),
                Replica(fast.address, offer.token),
            )
            assert tree_of(tmp_path / "dest") == source.tree
            assert "much slower" in str(stats.replicas[0].error)
            assert stats.replicas[1].content_bytes >= 14 << 20
            assert stats.content_bytes == source.summary.size

    asyncio.run(main())


# --- replicas that stand by ---------------------------------------------------------------------


def test_a_rate_that_no_large_frame_keeps_to_in_time_is_kept_to_by_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_zmq, "FRAME_S", 0.2)
    (tmp_path / "source").mkdir()
    source = make_tree(tmp_path / "source", {"f": random.Random(5).randbytes(5 << 18)})

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source", flow=Flow(bytes_per_s=5 << 16))
            given = Replica(sender.address, offer.token)
            timeouts = Timeouts(stall_s=1.5)
            await pull(receiver, tmp_path / "dest", source, given, timeouts=timeouts)

    asyncio.run(main())
    assert tree_of(tmp_path / "dest") == source.tree


def test_who_stands_by_is_not_asked_while_another_gives(tmp_path: Path) -> None:
    source = make_big(tmp_path / "source")

    async def main() -> None:
        async with DataPlane(LOOPBACK) as one, DataPlane(LOOPBACK) as two, DataPlane() as taker:
            offers = [p.offer(source, tmp_path / "source") for p in (one, two)]
            given = [
                Replica(p.address, o.token) for p, o in zip((one, two), offers, strict=True)
            ]
            stats = await pull(taker, tmp_path / "dest", source, given[0], standby=given[1:])
            assert tree_of(tmp_path / "dest") == source.tree
            assert len(stats.replicas) == 1
            assert two.counters.wire_in == 0

    asyncio.run(main())


def test_who_stands_by_goes_on_where_another_has_died(tmp_path: Path) -> None:
    source = make_big(tmp_path / "source")

    async def main() -> None:
        async with (
            DataPlane(LOOPBACK) as one,
            DataPlane(LOOPBACK) as two,
            DataPlane(window_bytes=1 << 20) as taker,
        ):
            offers = [p.offer(source, tmp_path / "source") for p in (one, two)]
            given = [
                Replica(p.address, o.token) for p, o in zip((one, two), offers, strict=True)
            ]

            def die(_: Progress) -> None:
                if one.counters.data_out > 4 << 20:
                    offers[0].close()

            stats = await pull(
                taker, tmp_path / "dest", source, given[0], standby=given[1:], progress=die
            )
            assert tree_of(tmp_path / "dest") == source.tree
            assert stats.replicas[0].error
            assert stats.content_bytes == source.summary.size

    asyncio.run(main())


@pytest.mark.parametrize(
    ("first", "standby", "stays"),
    [(1 << 20, 64 << 20, True), (16 << 20, 4 << 20, False)],
    ids=["much faster", "slower"],
)
def test_who_stands_by_is_tried_and_stays_if_it_is_much_faster(
    first: int, standby: int, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "TRIAL_AFTER_S", 0.05)
    source = make_big(tmp_path / "source")

    async def main() -> None:
        async with (
            DataPlane(LOOPBACK) as one,
            DataPlane(LOOPBACK) as two,
            DataPlane(window_bytes=4 << 20) as taker,
        ):
            offers = [
                plane.offer(source, tmp_path / "source", flow=Flow(bytes_per_s=rate))
                for plane, rate in ((one, first), (two, standby))
            ]
            given = [
                Replica(p.address, o.token) for p, o in zip((one, two), offers, strict=True)
            ]
            stats = await pull(taker, tmp_path / "dest", source, given[0], standby=given[1:])
            assert tree_of(tmp_path / "dest") == source.tree
            assert stats.content_bytes == source.summary.size
            assert not any(one.error for one in stats.replicas)
            assert len(stats.replicas) > 1, "it was tried"
            given_bytes = sum(one.content_bytes for one in stats.replicas[1:])
            assert (given_bytes > BIG_BYTES // 2) is stays

    asyncio.run(main())


def test_while_one_on_trial_does_not_come_nobody_looks_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "TRIAL_AFTER_S", 0.01)
    source = make_big(tmp_path / "source")
    looks = 0
    expire = Pull._expire

    def note(pull: Pull) -> None:
        nonlocal looks
        looks += 1
        expire(pull)

    async def main() -> None:
        async with (
            DataPlane(LOOPBACK) as one,
            DataPlane(LOOPBACK) as two,
            DataPlane(window_bytes=4 << 20) as taker,
        ):
            offers = [
                one.offer(source, tmp_path / "source", flow=Flow(bytes_per_s=BIG_BYTES)),
                two.offer(source, tmp_path / "source"),
            ]
            given = [
                Replica(p.address, o.token) for p, o in zip((one, two), offers, strict=True)
            ]
            standby = [Replica(None, bytes(16)), given[1]]
            await pull(taker, tmp_path / "dest", source, given[0], standby=standby)

    monkeypatch.setattr(Pull, "_expire", note)
    asyncio.run(main())
    assert looks < 20


# --- replicas that fail -------------------------------------------------------------------------


def test_the_next_replica_is_tried_when_one_is_not_there(
    source: Manifest, tmp_path: Path
) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane(LOOPBACK) as receiver:
            offer = sender.offer(source, tmp_path / "source")
            stats = await pull(
                receiver,
                tmp_path / "dest",
                source,
                Replica("tcp://127.0.0.1:1", offer.token),
                Replica(sender.address, b"no such token 16"),
                Replica(sender.address, offer.token),
            )
            assert tree_of(tmp_path / "dest") == source.tree
            assert [bool(one.error) for one in stats.replicas] == [True, True, False]

    asyncio.run(main())


def test_another_replica_goes_on_where_one_has_died(source: Manifest, tmp_path: Path) -> None:
    async def main() -> None:
        first = await DataPlane(LOOPBACK).__aenter__()
        async with DataPlane(LOOPBACK) as second, DataPlane(window_bytes=1 << 20) as receiver:
            dying = first.offer(source, tmp_path / "source")
            slowly = Flow(bytes_per_s=2 << 20)  # so that the other gives much of it before
            staying = second.offer(source, tmp_path / "source", flow=slowly)

            def die(_: Progress) -> None:
                if first.counters.data_out > 2 << 20:  # of which a window's worth has come
                    dying.close()

            stats = await pull(
                receiver,
                tmp_path / "dest",
                source,
                Replica(first.address, dying.token),
                Replica(second.address, staying.token),
                progress=die,
            )
            assert tree_of(tmp_path / "dest") == source.tree
            assert stats.replicas[0].error
            assert stats.replicas[0].content_bytes > 0
            assert stats.replicas[1].content_bytes > 0
            # At most one large file was under way and had to come again.
            assert stats.content_bytes <= source.summary.size + (4 << 20)
        await first.__aexit__(None, None, None)

    asyncio.run(main())


def test_another_replica_goes_on_where_one_talks_nonsense(
    source: Manifest, tmp_path: Path
) -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        liar = context.socket(zmq.ROUTER)
        liar.linger = 0
        port = liar.bind_to_random_port("tcp://127.0.0.1")

        async def talk_nonsense() -> None:
            while True:
                identity, *frames = await liar.recv_multipart()
                message, _ = wire.decode(frames)
                if isinstance(message, wire.Hello):
                    await liar.send_multipart([identity, *frames])
                if isinstance(message, wire.Open):
                    await liar.send_multipart([identity, b"\xc1"])

        lying = asyncio.create_task(talk_nonsense())
        try:
            async with DataPlane(LOOPBACK) as honest, DataPlane() as receiver:
                offer = honest.offer(source, tmp_path / "source")
                replicas = [
                    Replica(f"tcp://127.0.0.1:{port}", bytes(16)),
                    Replica(honest.address, offer.token),
                ]
                stats = await pull(receiver, tmp_path / "dest", source, *replicas)
                assert "not a message" in str(stats.replicas[0].error)
            assert tree_of(tmp_path / "dest") == source.tree
        finally:
            lying.cancel()
            await asyncio.wait([lying])
            context.destroy(linger=0)

    asyncio.run(main())


def test_no_replica_is_an_error_and_leaves_no_temporary_files(
    source: Manifest, tmp_path: Path
) -> None:
    async def main() -> None:
        async with DataPlane() as receiver:
            with pytest.raises(Unavailable):
                await pull(receiver, tmp_path / "dest", source)
        assert not [path for path in (tmp_path / "dest").iterdir() if path.is_file()]
        assert not list((tmp_path / "dest").glob(".filesync*"))

    asyncio.run(main())


def test_a_file_that_changed_after_the_scan_is_told(source: Manifest, tmp_path: Path) -> None:
    (tmp_path / "source/d2/f2").write_bytes(b"shorter")

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            with pytest.raises(Refused, match="changed after it was scanned") as caught:
                await pull(
                    receiver, tmp_path / "dest", source, Replica(sender.address, offer.token)
                )
            assert caught.value.reason == "source-changed"

    asyncio.run(main())


class FullQueue:
    """Has no room for the next messages of one kind."""

    def __init__(self, patch: pytest.MonkeyPatch, op: bytes, times: int = 3) -> None:
        self.left = times
        self._op = op
        self._send = channel_zmq.send_nowait
        patch.setattr(channel_zmq, "send_nowait", self._send_unless_full)

    def _send_unless_full(
        self, socket: zmq.asyncio.Socket, frames: Sequence[wire.Buffer], *, copy: bool = True
    ) -> None:
        if self.left and b"\xa2op" + msgspec.msgpack.encode(self._op.decode()) in bytes(
            frames[-1]
        ):
            self.left -= 1
            raise zmq.Again
        self._send(socket, frames, copy=copy)


def test_a_refusal_reaches_a_peer_that_has_not_read_what_came_before(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source/d2/f2").unlink()
    (tmp_path / "source/d2/f2").symlink_to(tmp_path)

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            full = FullQueue(monkeypatch, b"refuse")
            with pytest.raises(Refused, match="changed after it was scanned"):
                await pull(
                    receiver, tmp_path / "dest", source, Replica(sender.address, offer.token)
                )
            assert not full.left

    asyncio.run(main())


def test_that_an_offer_is_closed_reaches_a_peer_that_has_not_read_what_came_before(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        # Nothing but the refusal ends this pull.
        patient = Timeouts(stall_s=3600)
        async with DataPlane(LOOPBACK) as sender, DataPlane(window_bytes=1 << 20) as receiver:
            offer = sender.offer(source, tmp_path / "source")
            full = FullQueue(monkeypatch, b"refuse")
            with pytest.raises(Refused, match="the offer was closed"):
                async with asyncio.timeout(20):
                    await pull(
                        receiver,
                        tmp_path / "dest",
                        source,
                        Replica(sender.address, offer.token),
                        progress=lambda _: offer.close(),
                        timeouts=patient,
                    )
            assert not full.left

    asyncio.run(main())


def test_that_nothing_is_on_offer_reaches_a_peer_that_has_not_read_what_came_before(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            full = FullQueue(monkeypatch, b"refuse")
            with pytest.raises(Refused, match="not on offer"):
                await pull(
                    receiver, tmp_path / "dest", source, Replica(sender.address, bytes(16))
                )
            assert not full.left

    asyncio.run(main())


def test_that_a_session_is_over_reaches_a_sender_that_has_not_read_what_came_before(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            full = FullQueue(monkeypatch, b"close")
            await pull(
                receiver, tmp_path / "dest", source, Replica(sender.address, offer.token)
            )
            await no_session(offer)
            assert not full.left

    asyncio.run(main())


def test_why_a_call_failed_reaches_a_peer_that_has_not_read_what_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as listener, DataPlane() as caller:
            channel = await caller.connect(listener.address)
            full = FullQueue(monkeypatch, b"reply")
            with pytest.raises(Refused, match="answers no requests"):
                await calls_zmq.call(channel, b"", stall_s=20)
            assert not full.left

    asyncio.run(main())


def test_a_file_that_became_a_link_is_not_followed(source: Manifest, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(100))
    (tmp_path / "source/d2/f2").unlink()
    (tmp_path / "source/d2/f2").symlink_to(secret)

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            with pytest.raises(Refused):
                await pull(
                    receiver, tmp_path / "dest", source, Replica(sender.address, offer.token)
                )

    asyncio.run(main())


def test_a_sender_that_dialled_and_died_is_noticed(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_zmq, "PING_S", 0.05)

    async def main() -> None:
        context = zmq.asyncio.Context()
        async with DataPlane(LOOPBACK) as receiver:
            token = bytes(16)
            task = asyncio.create_task(
                pull(receiver, tmp_path / "dest", source, Replica(None, token))
            )
            peer = RawPeer(context, receiver.address)
            await peer.greet()
            await peer.say(wire.Serve(token))
            while not isinstance(message := await peer.hear(), wire.Open):
                pass
            await peer.say(wire.Opened(message.session))
            while not isinstance(await peer.hear(), wire.Want):
                pass
            peer.socket.close(linger=0)
            with pytest.raises(Unavailable, match="is gone"):
                await task
        context.destroy(linger=0)

    asyncio.run(main())


def test_a_pull_that_is_cancelled_ends_the_session_and_cleans_up(
    source: Manifest, tmp_path: Path
) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            replica = Replica(sender.address, offer.token)
            started = asyncio.Event()
            task = asyncio.create_task(
                pull(
                    receiver,
                    tmp_path / "dest",
                    source,
                    replica,
                    progress=lambda _: started.set(),
                )
            )
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            left = [path.name for path in (tmp_path / "dest").glob(".filesync*")]
            # What came of a large file stays, for the next pull.
            assert left in ([], [".filesync-partial"])
            await pull(receiver, tmp_path / "dest", source, replica)
            assert tree_of(tmp_path / "dest") == source.tree
            assert not list((tmp_path / "dest").glob(".filesync*"))

    asyncio.run(main())


def held_below(root: Path) -> list[str]:
    """Return the files below ``root`` that this process has open."""
    held: list[str] = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            held.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in held if path.startswith(f"{root}/")]


def test_a_pull_that_is_cancelled_again_and_again_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = make_tree(tmp_path / "source", {"big": random.Random(7).randbytes(32 << 20)})

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            begun = asyncio.Event()
            pulling = asyncio.create_task(
                pull(
                    receiver,
                    tmp_path / "dest",
                    source,
                    Replica(sender.address, offer.token),
                    progress=lambda _: begun.set(),
                )
            )
            await begun.wait()
            for _ in range(20):
                pulling.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await pulling
            assert not held_below(tmp_path / "dest")
            assert not [one for one in asyncio.all_tasks() if "Effects" in repr(one)]

    asyncio.run(main())


def test_a_pull_that_fails_for_whatever_reason_ends_its_sessions(
    source: Manifest, tmp_path: Path
) -> None:
    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            update = update_of(tmp_path / "dest", source)
            fed = False

            async def feed() -> tuple[Sequence[WantedFile], bool]:
                nonlocal fed
                if not fed:
                    fed = True
                    return list(update.wanted()), False
                for _ in range(2000):
                    if offer.on_close:  # a session is open
                        raise ZeroDivisionError
                    await asyncio.sleep(0.01)
                raise AssertionError

            replica = Replica(sender.address, offer.token)
            with pytest.raises(ZeroDivisionError):
                await receiver.pull(update, [replica], tree=source.tree, feed=feed)
            await no_session(offer)

    asyncio.run(main())


async def no_session(offer: Offer) -> None:
    """Wait until no session of ``offer`` is open."""
    for _ in range(2000):
        if not offer.on_close:
            return
        await asyncio.sleep(0.01)
    pytest.fail("a session is still open")


def test_a_pull_for_which_there_are_no_descriptors_left_ends(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = make_tree(tmp_path / "source", {"file": SMALL})

    async def pull_with(spare: int, receiver: DataPlane, replica: Replica) -> None:
        update = update_of(tmp_path / f"dest{spare}", source)
        with ExitStack() as stack:

            async def feed() -> tuple[Sequence[WantedFile], bool]:
                stack.enter_context(few_descriptors(spare))
                return list(update.wanted()), True

            with suppress(FilesyncError, OSError):
                await receiver.pull(update, [replica], tree=source.tree, feed=feed)

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            replica = Replica(sender.address, offer.token)
            await pull(receiver, tmp_path / "dest", source, replica)
            # They run out in one of ZeroMQ's sockets, or in the connection.
            for spare in range(4):
                # Another address, and so another connection.
                other = sender.address.replace("127.0.0.1", f"127.0.0.{spare + 2}")
                async with asyncio.timeout(20):
                    await pull_with(spare, receiver, Replica(other, offer.token))

    asyncio.run(main())


def test_a_peer_that_has_dialled_and_is_gone_is_not_waited_for(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_zmq, "PING_S", 0.1)

    async def main() -> None:
        async with DataPlane(LOOPBACK) as receiver:
            async with DataPlane() as sender:
                offer = sender.offer(source, tmp_path / "source")
                replica = Replica(None, offer.token)
                serving = asyncio.create_task(sender.serve_to(receiver.address, offer))
                await pull(receiver, tmp_path / "a", source, replica)
                offer.close()
                await serving
            await asyncio.sleep(0.5)  # a ping, that it is gone
            with pytest.raises(Unavailable, match="is gone"):
                await pull(receiver, tmp_path / "b", source, replica, timeouts=QUICK)
            # Who dials again before anybody asks is there again.
            async with DataPlane() as sender:
                offer = sender.offer(source, tmp_path / "source", replica.token)
                serving = asyncio.create_task(sender.serve_to(receiver.address, offer))
                await asyncio.sleep(0.3)
                await pull(receiver, tmp_path / "c", source, replica)
                offer.close()
                await serving

    asyncio.run(main())


def test_two_pulls_wait_for_one_peer_that_dials(source: Manifest, tmp_path: Path) -> None:
    async def main() -> None:
        async with DataPlane() as sender, DataPlane(LOOPBACK) as receiver:
            offer = sender.offer(source, tmp_path / "source")
            replica = Replica(None, offer.token)
            hasty = asyncio.create_task(pull(receiver, tmp_path / "a", source, replica))
            patient = asyncio.create_task(pull(receiver, tmp_path / "b", source, replica))
            await asyncio.sleep(0.3)  # both wait by then
            hasty.cancel()
            await asyncio.wait([hasty])
            serving = asyncio.create_task(sender.serve_to(receiver.address, offer))
            await patient
            assert tree_of(tmp_path / "b") == source.tree
            offer.close()
            await serving

    asyncio.run(main())


def test_offers_that_were_served_leave_nothing_at_their_connection(
    source: Manifest, tmp_path: Path
) -> None:
    async def main() -> None:
        async with DataPlane() as sender, DataPlane(LOOPBACK) as receiver:
            channel = await sender.connect(receiver.address)
            before = len(channel.on_lost)
            offer = sender.offer(source, tmp_path / "source")
            for _ in range(10):
                serving = asyncio.create_task(sender.serve_to(receiver.address, offer))
                await asyncio.sleep(0.01)
                serving.cancel()
                await asyncio.wait([serving])
            assert (len(channel.on_lost), offer.on_close) == (before, [])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("old_bytes", "came_bytes"), [(3 << 20, 1 << 20), (1 << 20, 2 << 20), (1000, 2 << 20)]
)
def test_an_interrupted_file_is_made_of_what_came_and_of_the_old_one(
    old_bytes: int, came_bytes: int, tmp_path: Path
) -> None:
    new = random.Random(1).randbytes(4 << 20)
    (tmp_path / "source").mkdir()
    source = make_tree(tmp_path / "source", {"big": new})
    dest = tmp_path / "dest"
    dest.mkdir()
    # The old file has the new one's end, the interrupted update left the new one's start.
    (dest / "big").write_bytes(new[-old_bytes:])
    update = update_of(dest, source)
    update.prepare()
    large = update.open_large(next(update.wanted()))
    large.write(0, new[:came_bytes])
    large.abort()
    update.abort()

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            stats = await pull(receiver, dest, source, Replica(sender.address, offer.token))
            assert tree_of(dest) == source.tree
            missing = max(len(new) - old_bytes - came_bytes, 0)
            # A cut chunk at each of the edges comes whole.
            assert stats.content_bytes <= missing + 4 * recipe.MAX_CHUNK_BYTES
            assert stats.content_bytes + stats.copied_bytes == len(new)

    asyncio.run(main())


def test_deltas_that_tell_nothing_of_the_old_file_do_not_count_for_more_than_they_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a slow link: each delta is all of the new bytes, and says so in a few bytes more.
    monkeypatch.setattr("filesync.transfer.receive.fetch.delta_pays", lambda *_: True)
    rng = random.Random(1)
    new = {"big": rng.randbytes(1 << 20), "small": rng.randbytes(1000)}
    (tmp_path / "source").mkdir()
    source = make_tree(tmp_path / "source", new)
    dest = tmp_path / "dest"
    dest.mkdir()
    for name, content in new.items():
        (dest / name).write_bytes(rng.randbytes(len(content)))

    async def main() -> None:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, tmp_path / "source")
            stats = await pull(receiver, dest, source, Replica(sender.address, offer.token))
            assert tree_of(dest) == source.tree
            size = sum(len(content) for content in new.values())
            assert (stats.content_bytes, stats.copied_bytes) == (size, 0)

    asyncio.run(main())


def test_a_host_of_an_unknown_name_is_said_to_be_unknown(tmp_path: Path) -> None:
    command = ["filesync", "sync", "tcp://no-such-host.invalid:7701/x", str(tmp_path / "x")]
    said = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert said.returncode == 1
    assert "no IPv4 address is known for the name no-such-host.invalid" in said.stderr
    assert "running there" not in said.stderr


def test_listening_off_loopback_is_refused() -> None:
    with pytest.raises(InsecureListen):
        DataPlane("tcp://0.0.0.0:0")


# --- hostile senders ----------------------------------------------------------------------------

SMALL = b"the right content of the one file"

Said = tuple[wire.Message, bytes] | list[bytes] | None
"""A message and its payload, or frames as they are; None closes the connection."""
Reply = Callable[[wire.Message], Iterable[Said]]


async def hostile_sender(
    reply: Reply,
    dest: Path,
    tmp_path: Path,
    *,
    data: bytes = SMALL,
    timeouts: Timeouts = PATIENT,
    pause_s: float = 0.0,
    until: asyncio.Event | None = None,
) -> FilesyncError:
    """Pull ``data`` from a sender that answers with ``reply``; return what the pull raised.

    The connection lasts until then, and ``until`` that is set.
    """
    (tmp_path / "honest").mkdir(exist_ok=True)
    manifest = make_tree(tmp_path / "honest", {"file": data})
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")

    async def answer() -> None:
        while True:
            identity, *frames = await socket.recv_multipart()
            message, _ = wire.decode(frames)
            for said in reply(message):
                if said is None:
                    socket.close()
                    return
                out = said if isinstance(said, list) else wire.encode(*said)
                await socket.send_multipart([identity, *out])
                await asyncio.sleep(pause_s)

    task = asyncio.create_task(answer())
    forget_peak()
    before = peak_bytes()
    try:
        async with DataPlane() as receiver:
            with pytest.raises(FilesyncError) as caught:
                await pull(
                    receiver,
                    dest,
                    manifest,
                    Replica(f"tcp://127.0.0.1:{port}", bytes(16)),
                    timeouts=timeouts,
                )
            if until is not None:
                await asyncio.wait_for(until.wait(), 20)
    finally:
        task.cancel()
        await asyncio.wait([task])
        context.destroy(linger=0)
    assert set(os.listdir(dest)) <= {"file"}
    assert peak_bytes() - before < 64 << 20
    return caught.value


def forget_peak() -> None:
    """Let ``peak_bytes`` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the most memory that this process had since then."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) << 10


def politely(wants: Callable[[wire.Want], Iterable[Said]]) -> Reply:
    """Answer like a sender until something is wanted."""

    def reply(message: wire.Message) -> Iterable[Said]:
        match message:
            case wire.Hello():
                return [(wire.Hello(wire.VERSION), b"")]
            case wire.Open(session):
                return [(wire.Opened(session), b"")]
            case wire.Want():
                return wants(message)
            case _:
                return []

    return reply


def frame(want: wire.Want, raw_bytes: int, codec: Codec = Codec.RAW) -> wire.Frame:
    return wire.Frame(want.session, raw_bytes, codec)


def raw_frame(want: wire.Want, **fields: int) -> bytes:
    """Return the header of a frame, whatever it says."""
    said = {"op": "frame", "session": want.session, "raw_bytes": N, "codec": 0} | fields
    return msgspec.msgpack.encode(said)


def zstd(size: int) -> bytes:
    """Return the frame for ``size`` zeros, made without having them."""
    stream = zstandard.ZstdCompressor().compressobj(size=size)
    return b"".join([stream.compress(bytes(n)) for n in pieces(size)]) + stream.flush()


def pieces(size: int) -> list[int]:
    return [min(1 << 20, size - at) for at in range(0, size, 1 << 20)]


def zstd_header(descriptor: int, window: int, size: bytes) -> bytes:
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor, window]) + size + bytes(40)


N = len(SMALL)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
COMPRESSED: dict[str, bytes] = {
    "bomb": zstd(256 << 20),
    "a tebibyte claimed": zstd_header(0xC0, 0, (1 << 40).to_bytes(8, "little")),
    "a window of 2 GiB": zstd_header(0x80, 21 << 3, N.to_bytes(4, "little")),
    "garbage after": zstd(N) + b"garbage",
    "two frames": zstd(N) * 2,
    "a frame and a skippable one": zstd(N) + SKIPPABLE,
    "a skippable frame": SKIPPABLE,
    "a cut frame": zstd(N)[:-1],
    "no size": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(N)),
    "noise": SMALL,
}
HOSTILE: dict[str, tuple[Callable[[wire.Want], Iterable[Said]], type]] = {
    "one flipped bit": (
        lambda w: [(frame(w, N), SMALL[:-1] + bytes([SMALL[-1] ^ 1]))],
        ContentCorrupt,
    ),
    "wrong content": (lambda w: [(frame(w, N), SMALL.upper())], ContentCorrupt),
    "too much": (lambda w: [(frame(w, N + 1), SMALL + b"!")], UnexpectedMessage),
    "twice": (lambda w: [(frame(w, N - 1), SMALL[:-1])] * 2, UnexpectedMessage),
    "longer than it says": (lambda w: [(frame(w, N), SMALL + b"!")], MalformedMessage),
    "unasked recipes": (
        lambda w: [(wire.Recipes(w.session, 1), bytes(24))],
        UnexpectedMessage,
    ),
    "unasked deltas": (
        lambda w: [(wire.Deltas(w.session, 1, N), SMALL)],
        UnexpectedMessage,
    ),
    "opened again": (lambda w: [(wire.Opened(w.session), b"")], UnexpectedMessage),
    "silence": (lambda w: [], Unavailable),
    "one byte, then silence": (lambda w: [(frame(w, 1), SMALL[:1])], Unavailable),
    "another session": (lambda w: [(wire.Frame(w.session + 1, N), SMALL)], Unavailable),
    "half, then gone": (lambda w: [(frame(w, 9), SMALL[:9]), None], Unavailable),
    "an unknown message": (lambda w: [[b"\x81\xa2op\xa4what"]], MalformedMessage),
    "noise": (lambda w: [[b"\xc1"]], MalformedMessage),
    "an unknown codec": (lambda w: [[raw_frame(w, codec=9), SMALL]], MalformedMessage),
    "no bytes": (lambda w: [[raw_frame(w, raw_bytes=0), SMALL]], MalformedMessage),
    "2^63 bytes": (lambda w: [[raw_frame(w, raw_bytes=1 << 63), SMALL]], MalformedMessage),
    "a frame without its payload": (lambda w: [[raw_frame(w)]], MalformedMessage),
    "three frames": (lambda w: [[raw_frame(w), SMALL, SMALL]], MalformedMessage),
    "refusal": (lambda w: [(wire.Refuse(w.session, "busy", "not now"), b"")], Refused),
}


def compressed(data: bytes) -> Callable[[wire.Want], Iterable[Said]]:
    return lambda want: [(frame(want, N, Codec.ZSTD), data)]


def streamed(data: bytes) -> Callable[[wire.Want], Iterable[Said]]:
    return lambda want: [(frame(want, N, Codec.STREAM), data)]


STREAMED: dict[str, bytes] = {
    "a stream's bomb": StreamEncoder().encode(bytes(256 << 20)),
    "a piece of more": StreamEncoder().encode(SMALL + b"!"),
    "a piece of less": StreamEncoder().encode(SMALL[:-1]),
    "a cut piece": StreamEncoder().encode(SMALL)[:-1],
    "no stream": SMALL,
}
HOSTILE |= {name: (compressed(data), MalformedMessage) for name, data in COMPRESSED.items()}
HOSTILE |= {name: (streamed(data), MalformedMessage) for name, data in STREAMED.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_sender_that_breaks_the_protocol_is_dropped(name: str, tmp_path: Path) -> None:
    answer, error = HOSTILE[name]
    timeouts = QUICK if error is Unavailable else PATIENT
    raised = asyncio.run(
        hostile_sender(politely(answer), tmp_path / "dest", tmp_path, timeouts=timeouts)
    )
    assert type(raised) is error


def test_a_byte_at_a_time_is_no_progress(tmp_path: Path) -> None:
    def drip(want: wire.Want) -> Iterable[Said]:
        return ((frame(want, 1), b"x") for _ in range(1 << 20))

    raised = asyncio.run(
        hostile_sender(
            politely(drip),
            tmp_path / "dest",
            tmp_path,
            data=bytes(200_000),
            timeouts=QUICK,
            pause_s=0.01,
        )
    )
    assert type(raised) is Unavailable


def test_what_comes_after_a_session_was_given_up_costs_nothing(tmp_path: Path) -> None:
    closed = asyncio.Event()

    def flood(message: wire.Message) -> Iterable[Said]:
        match message:
            case wire.Want():
                return [(wire.Frame(message.session, N), SMALL.upper())]
            case wire.Close(session):
                closed.set()
                late = (wire.Frame(session, 1 << 20), bytes(1 << 20))
                answers = (wire.Recipes(session, 1), bytes(24)), (wire.Opened(session), b"")
                return (late, *answers) * 200
            case _:
                return politely(lambda _: [])(message)

    raised = asyncio.run(hostile_sender(flood, tmp_path / "dest", tmp_path, until=closed))
    assert type(raised) is ContentCorrupt


def test_a_sender_of_another_version_is_named_as_such(tmp_path: Path) -> None:
    raised = asyncio.run(
        hostile_sender(lambda _: [(wire.Hello(99), b"")], tmp_path / "dest", tmp_path)
    )
    assert isinstance(raised, VersionMismatch)


PIECE = random.Random(3).randbytes(300_000)


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.STREAM])
def test_a_piece_of_a_large_file_that_is_no_frame_ends_the_session(
    codec: Codec, tmp_path: Path
) -> None:
    answer = politely(lambda w: [(frame(w, w.ranges[0][2], codec), PIECE)])
    raised = asyncio.run(hostile_sender(answer, tmp_path / "dest", tmp_path, data=PIECE))
    assert type(raised) is MalformedMessage


def test_a_recipe_that_lies_does_not_reach_the_file(tmp_path: Path) -> None:
    old, new = (random.Random(seed).randbytes(200_000) for seed in (1, 2))
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/file").write_bytes(old)

    def reply(message: wire.Message) -> Iterable[Said]:
        match message:
            case wire.AskRecipes(session, ask, _):
                chunks = chunking.cut(lambda at, n: old[at : at + n], 0, len(old))
                return [(wire.Recipes(session, ask), recipe.pack(chunks))]
            case wire.Want(session, ranges):
                size = sum(length for _, _, length in ranges)
                return [(wire.Frame(session, size), bytes(size))]
            case _:
                return politely(lambda _: [])(message)

    raised = asyncio.run(hostile_sender(reply, tmp_path / "dest", tmp_path, data=new))
    assert isinstance(raised, ContentCorrupt)
    assert (tmp_path / "dest/file").read_bytes() == old


def test_a_delta_that_lies_costs_the_file_once_more_and_no_wrong_byte(tmp_path: Path) -> None:
    old = random.Random(1).randbytes(50_000)
    new = old[:25_000] + b"edited" + old[25_006:]
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/file").write_bytes(old)
    wanted: list[int] = []

    def reply(message: wire.Message) -> Iterable[Said]:
        match message:
            case wire.AskDeltas(session, ask, _, _):
                lie = delta.join([struct.pack(">HHI", 0, 0, len(new)) + bytes(len(new))])
                return [(wire.Deltas(session, ask, len(lie)), lie)]
            case wire.Want(session, ranges):
                wanted.extend(length for _, _, length in ranges)
                return [(wire.Frame(session, len(new)), bytes(len(new)))]
            case _:
                return politely(lambda _: [])(message)

    raised = asyncio.run(hostile_sender(reply, tmp_path / "dest", tmp_path, data=new))
    assert isinstance(raised, ContentCorrupt)
    assert wanted == [len(new)]
    assert (tmp_path / "dest/file").read_bytes() == old


def test_a_delta_of_what_is_not_there_is_a_breach(tmp_path: Path) -> None:
    old = random.Random(1).randbytes(50_000)
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/file").write_bytes(old)

    def reply(message: wire.Message) -> Iterable[Said]:
        match message:
            case wire.AskDeltas(session, ask, _, _):
                lie = delta.join([struct.pack(">HHI", 60_000, 1, 0)])
                return [(wire.Deltas(session, ask, len(lie)), lie)]
            case _:
                return politely(lambda _: [])(message)

    data = old[:25_000] + b"edited" + old[25_006:]
    raised = asyncio.run(hostile_sender(reply, tmp_path / "dest", tmp_path, data=data))
    assert isinstance(raised, MalformedMessage)


# --- hostile receivers --------------------------------------------------------------------------


class RawPeer:
    """A DEALER that says what it likes."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self.context = context
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)

    async def say(self, message: wire.Message) -> None:
        await self.socket.send_multipart(wire.encode(message))

    async def hear(self) -> wire.Message:
        async with asyncio.timeout(5):
            return wire.decode(await self.socket.recv_multipart())[0]

    async def greet(self) -> None:
        await self.say(wire.Hello(wire.VERSION))
        assert isinstance(await self.hear(), wire.Hello)


Talk = Callable[[RawPeer, Manifest, bytes], Awaitable[None]]


def with_raw_peer(root: Path, talk: Talk) -> None:
    """Let ``talk`` talk to a data plane that offers a tree, which must then still serve it."""
    (root / "source").mkdir()
    manifest = make_tree(root / "source", {"a": SMALL, "big": bytes(1 << 20)})

    async def main() -> None:
        context = zmq.asyncio.Context()
        try:
            async with DataPlane(LOOPBACK) as plane, DataPlane() as honest:
                offer = plane.offer(manifest, root / "source")
                await talk(RawPeer(context, plane.address), manifest, offer.token)
                await pull(honest, root / "dest", manifest, Replica(plane.address, offer.token))
        finally:
            context.destroy(linger=0)

    asyncio.run(main())


async def opened(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
    await peer.greet()
    await peer.say(wire.Open(7, token, manifest.tree))
    assert await peer.hear() == wire.Opened(7)


async def is_refused(peer: RawPeer, code: str, session: int = 7) -> None:
    while not isinstance(message := await peer.hear(), wire.Refuse):
        pass
    assert (message.session, message.code) == (session, code)


def test_an_unknown_token_is_refused(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.greet()
        await peer.say(wire.Open(7, bytes(16), manifest.tree))
        await is_refused(peer, NotOffered.code)

    with_raw_peer(tmp_path, talk)


def test_another_tree_than_the_offers_is_refused(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.greet()
        await peer.say(wire.Open(7, token, digest_of(b"another")))
        await is_refused(peer, NotOffered.code)

    with_raw_peer(tmp_path, talk)


@pytest.mark.parametrize(
    "ranges",
    [((digest_of(b"x"), 0, 1),), ((digest_of(SMALL), 0, N + 1),), ((digest_of(SMALL), N, 1),)],
    ids=["not in the tree", "too long", "past the end"],
)
def test_a_want_of_what_is_not_on_offer_is_refused(
    ranges: tuple[wire.Range, ...], tmp_path: Path
) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await opened(peer, manifest, token)
        await peer.say(wire.Want(7, ranges))
        await is_refused(peer, NotOffered.code)

    with_raw_peer(tmp_path, talk)


def test_one_peer_has_only_so_many_sessions_at_once(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.greet()
        for session in range(1, MAX_SESSIONS + 1):
            await peer.say(wire.Open(session, token, manifest.tree))
            assert await peer.hear() == wire.Opened(session)
        await peer.say(wire.Open(999, token, manifest.tree))
        await is_refused(peer, TooMuchWanted.code, session=999)
        await peer.say(wire.Close(1))
        for session in range(1000, 1100):  # it is over once what it was doing is
            await peer.say(wire.Open(session, token, manifest.tree))
            if await peer.hear() == wire.Opened(session):
                return
        pytest.fail("a session that is closed counts for ever")

    with_raw_peer(tmp_path, talk)


def test_who_greets_twice_is_dropped(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.greet()
        await peer.say(wire.Hello(wire.VERSION))
        await is_refused(peer, UnexpectedMessage.code, session=0)

    with_raw_peer(tmp_path, talk)


def test_a_million_ranges_are_refused(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await opened(peer, manifest, token)
        one = (digest_of(bytes(1 << 20)), 0, 1 << 20)
        for _ in range(20):
            await peer.say(wire.Want(7, (one,) * 64))
        await is_refused(peer, TooMuchWanted.code)

    with_raw_peer(tmp_path, talk)


@pytest.mark.parametrize(
    "frames",
    [[b"\xc1"], [b""], [b"\x81\xa2op\xa4what"], [b"x" * 2_000_000], [b"a", b"b", b"c"]],
    ids=["noise", "nothing", "unknown", "a header of 2 MB", "three frames"],
)
def test_frames_that_are_no_message_cost_the_connection(
    frames: list[bytes], tmp_path: Path
) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.greet()
        await peer.socket.send_multipart(frames)
        await is_refused(peer, MalformedMessage.code, session=0)

    with_raw_peer(tmp_path, talk)


@pytest.mark.parametrize("length", [0, -1, 1 << 63, (1 << 64) - 1, (64 << 20) + 1])
def test_a_credit_that_is_none_costs_the_connection(length: int, tmp_path: Path) -> None:
    want = {"op": "want", "session": 7, "ranges": [[digest_of(SMALL), 0, length]]}

    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await opened(peer, manifest, token)
        await peer.socket.send(msgspec.msgpack.encode(want))
        await is_refused(peer, MalformedMessage.code, session=0)

    with_raw_peer(tmp_path, talk)


def test_a_million_digests_in_one_message_cost_the_connection(tmp_path: Path) -> None:
    ranges = [[digest_of(SMALL), 0, 1]] * 1_000_000
    message = msgspec.msgpack.encode({"op": "want", "session": 7, "ranges": ranges})

    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await opened(peer, manifest, token)
        monitor = peer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        forget_peak()
        before = peak_bytes()
        await peer.socket.send(message, copy=False)
        async with asyncio.timeout(5):
            await monitor.recv_multipart()
        peer.socket.disable_monitor()
        monitor.close()
        assert peak_bytes() - before < 20 << 20

    with_raw_peer(tmp_path, talk)


def test_a_token_is_worth_nothing_once_its_offer_is_closed(tmp_path: Path) -> None:
    manifest = make_tree(tmp_path, {"a": SMALL})

    async def main() -> None:
        context = zmq.asyncio.Context()
        try:
            async with DataPlane(LOOPBACK) as plane:
                peer = RawPeer(context, plane.address)
                with plane.offer(manifest, tmp_path) as offer:
                    await opened(peer, manifest, offer.token)
                await is_refused(peer, NotOffered.code)
                await peer.say(wire.Open(8, offer.token, manifest.tree))
                await is_refused(peer, NotOffered.code, session=8)
        finally:
            context.destroy(linger=0)

    asyncio.run(main())


def test_a_session_is_of_the_connection_that_opened_it(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await opened(peer, manifest, token)
        other = RawPeer(peer.context, peer.address)
        await other.greet()
        await other.say(wire.Want(7, ((digest_of(SMALL), 0, 1),)))
        await other.say(wire.Close(7))
        await other.say(wire.Call(1, b""))
        assert isinstance(await other.hear(), wire.Reply)
        await peer.say(wire.Want(7, ((digest_of(SMALL), 0, 1),)))
        assert await peer.hear() == wire.Frame(7, 1)

    with_raw_peer(tmp_path, talk)


def test_who_does_not_greet_is_not_talked_to(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.say(wire.Open(7, token, manifest.tree))
        await is_refused(peer, UnexpectedMessage.code, session=0)

    with_raw_peer(tmp_path, talk)


def test_another_version_is_refused(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.say(wire.Hello(99))
        await is_refused(peer, VersionMismatch.code, session=0)

    with_raw_peer(tmp_path, talk)


def test_opening_one_session_twice_costs_the_connection(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await opened(peer, manifest, token)
        await peer.say(wire.Open(7, token, manifest.tree))
        await is_refused(peer, UnexpectedMessage.code, session=0)

    with_raw_peer(tmp_path, talk)


def test_messages_of_sessions_that_are_not_there_change_nothing(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        await peer.greet()
        await peer.say(wire.Want(5, ((digest_of(SMALL), 0, 1),)))
        await peer.say(wire.Close(5))
        await peer.socket.send_multipart(wire.encode(wire.Frame(5, 1), b"x"))
        await peer.socket.send_multipart(wire.encode(wire.Reply(5, b"", ""), b"x"))
        await peer.say(wire.Call(1, b"\xc1"))
        assert isinstance(reply := await peer.hear(), wire.Reply)
        assert reply.error

    with_raw_peer(tmp_path, talk)


def test_a_peer_that_does_not_read_holds_up_nobody_and_no_memory(tmp_path: Path) -> None:
    async def talk(peer: RawPeer, manifest: Manifest, token: bytes) -> None:
        peer.socket.rcvhwm = 1
        await opened(peer, manifest, token)
        big = (digest_of(bytes(1 << 20)), 0, 1 << 20)
        await peer.say(wire.Want(7, (big,) * 60))

    with_raw_peer(tmp_path, talk)
