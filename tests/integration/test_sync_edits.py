"""What has become of files is told with the gift: nothing is asked for, and nothing is believed."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

import pytest

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.disk.updating.large import LargeFile
from filesync.errors import MalformedMessage, StoreError, Unavailable
from filesync.manifest.owner import Writer
from filesync.sync.options import Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote import edits as messages
from filesync.sync.remote import fields, nodes, wire
from filesync.sync.remote import server as remote_server
from filesync.sync.remote.asking import ask
from filesync.sync.remote.client import Remote, sync_from, sync_to
from filesync.sync.remote.server import TreeServer
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.coding import edit
from filesync.transfer.coding.edit import Edit
from filesync.transfer.coding.remains import Remains, Run
from filesync.transfer.connection import calls_zmq
from filesync.transfer.errors import Refused
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.receive.told import Told
from filesync.transfer.replica import Replica
from filesync.transfer.send import contents
from filesync.transfer.send import edits as sent
from filesync.transfer.send.edits import MAX_WHOLE_BYTES, Edited
from filesync.transfer.send.source_disk import SourceTree
from filesync.transfer.stats import PullStats
from tests.integration.test_sync_plane import LOOPBACK, make_tree, tree_of, update_of

TEXT = b"".join(b"%d lines of a text, of which few change\n" % number for number in range(2000))
P = ParamSpec("P")
T = TypeVar("T")
OLD = {"a": TEXT, "d/b": TEXT[::-1], "d/c": TEXT * 2}
NEW = {"a": TEXT.replace(b"\n7 ", b"\n07 "), "d/b": b"new", "d/c": TEXT * 2}


def edits_of(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> dict[Digest, Edit]:
    made = (
        edit.compare(digest_of(new[name]), new[name], edit.mark(old[name], 5))[0]
        for name in new
    )
    return {one.digest: one for one in made}


def pulled(
    root: Path, edits: Mapping[Digest, Edit], *, is_served: bool = True
) -> tuple[PullStats, int]:
    """Bring a tree of OLD to NEW; return what it took, and what was sent."""
    for name, files in (("source", NEW), ("dest", OLD)):
        (root / name).mkdir()
        make_tree(root / name, files)
    source = make_tree(root / "source", NEW)

    async def main() -> tuple[PullStats, int]:
        async with DataPlane(LOOPBACK) as sender, DataPlane() as receiver:
            offer = sender.offer(source, root / "source")
            replicas = [Replica(sender.address, offer.token)] if is_served else []
            update = update_of(root / "dest", source)
            stats = await receiver.pull(update, replicas, tree=source.tree, told=Told(edits))
            assert tree_of(root / "dest") == source.tree
            return stats, receiver.counters.wire_in

    return asyncio.run(main())


def test_what_edits_tell_is_asked_of_nobody(tmp_path: Path) -> None:
    stats, _ = pulled(tmp_path, edits_of(OLD, NEW), is_served=False)
    assert stats.files == 2
    assert stats.replicas == []
    assert stats.content_bytes < 8 << 10
    assert stats.copied_bytes > len(TEXT) - (8 << 10)


def test_what_no_edit_tells_is_fetched(tmp_path: Path) -> None:
    told = edits_of(OLD, NEW)
    del told[digest_of(NEW["a"])]
    stats, wire_in = pulled(tmp_path, told)
    assert (stats.files, len(stats.replicas)) == (2, 1)
    assert wire_in < len(TEXT)


def test_edits_of_something_else_cost_bytes_and_no_wrong_byte(tmp_path: Path) -> None:
    other = {name: TEXT[number * 1000 :] for number, name in enumerate(OLD, 1)}
    stats, _ = pulled(tmp_path, edits_of(other, NEW))
    assert (stats.files, len(stats.replicas)) == (2, 1)


@pytest.mark.parametrize(
    "lie",
    [
        Edit(digest_of(NEW["a"]), len(NEW["a"]), (), b"nonsense"),
        Edit(digest_of(NEW["a"]), 1, (), b""),
        edit.whole(digest_of(NEW["a"]), b"x" * len(NEW["a"])),
        edit.whole(digest_of(NEW["a"]), NEW["a"][:-1]),
    ],
    ids=["no delta", "another size", "another content", "a shorter one"],
)
def test_an_edit_that_lies_is_not_believed(lie: Edit, tmp_path: Path) -> None:
    stats, _ = pulled(tmp_path, edits_of(OLD, NEW) | {lie.digest: lie})
    assert (stats.files, len(stats.replicas)) == (2, 1)


def test_without_anybody_to_ask_a_lie_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    lie = edit.whole(digest_of(NEW["a"]), b"x" * len(NEW["a"]))
    with pytest.raises(Unavailable):
        pulled(tmp_path, {lie.digest: lie}, is_served=False)
    assert (tmp_path / "dest/a").read_bytes() == OLD["a"]


# --- the tool -----------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note by what questions contents and nodes are asked for; none comes for being a small one."""
    monkeypatch.setattr(nodes, "FIRST_NODES_BYTES", 0)
    questions: list[str] = []

    def noting(name: str, ask: Callable[P, T]) -> Callable[P, T]:
        def noted(*arguments: P.args, **more: P.kwargs) -> T:
            questions.append(name)
            return ask(*arguments, **more)

        return noted

    for name in ("read", "deltas", "recipes"):
        monkeypatch.setattr(SourceTree, name, noting(name, getattr(SourceTree, name)))
    for module in (nodes, remote_server):  # who gives, and who is taken from
        monkeypatch.setattr(module, "answer", noting("nodes", nodes.answer))
    return questions


def synced(root: Path, options: Options | None = None, *, times: int = 1) -> list[SyncStats]:
    """Sync root/src to a server of root/served; between two times a line of each file changes."""
    options = options or Options(caches=root / "caches")
    rng = random.Random(times)
    found: list[SyncStats] = []

    async def main() -> None:
        server = TreeServer(ServedPlaces(root / "served"), read_only=False, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            for turn in range(times):
                for path in (root / "src").iterdir() if turn else ():
                    lines = path.read_bytes().split(b"\n")
                    lines[rng.randrange(len(lines))] = b"%d" % rng.getrandbits(60)
                    path.write_bytes(b"\n".join(lines))
                await asyncio.sleep(
                    1.5e-9 * FINE_SLACK_NS
                )  # what has just changed is not noted
                found.append(
                    await sync_to(
                        [os.fsencode(root / "src") + b"/"], Remote(plane.address, b"x"), options
                    )
                )
                assert tree_of(root / "served/x") == tree_of(root / "src")

    asyncio.run(main())
    return found


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "served").mkdir()
    (tmp_path / "src/short").write_bytes(TEXT[:5000])
    return tmp_path


def test_a_short_file_that_was_edited_or_is_new_comes_with_the_gift(
    places: Path, asked: list[str]
) -> None:
    synced(places)
    asked.clear()
    (places / "src/short").write_bytes(TEXT[:6000])
    (places / "src/new").write_bytes(b"new")
    (stats,) = synced(places)
    assert (stats.files, asked) == (2, [])
    assert (stats.content_bytes, stats.copied_bytes) == (6003, 0)
    assert stats.wire_out < 5000


def write_many(root: Path, start: bytes = b"") -> int:
    """Write more than is told with a gift; return how many files."""
    number_of = 2 * MAX_WHOLE_BYTES // 5000
    for number in range(number_of):
        (root / f"{number}").write_bytes(start + TEXT[number : number + 5000])
    return number_of


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have it fail, from the call on, when the contents of a whole tree are listed."""

    def listed(*_: object) -> NoReturn:
        raise AssertionError("the contents of the whole tree are listed")

    return lambda: monkeypatch.setattr(contents, "Contents", listed)


def test_many_edited_files_are_read_once_and_looked_for_in_no_index(
    places: Path, asked: list[str], no_index: Callable[[], None]
) -> None:
    write_many(places / "src")
    synced(places)
    no_index()
    number_of = write_many(places / "src", b"new")
    (stats,) = synced(places)
    assert stats.files == number_of
    assert "deltas" in asked


def test_the_directories_above_an_edited_file_come_with_the_gift(
    places: Path, asked: list[str]
) -> None:
    below = places / "src/one/two/three"
    below.mkdir(parents=True)
    for number in range(500):
        (below / f"{number}").write_bytes(b"%d" % number)
    synced(places)
    asked.clear()
    (below / "250").write_bytes(b"edited")
    (below / "251").unlink()
    (below / "new").write_bytes(b"new")
    (stats,) = synced(places, Options(caches=places / "caches", delete=True))
    assert (stats.created, stats.deleted, stats.files, asked) == (1, 1, 2, [])
    assert stats.wire_out < 5000, "some pieces of 1 KiB, and not 500 entries of 60 bytes"


def dry_run(root: Path) -> list[str]:
    """Return what a dry run of ``synced`` lists."""
    lines: list[str] = []

    async def main() -> None:
        server = TreeServer(ServedPlaces(root / "served"), read_only=True, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            options = Options(
                caches=root / "caches",
                dry_run=True,
                on_changes=lines.extend,
            )
            remote = Remote(plane.address, b"x")
            await sync_to([os.fsencode(root / "src") + b"/"], remote, options)

    asyncio.run(main())
    return lines


def test_a_dry_run_does_not_use_up_what_can_be_told(places: Path, asked: list[str]) -> None:
    below = places / "src/one/two"
    below.mkdir(parents=True)
    for number in range(500):
        (below / f"{number}").write_bytes(b"%d" % number)
    synced(places)
    (places / "src/short").write_bytes(TEXT[:6000])
    (below / "250").write_bytes(b"edited")
    (below / "new").mkdir()
    (below / "new/file").write_bytes(b"new")
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    said = dry_run(places)
    assert {line.split()[-1] for line in said} >= {"short", "one/two/250", "one/two/new/file"}
    assert dry_run(places) == said
    asked.clear()
    (stats,) = synced(places)
    assert stats.files == 3
    assert stats.wire_out < 10_000
    assert asked.count("nodes") <= 1  # of what a dry run has noted, the new directory
    asked.clear()
    (stats,) = synced(places)
    assert (stats.files, asked) == (0, [])


def test_many_directories_are_asked_for(places: Path, asked: list[str]) -> None:
    for number in range(sent.MAX_DIRECTORIES):
        (places / f"src/{number}").mkdir()
        (places / f"src/{number}/file").write_bytes(b"%d" % number)
    synced(places)
    asked.clear()
    for number in range(sent.MAX_DIRECTORIES):
        (places / f"src/{number}/file").write_bytes(b"edited %d" % number)
    synced(places)
    assert set(asked) == {"nodes"}


def test_a_server_that_has_another_tree_asks_for_directories(
    places: Path, asked: list[str]
) -> None:
    (places / "src/d").mkdir()
    (places / "src/d/f").write_bytes(b"old")
    synced(places)
    (places / "served/x/short").write_bytes(b"changed there")
    asked.clear()
    (places / "src/d/f").write_bytes(b"new")
    synced(places)
    assert "nodes" in asked


def test_a_longer_file_comes_with_the_gift_from_its_second_edit_on(
    places: Path, asked: list[str]
) -> None:
    (places / "src/long").write_bytes(TEXT)
    _, first, second, third = synced(places, times=4)
    assert asked.count("deltas") == 1
    assert second.wire_out + second.wire_in < first.wire_out + first.wire_in
    assert third.wire_out < 8000


LARGE = random.Random(3).randbytes(3 << 20)


def with_large(root: Path) -> None:
    """Sync a large file, so that it is known what the server has of it."""
    (root / "src/large").write_bytes(LARGE)
    synced(root)


def edit_large(root: Path) -> None:
    edit_file(root / "src/large")


def edit_file(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1 << 20 : 1 << 20] = b"inserted"
    content[2 << 20] ^= 1
    path.write_bytes(content)


def move_file(path: Path) -> None:
    """Have the parts of a file in another order."""
    content = path.read_bytes()
    path.write_bytes(content[1 << 20 :] + content[: 1 << 20])


def test_what_remains_of_a_large_file_comes_with_the_gift(
    places: Path, asked: list[str]
) -> None:
    with_large(places)
    for _ in range(3):
        asked.clear()
        edit_large(places)
        (stats,) = synced(places)
        assert "deltas" in asked
        assert "recipes" not in asked
        assert stats.content_bytes < 5000
        assert stats.copied_bytes > 3_000_000
        assert stats.wire_in + stats.wire_out < 15_000


def test_what_remains_of_one_in_another_order_comes_from_the_second_time_on(
    places: Path, asked: list[str]
) -> None:
    with_large(places)
    for number in range(3):
        asked.clear()
        move_file(places / "src/large")
        (stats,) = synced(places)
        assert ("recipes" in asked) == (number == 0)
        assert stats.copied_bytes > 3_000_000
        assert stats.wire_in + stats.wire_out < 100_000


def test_of_a_large_file_that_is_another_at_the_server_the_recipe_is_asked_for(
    places: Path, asked: list[str]
) -> None:
    with_large(places)
    edit_large(places)
    (places / "served/x/large").write_bytes(LARGE[1 << 20 :])
    asked.clear()
    (stats,) = synced(places)
    assert "recipes" in asked
    assert stats.copied_bytes > 1_000_000


def test_blocks_are_kept_unless_the_recipe_was_asked_for(places: Path) -> None:
    with_large(places)
    for is_another in (False, True):
        edit_large(places)
        if is_another:
            (places / "served/x/large").write_bytes(LARGE[1 << 20 :])
        synced(places)
        digest = digest_of((places / "src/large").read_bytes())
        kept = [path.name for path in (places / "caches/blocks").iterdir()]
        assert (digest.hex() in kept) != is_another


def test_what_had_come_of_a_large_file_already_is_not_fetched_again(
    places: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_large(places)
    edit_large(places)

    def stopped(large: LargeFile) -> NoReturn:
        large.abort()
        raise StoreError("it goes no further")

    with monkeypatch.context() as patched:
        patched.setattr(LargeFile, "finish", stopped)
        with pytest.raises(Unavailable):
            synced(places)
    asked.clear()
    (stats,) = synced(places)
    assert "recipes" in asked
    assert stats.content_bytes == 0


@pytest.mark.parametrize(
    "runs",
    [
        [Run(0, 1, 2 << 20)],
        [Run(0, 0, 1 << 20), Run(1 << 20, 5, 1 << 20)],
        [Run(0, 0, 1 << 20), Run(1, 1, 1 << 20)],
        [Run(0, 0, 4 << 20)],
        [Run(0, 3 << 20, 1)],
        [Run(3 << 20, 0, 1)],
        [Run((1 << 64) - 1, 0, (1 << 64) - 1)],
    ],
    ids=[
        "shifted",
        "partly",
        "overlapping",
        "too long",
        "past the old",
        "past the new",
        "huge",
    ],
)
def test_what_is_said_wrongly_of_a_large_file_costs_bytes_and_no_wrong_byte(
    runs: list[Run], places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_large(places)
    edit_large(places)
    before = digest_of((places / "served/x/large").read_bytes())
    digest = digest_of((places / "src/large").read_bytes())
    lie = Edited(remains=[Remains(digest, before, tuple(runs))])

    def lied(_: Edited) -> fields.Edits | None:
        return pack_remains(lie)

    pack_remains = messages.pack_remains
    monkeypatch.setattr(messages, "pack_remains", lied)
    synced(places)  # compares


def test_a_server_that_has_something_else_gets_what_it_lacks(
    places: Path, asked: list[str]
) -> None:
    (places / "src/long").write_bytes(TEXT)
    synced(places, times=2)
    (places / "served/x/long").write_bytes(TEXT[5000:])
    asked.clear()
    synced(places, times=2)
    assert "deltas" in asked


@pytest.mark.parametrize(
    "options",
    [
        Options(flow=Flow(bytes_per_s=1 << 20), caches=Path("caches")),
        Options(flow=Flow(compress=Compress.NONE), caches=Path("caches")),
        Options(checksum=True, caches=Path("caches")),
        Options(),
    ],
    ids=["bwlimit", "no compression", "checksum", "no caches"],
)
def test_where_the_bytes_are_limited_or_plain_or_nothing_is_known_they_are_asked_for(
    options: Options, places: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places)
    synced(places, options, times=2)
    assert "deltas" in asked


def test_a_gift_of_nonsense_is_refused_and_the_place_is_free_again(
    places: Path, asked: list[str]
) -> None:
    synced(places)
    source = make_tree(places / "src", {"short": b"changed"})

    async def main() -> None:
        server = TreeServer(ServedPlaces(places / "served"), read_only=False, caches=None)
        async with (
            DataPlane(LOOPBACK, answer=server.answer) as plane,
            DataPlane(answer=nodes_of) as client,
        ):
            server.use(plane)
            channel = await client.connect(plane.address)
            nonsense = fields.Edits(b"nonsense", 8)
            for edits, remains in ((nonsense, None), (None, nonsense)):
                body, _ = await calls_zmq.call(
                    channel, wire.encode(wire.Prepare(b"x/", scan=True))
                )
                prepared = wire.decode_answer(body)
                assert isinstance(prepared, wire.Prepared)
                with client.offer(source, places / "src") as offer:
                    await client.announce(channel, offer)
                    give = wire.Give(
                        prepared.token, offer.token, source.tree, edits=edits, remains=remains
                    )
                    with pytest.raises(Refused) as caught:
                        await calls_zmq.call(channel, wire.encode(give))
                    assert caught.value.reason == "malformed-message"

    async def nodes_of(_: object, body: bytes) -> tuple[bytes, bytes]:
        request = wire.decode_request(body)
        if isinstance(request, wire.AskNodeDeltas):
            answer, payload = nodes.answer_deltas(source, request)
            return wire.encode(answer), payload
        assert isinstance(request, wire.AskNodes)
        return wire.encode(wire.Nodes()), nodes.answer_nodes(source, request.digests)

    asyncio.run(main())
    assert (places / "served/x/short").read_bytes() == TEXT[:5000]


# --- taking -------------------------------------------------------------------------------------


def taken(root: Path, dest: str = "dest", options: Options | None = None) -> SyncStats:
    """Take root/served/src, to which a server of its own gives access, to root/dest."""
    options = options or Options(delete=True, caches=root / "here")

    async def main() -> SyncStats:
        server = TreeServer(
            ServedPlaces(root / "served"), read_only=True, caches=root / "caches"
        )
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            await asyncio.sleep(1.5e-9 * FINE_SLACK_NS)
            source = Remote(plane.address, b"src/")
            return await sync_from([source], os.fsencode(root / dest), options)

    stats = asyncio.run(main())
    assert tree_of(root / dest) == tree_of(root / "served/src")
    return stats


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "served/src"
    (root / "one/two").mkdir(parents=True)
    for number in range(300):
        (root / f"one/two/{number}").write_bytes(b"%d" % number)
    (root / "long").write_bytes(TEXT)
    return root


def test_what_has_changed_at_a_server_comes_with_the_answer_to_its_scan(
    source: Path, tmp_path: Path, asked: list[str]
) -> None:
    taken(tmp_path)
    (source / "long").write_bytes(TEXT + b"edited")
    taken(tmp_path)
    asked.clear()
    (source / "long").write_bytes(b"again" + TEXT + b"edited")
    (source / "one/two/7").write_bytes(b"edited")
    (source / "one/two/8").unlink()
    (source / "one/new").write_bytes(b"new")
    stats = taken(tmp_path)
    assert (stats.files, stats.deleted, asked) == (3, 1, [])
    assert stats.wire_in < 6000


def test_what_remains_of_a_large_file_at_a_server_comes_with_the_answer_to_its_scan(
    source: Path, tmp_path: Path, asked: list[str]
) -> None:
    (source / "large").write_bytes(LARGE)
    taken(tmp_path)
    for number in range(3):
        asked.clear()
        edit_file(source / "large")
        stats = taken(tmp_path)
        assert "deltas" in asked
        assert "recipes" not in asked
        assert stats.content_bytes < 5000
        asked.clear()
        move_file(source / "large")
        stats = taken(tmp_path)
        assert ("recipes" in asked) == (number == 0)
        assert stats.copied_bytes > 3_000_000


def test_blocks_are_kept_at_a_server_unless_the_recipe_was_asked_for(
    source: Path, tmp_path: Path
) -> None:
    (source / "large").write_bytes(LARGE)
    taken(tmp_path)
    taken(tmp_path, "other")
    for dest, is_another in (("dest", False), ("other", True)):
        edit_file(source / "large")
        taken(tmp_path, dest)
        digest = digest_of((source / "large").read_bytes())
        kept = [path.name for path in (tmp_path / "caches/blocks").iterdir()]
        assert (digest.hex() in kept) != is_another


def test_what_a_server_says_wrongly_of_a_large_file_costs_bytes_and_no_wrong_byte(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "large").write_bytes(LARGE)
    taken(tmp_path)
    edit_file(source / "large")
    digest = digest_of((source / "large").read_bytes())
    lie = Edited(remains=[Remains(digest, digest_of(LARGE), (Run(0, 9, 1 << 20),))])
    told = messages.pack_remains(lie)
    monkeypatch.setattr(messages, "pack_remains", lambda _: told)
    taken(tmp_path)  # compares


def test_many_that_have_changed_at_a_server_are_looked_for_in_no_index(
    tmp_path: Path, source: Path, asked: list[str], no_index: Callable[[], None]
) -> None:
    write_many(source)
    taken(tmp_path)
    no_index()
    number_of = write_many(source, b"new")
    assert taken(tmp_path).files == number_of
    assert "deltas" in asked


def test_an_ordinary_user_is_told_of_directories_whose_names_are_all_his(
    source: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(os.geteuid(), frozenset([os.getegid()]))
    monkeypatch.setattr("filesync.sync.remote.taking.this_writer", lambda: writer)
    taken(tmp_path)
    asked.clear()
    (source / "one/two/7").write_bytes(b"edited")
    assert (taken(tmp_path).files, asked) == (1, [])


def test_who_asks_for_another_writer_is_told_of_files_alone(
    source: Path, tmp_path: Path
) -> None:
    def scanned(writer: fields.Writer | None) -> wire.Scanned:
        async def main() -> wire.Scanned:
            server = TreeServer(
                ServedPlaces(tmp_path / "served"), read_only=True, caches=tmp_path / "caches"
            )
            async with (
                DataPlane(LOOPBACK, answer=server.answer) as plane,
                DataPlane() as client,
            ):
                server.use(plane)
                channel = await client.connect(plane.address)
                found, _ = await ask(channel, wire.Look((b"src/",)), wire.Found)
                request = wire.Scan(found.parts[0].token, writer, edits=True)
                return (await ask(channel, request, wire.Scanned))[0]

        time.sleep(1.5e-9 * FINE_SLACK_NS)
        return asyncio.run(main())

    scanned(None)
    for writer, directories in ((None, 3), ((12345, frozenset([12345])), 0)):
        (source / "one/two/7").write_bytes(b"edited for %a" % (writer,))
        edits = scanned(writer).edits
        assert edits is not None
        assert len(messages.unpack_edits(edits)) == 1 + directories


def test_another_who_takes_what_somebody_had_scanned_asks_for_it(
    source: Path, tmp_path: Path, asked: list[str]
) -> None:
    for dest in ("dest", "other"):
        taken(tmp_path, dest)
    (source / "one/two/7").write_bytes(b"edited")
    taken(tmp_path)
    asked.clear()
    taken(tmp_path, "other")
    assert "nodes" in asked
    assert "read" in asked or "deltas" in asked


def test_whose_bytes_are_limited_is_told_nothing(
    source: Path, tmp_path: Path, asked: list[str]
) -> None:
    options = Options(flow=Flow(bytes_per_s=1 << 20), caches=tmp_path / "here")
    taken(tmp_path, options=options)
    asked.clear()
    (source / "one/two/7").write_bytes(b"edited")
    taken(tmp_path, options=options)
    assert "nodes" in asked


@pytest.mark.parametrize("is_nonsense", [True, False])
def test_a_server_whose_edits_lie_is_refused_or_asked(
    is_nonsense: bool,
    source: Path,
    tmp_path: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lying(edits: Edited) -> fields.Edits | None:
        if is_nonsense:
            return fields.Edits(b"nonsense", 8)
        told = [*edits.directories, *edits.files]
        return pack_edits(Edited([edit.whole(one.digest, b"a lie") for one in told]))

    taken(tmp_path)
    before = tree_of(tmp_path / "dest")
    pack_edits = messages.pack_edits
    monkeypatch.setattr(messages, "pack_edits", lying)
    (source / "one/two/7").write_bytes(b"edited")
    asked.clear()
    if is_nonsense:
        with pytest.raises(MalformedMessage):
            taken(tmp_path)
        assert tree_of(tmp_path / "dest") == before
    else:
        taken(tmp_path)
        assert "nodes" in asked
