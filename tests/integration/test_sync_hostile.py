"""``filesync sync`` and ``filesync serve`` against peers that ask for, or give, what they should not."""

import asyncio
import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pytest
import zstandard
from msgspec.structs import replace

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.scan import scan
from filesync.errors import (
    FilesyncError,
    MalformedManifest,
    StoreError,
    Unavailable,
    UnexpectedMessage,
    UsageError,
)
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Nodes,
    Special,
    Subdirectory,
    Symlink,
    accept,
    encode,
    subdirectory,
)
from filesync.manifest.pack import pack_directories, pack_nodes
from filesync.sync import scanning, unwritable
from filesync.sync.filter import Filter
from filesync.sync.listed import Listed
from filesync.sync.options import NewOwner, Options, OwnerNames
from filesync.sync.places import Place, ServedPlaces
from filesync.sync.plan import Plan
from filesync.sync.remote import asking, fields, gifts, wire
from filesync.sync.remote import nodes as remote_nodes
from filesync.sync.remote import server as server_module
from filesync.sync.remote.client import Remote, sync_from, sync_to
from filesync.sync.remote.held import Held
from filesync.sync.remote.nodes import NodeFetch, answer_deltas, answer_nodes
from filesync.sync.remote.server import TreeServer
from filesync.transfer.coding import delta
from filesync.transfer.connection import calls_zmq, links_zmq, listener_zmq
from filesync.transfer.connection.calls_zmq import Answer
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered, Refused, TooMuchWanted
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.send.growing import GrowingTree
from filesync.transfer.send.offer import TOKEN_BYTES, Offer
from filesync.transfer.threads import in_thread
from tests.unit.made import file

LOOPBACK = "tcp://127.0.0.1:0"
TOKEN = bytes(16)
PLAIN: Final = Options()
T = TypeVar("T")


def zstd(nodes: list[bytes]) -> bytes:
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(nodes))


class LyingServer:
    """Serves one tree, and says what it likes of where that is to go."""

    def __init__(self, root: Path, *parts: fields.Part) -> None:
        self.root = root
        self.parts = parts
        self.nodes = MemoryNodes()
        self.growing = GrowingTree(self.nodes, lambda: None)
        self.manifest = Manifest(scan(root, self.nodes, watcher=self.growing).tree, self.nodes)
        self.growing.end(self.manifest.tree)
        self.asked: list[wire.Request] = []
        self.plane: DataPlane | None = None

    async def answer(self, _: Channel, body: bytes) -> tuple[bytes, bytes]:
        request = wire.decode_request(body)
        self.asked.append(request)
        match request:
            case wire.Look():
                is_of_list = request.listed is not None
                return wire.encode(wire.Found(self.parts, is_of_list=is_of_list)), b""
            case wire.Scan():
                assert self.plane is not None
                if request.grows:
                    self.plane.offer_growing(self.growing, self.root, TOKEN)
                else:
                    self.plane.offer(self.manifest, self.root, TOKEN)
                return wire.encode(wire.Scanned(self.manifest.tree)), b""
            case wire.AskDirectories():
                handed = self.growing.take()
                done = wire.Directories(handed.tree)
                return wire.encode(done), pack_directories(handed.directories)
            case wire.AskNodes(_, digests):
                return wire.encode(wire.Nodes()), answer_nodes(self.manifest, digests)
            case wire.AskNodeDeltas():
                answer, payload = answer_deltas(self.manifest, request)
                return wire.encode(answer), payload
            case _:
                return wire.encode(wire.Done()), b""

    def gives(
        self, paths: list[bytes], dest: Path, options: Options = PLAIN
    ) -> FilesyncError | None:
        """Take ``paths`` from it; return what that raised."""

        async def main() -> FilesyncError | None:
            async with DataPlane(LOOPBACK, answer=self.answer) as plane:
                self.plane = plane
                remotes = [Remote(plane.address, path) for path in paths]
                try:
                    await sync_from(remotes, os.fsencode(dest), options)
                except FilesyncError as exc:
                    return exc
            return None

        return asyncio.run(main())


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    root = tmp_path / "evil"
    root.mkdir()
    (root / "f").write_text("planted")
    return root


def occupy(home: Path) -> None:
    """Have something be in a destination, and in what may be the place in it: that is planned."""
    for place in (home, home / "a"):
        place.mkdir(exist_ok=True)
        (place / "there").touch()


def plant(evil: Path, home: Path, *, grows: bool) -> None:
    """Have a server hold more, and make the destination."""
    (evil / "d").mkdir()
    for name in ("in", "deep"):
        (evil / "d" / name).write_text("planted")
    home.mkdir()
    if not grows:
        occupy(home)


either: Final = pytest.mark.parametrize("grows", [True, False], ids=["growing", "planned"])


def names_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ([b"a"], fields.Part(TOKEN, b"..")),
        ([b"a"], fields.Part(TOKEN, b"../out")),
        ([b"a"], fields.Part(TOKEN, b"a/../../out")),
        ([b"a"], fields.Part(TOKEN, b".ssh")),
        ([b"a"], fields.Part(TOKEN, b"")),
        ([b"a"], fields.Part(TOKEN, b"", (b"f",))),
        ([b"a"], fields.Part(TOKEN, b"a", (b"a",))),
        ([b"a/"], fields.Part(TOKEN, b"a")),
        ([b"a/"], fields.Part(TOKEN, b"", (b"f",))),
        ([b"x/f", b"y/g"], fields.Part(TOKEN, b"", (b"f", b"h"))),
        ([b"x/f", b"y/g"], fields.Part(TOKEN, b"", (b"../f",))),
    ],
    ids=repr,
)
def test_a_server_decides_nothing_of_where_things_go(
    asked: list[bytes], part: fields.Part, evil: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    before = names_below(tmp_path)
    error = LyingServer(evil, part).gives(asked, tmp_path / "home")
    assert type(error) is UnexpectedMessage
    assert names_below(tmp_path) == before


@pytest.mark.parametrize("grows", [True, False])
def test_what_a_server_says_is_empty_is_so_where_it_gets_a_new_name_for_that(
    evil: Path, tmp_path: Path, grows: bool
) -> None:
    """What is in it would stand in the destination itself, and not below its own name there."""
    part = fields.Part(TOKEN, b"a", is_bare=True)
    said: list[str] = []
    options = PLAIN if grows else Options(on_changes=said.extend)
    error = LyingServer(evil, part).gives([b"x/a"], tmp_path / "home", options)
    assert type(error) is UnexpectedMessage
    assert names_below(tmp_path / "home") == set()
    (evil / "f").unlink()
    assert LyingServer(evil, part).gives([b"x/a"], tmp_path / "new", options) is None
    assert names_below(tmp_path / "new") == set()


def test_a_server_gives_no_more_parts_than_were_asked_for(evil: Path, tmp_path: Path) -> None:
    part = fields.Part(TOKEN, b"a")
    error = LyingServer(evil, part, part).gives([b"a"], tmp_path / "home")
    assert type(error) is UnexpectedMessage


@either
@pytest.mark.parametrize(
    ("asked", "part", "rules"),
    [
        ([b"x/"], fields.Part(TOKEN), (b"- /f",)),
        ([b"x/"], fields.Part(TOKEN), (b"- deep",)),
        ([b"x/"], fields.Part(TOKEN), (b"+ /d/", b"- /d/*")),
        ([b"x/"], fields.Part(TOKEN), (b"+ /f", b"+ /d/", b"+ /d/in", b"- *")),
        ([b"x/f", b"x/d"], fields.Part(TOKEN, b"", (b"f", b"d"), trees=True), (b"- /d/in",)),
        ([b"x/a"], fields.Part(TOKEN, b"a"), (b"- /a/d/in",)),
        ([b"x/a"], fields.Part(TOKEN, b"a"), (b"- /a",)),
    ],
    ids=repr,
)
def test_a_server_that_gives_what_it_was_told_to_leave_out_is_refused(
    asked: list[bytes],
    part: fields.Part,
    rules: tuple[bytes, ...],
    grows: bool,
    evil: Path,
    tmp_path: Path,
) -> None:
    plant(evil, tmp_path / "home", grows=grows)
    before = names_below(tmp_path / "home")
    options = Options(rules=rules)
    error = LyingServer(evil, part).gives(asked, tmp_path / "home", options)
    assert type(error) is UnexpectedMessage
    filter = Filter(rules)
    for path in map(os.fsencode, names_below(tmp_path / "home") - before):
        assert not filter.excludes(path, is_directory=False)


@either
def test_a_server_that_gives_what_no_list_names_is_refused(
    grows: bool, evil: Path, tmp_path: Path
) -> None:
    plant(evil, tmp_path / "home", grows=grows)
    part = fields.Part(TOKEN, b"", (b"d", b"f"), trees=True)
    options = Options(listed=Listed([b"f", b"d/in"]))
    error = LyingServer(evil, part).gives([b"x"], tmp_path / "home", options)
    assert type(error) is UnexpectedMessage
    assert "d/deep" not in names_below(tmp_path / "home")


@pytest.mark.parametrize("delete", [True, False])
def test_what_a_server_gives_that_it_was_told_to_leave_out_is_refused_though_it_is_there(
    delete: bool, evil: Path, tmp_path: Path
) -> None:
    for name in ("evil", "home"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d/in").write_text(f"of {name}")
    options = Options(rules=(b"- /d/",), delete=delete)
    error = LyingServer(evil, fields.Part(TOKEN)).gives([b"x/"], tmp_path / "home", options)
    assert type(error) is UnexpectedMessage
    assert (tmp_path / "home/d/in").read_text() == "of home"


@either
@pytest.mark.parametrize(
    ("asked", "part", "lands"),
    [
        ([b"x/a"], fields.Part(TOKEN, b"a"), "a/f"),
        ([b"x/a/"], fields.Part(TOKEN), "f"),
        ([b""], fields.Part(TOKEN), "f"),
        ([b"x/f", b"y/g"], fields.Part(TOKEN, b"", (b"f",)), "f"),
    ],
    ids=repr,
)
def test_what_was_asked_for_is_taken(
    asked: list[bytes], part: fields.Part, lands: str, grows: bool, evil: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    if not grows:
        occupy(tmp_path / "home")
    assert LyingServer(evil, part).gives(asked, tmp_path / "home") is None
    assert (tmp_path / "home" / lands).read_text() == "planted"


def a_file(name: bytes) -> File:
    return file(name, b"x")


def nodes_of(*entries: Entry) -> list[bytes]:
    """Return the node of a directory that has ``entries``, however wrong they are."""
    return [encode(Directory(0o755, 0, 0, 0, (), entries))]


def below(node: bytes, **lies: object) -> Subdirectory:
    """Return what a parent says of an empty or one-file directory ``node``, but for ``lies``."""
    nodes = MemoryNodes()
    return replace(subdirectory(nodes, b"d", accept(nodes, node)), **lies)


def chain(depth: int) -> list[bytes]:
    """Return the nodes of that many directories inside each other, the outermost last."""
    nodes = [encode(EMPTY_DIRECTORY)]
    content = digest_of(b"a lie, and nobody gets as far as to see it")
    for number in range(depth):
        entry = Subdirectory(b"d", digest_of(nodes[-1]), content, number, 0, 0)
        nodes += nodes_of(entry)
    return nodes


(LEAF,) = nodes_of(a_file(b"x"))
TEN_MILLION = 10_000_000
HOSTILE_TREES: dict[str, list[bytes]] = {
    "a name that is ..": nodes_of(a_file(b"..")),
    "a name that is .": nodes_of(a_file(b".")),
    "a name with a slash": nodes_of(a_file(b"a/b")),
    "an absolute name": nodes_of(a_file(b"/etc/passwd")),
    "a name with NUL": nodes_of(a_file(b"a\0b")),
    "a name of 256 bytes": nodes_of(a_file(b"n" * 256)),
    "one name twice": nodes_of(a_file(b"a"), a_file(b"a")),
    "a file and a directory of one name": [LEAF, *nodes_of(a_file(b"d"), below(LEAF))],
    "names out of order": nodes_of(a_file(b"b"), a_file(b"a")),
    "a link and a file below it": [
        LEAF,
        *nodes_of(Symlink(b"d", 0, 0, 0, b"../../etc"), below(LEAF)),
    ],
    "an empty target": nodes_of(Symlink(b"l", 0, 0, 0, b"")),
    "a target with NUL": nodes_of(Symlink(b"l", 0, 0, 0, b"a\0b")),
    "a socket": nodes_of(Special(b"s", stat.S_IFSOCK | 0o644, 0, 0, 0)),
    "ten million names announced": [LEAF, *nodes_of(below(LEAF, entries=TEN_MILLION))],
    "a content digest of another tree": [LEAF, *nodes_of(below(LEAF, content=digest_of(b"")))],
    "bytes after its end": [LEAF + b"\0"],
    "a hundred thousand lists in each other": [b"\x91" * 100_000],
    "4,100 directories in each other": chain(4_100),
}


@either
@pytest.mark.parametrize("what", HOSTILE_TREES)
def test_a_tree_that_is_none_is_not_taken(
    what: str, grows: bool, evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LyingServer(evil, fields.Part(TOKEN))
    nodes = {digest_of(node): node for node in HOSTILE_TREES[what]}
    root = list(nodes)[-1]

    async def lie(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        match wire.decode_request(body):
            case wire.AskDirectories():
                depths = reversed(range(len(nodes)))
                paths = [b"/".join([b"d"] * depth) for depth in depths]
                done = list(zip(paths, nodes.values(), strict=True))
                return wire.encode(wire.Directories(root)), pack_directories(done)
            case wire.Scan():
                return wire.encode(wire.Scanned(root)), b""
            case wire.AskNodes(_, digests):
                return wire.encode(wire.Nodes()), next(
                    pack_nodes([nodes[one] for one in digests])
                )
            case wire.AskNodeDeltas(_, key, items):
                size = len(nodes[items[0][0]])
                joined = delta.join([delta.encode(nodes[items[0][0]], b"", key)])
                return wire.encode(wire.NodeDeltas((size,), len(joined))), joined
            case _:
                return await LyingServer.answer(server, channel, body)

    monkeypatch.setattr(server, "answer", lie)
    if not grows:
        occupy(tmp_path / "home")
    before = names_below(tmp_path)
    error = server.gives([b"a/"], tmp_path / "home")
    assert type(error) is MalformedManifest
    new = names_below(tmp_path) - before
    # What came before it was seen to be none is made, and nothing else.
    assert new <= {"home", "home/d"} if grows else not new


@pytest.mark.parametrize(
    ("pack", "reason"),
    [
        (b"", MalformedManifest),
        (b"no pack", MalformedManifest),
        (zstd([LEAF])[:-1], MalformedManifest),
        (zstd([LEAF]) + b"!", MalformedManifest),
        (zstd([LEAF]) * 2, MalformedManifest),
        (b"\x28\xb5\x2f\xfd\xc0\x00" + (1 << 40).to_bytes(8, "little"), MalformedManifest),
        (b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip", MalformedManifest),
        (zstd([bytes(256 << 20)]), MalformedManifest),
        (zstd([]), UnexpectedMessage),
        (zstd([LEAF, LEAF]), UnexpectedMessage),
        (zstd([encode(EMPTY_DIRECTORY)]), UnexpectedMessage),
    ],
    ids=[
        "nothing",
        "noise",
        "cut",
        "garbage after",
        "two frames",
        "a tebibyte claimed",
        "a skippable frame",
        "a bomb",
        "no nodes",
        "a node twice",
        "another node",
    ],
)
def test_a_pack_that_is_not_what_was_asked_for_is_refused(
    pack: bytes, reason: type[FilesyncError]
) -> None:
    fetch = NodeFetch(TOKEN, {digest_of(LEAF): None}, MemoryNodes())
    assert fetch.next_request() == wire.AskNodes(TOKEN, (digest_of(LEAF),))
    with pytest.raises(reason):
        fetch.take_nodes(pack)


@either
def test_a_server_that_does_not_answer_is_left(
    grows: bool, evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LyingServer(evil, fields.Part(TOKEN, b"a"))
    if not grows:
        occupy(tmp_path)
    kinds = wire.AskNodes | wire.AskNodeDeltas | wire.AskDirectories

    async def silent(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        if isinstance(wire.decode_request(body), kinds):
            await asyncio.Event().wait()
        return await LyingServer.answer(server, channel, body)

    monkeypatch.setattr(asking, "STALL_S", 0.2)
    monkeypatch.setattr(server, "answer", silent)
    error = server.gives([b"a"], tmp_path)
    assert type(error) is Unavailable
    assert not (tmp_path / "a/f").exists()


async def shown_by_the_command(answer: Answer, dest: Path) -> str:
    """Return what ``filesync sync`` says when it takes from a server that says ``answer``."""
    async with DataPlane(LOOPBACK, answer=answer) as plane:
        command = [
            sys.executable,
            "-m",
            "filesync",
            "-vv",
            "sync",
            f"{plane.address}/a",
            str(dest),
        ]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
    assert process.returncode == 1
    return said.decode()


def test_what_a_server_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    async def answer(_: Channel, body: bytes) -> tuple[bytes, bytes]:
        raise UsageError("no\nfilesync: done\x1b]0;title\x07\x9b2J")

    said = asyncio.run(shown_by_the_command(answer, tmp_path / "dest"))
    assert "no filesync: done\\x1b]0;title\\x07\\x9b2J" in said
    assert all(char.isprintable() for line in said.splitlines() for char in line)


def test_what_a_server_skipped_is_told_in_plain_words(evil: Path, tmp_path: Path) -> None:
    server = LyingServer(evil, fields.Part(TOKEN, b"a"))
    scanned = wire.Scanned(server.manifest.tree, {"\x1b[2J": 1})

    async def answer(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        if isinstance(wire.decode_request(body), wire.Scan):
            return wire.encode(scanned), b""
        return await server.answer(channel, body)

    assert "not an answer of a server of trees" in asyncio.run(
        shown_by_the_command(answer, tmp_path / "dest")
    )


# --- clients ------------------------------------------------------------------------------------

Ask = Callable[[wire.Request], Awaitable[wire.Answer]]
Talk = Callable[[Ask], Awaitable[None]]
TOO_MANY_STARS = b"*a" * 100


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a listener notice soon that a peer is gone."""
    monkeypatch.setattr(listener_zmq, "PING_S", 0.1)


def with_server(root: Path, talk: Talk) -> None:
    """Let ``talk`` ask a server of ``root`` what it likes; nothing stays open there afterwards."""

    async def main() -> None:
        server = TreeServer(ServedPlaces(root), read_only=False, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            before = open_descriptors()
            async with DataPlane() as client:
                channel = await client.connect(plane.address)

                async def ask(request: wire.Request) -> wire.Answer:
                    body, _ = await calls_zmq.call(channel, wire.encode(request))
                    return wire.decode_answer(body)

                await talk(ask)
            for _ in range(400):
                if open_descriptors() <= before:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("descriptors stay open")

    asyncio.run(main())


async def refused(ask: Ask, request: wire.Request, reason: type[FilesyncError]) -> None:
    with pytest.raises(Refused) as caught:
        await ask(request)
    assert caught.value.reason == reason.code


@pytest.fixture
def served(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    for number in range(100):
        (root / f"d{number}").mkdir(parents=True)
    return root


def test_what_was_found_is_let_go_of_when_a_rule_makes_no_sense(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        await refused(ask, wire.Look((b"d1", b"d2"), (TOO_MANY_STARS,)), UsageError)

    with_server(served, talk)


def test_what_was_prepared_is_let_go_of_when_it_cannot_be_looked_into(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = [errno.EIO, errno.EMFILE]

    def look(_: Place) -> bool:
        if fails:
            raise OSError(why := fails.pop(0), os.strerror(why))
        return True

    async def talk(ask: Ask) -> None:
        before = open_descriptors()
        await refused(ask, wire.Prepare(b"d1/"), StoreError)
        assert open_descriptors() == before
        prepared = await ask(wire.Prepare(b"d1/"))
        assert isinstance(prepared, wire.Prepared)
        assert (prepared.is_empty, fails) == (True, [])
        await ask(wire.Drop(prepared.token))
        assert open_descriptors() == before

    monkeypatch.setattr(Place, "is_empty", property(look))
    monkeypatch.setattr(links_zmq, "GUARD_AFTER_S", 60.0)  # its descriptors would be counted
    with_server(served, talk)


def cannot_scan(*_: object, **__: object) -> None:
    raise StoreError("this disk")


def test_what_could_not_be_scanned_is_not_taken_for_scanned(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / "d1/file").write_bytes(b"x")

    async def talk(ask: Ask) -> None:
        prepared = await ask(wire.Prepare(b"d1/"))
        assert isinstance(prepared, wire.Prepared)
        with monkeypatch.context() as patch:
            patch.setattr(Held, "scan", cannot_scan)
            await refused(ask, wire.Scan(prepared.token), StoreError)
        nothing = digest_of(encode(EMPTY_DIRECTORY))
        await refused(ask, wire.AskNodes(prepared.token, (nothing,)), UnexpectedMessage)
        scanned = await ask(wire.Scan(prepared.token))
        assert isinstance(scanned, wire.Scanned)
        await ask(wire.AskNodes(prepared.token, (scanned.tree,)))

    with_server(served, talk)


def test_of_what_cannot_be_scanned_nothing_stays_on_offer(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers: list[Offer] = []
    real = DataPlane.offer_growing

    def offer(*args: Any, **more: Any) -> Offer:  # noqa: ANN401
        offers.append(real(*args, **more))
        return offers[-1]

    async def talk(ask: Ask) -> None:
        found = await ask(wire.Look((b"d1/",)))
        assert isinstance(found, wire.Found)
        for number in range(3):
            request = wire.Scan(found.parts[0].token, fresh=bytes([number]) * TOKEN_BYTES)
            await refused(ask, request, StoreError)
        await ask(wire.Drop(found.parts[0].token))
        assert [one.is_closed for one in offers] == [True] * 3

    monkeypatch.setattr(DataPlane, "offer_growing", offer)
    monkeypatch.setattr(Held, "scan", cannot_scan)
    with_server(served, talk)


def test_what_was_found_is_let_go_of_when_it_is_too_much(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        paths = tuple([b"d%d/" % number for number in range(100)])
        await refused(ask, wire.Look(paths), UsageError)
        half = wire.Look(paths[:40])
        await ask(half)
        before = open_descriptors()
        await refused(ask, half, TooMuchWanted)
        # What another thread had open then may be closed now.
        assert open_descriptors() <= before

    with_server(served, talk)


def test_what_was_prepared_is_let_go_of_when_a_rule_makes_no_sense(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        await refused(ask, wire.Prepare(b"d1/", rules=(TOO_MANY_STARS,)), UsageError)
        prepared = await ask(wire.Prepare(b"d1/"))
        assert isinstance(prepared, wire.Prepared)
        await ask(wire.Drop(prepared.token))

    with_server(served, talk)


def test_what_is_prepared_is_scanned_in_the_same_answer(served: Path) -> None:
    (served / "d1/file").write_bytes(b"x")

    async def talk(ask: Ask) -> None:
        prepared = await ask(wire.Prepare(b"d1/", scan=True))
        assert isinstance(prepared, wire.Prepared)
        assert prepared.scanned is not None
        await refused(ask, wire.Scan(prepared.token), UnexpectedMessage)
        await ask(wire.AskNodes(prepared.token, (prepared.scanned.tree,)))
        await ask(wire.Drop(prepared.token))
        again = await ask(wire.Prepare(b"d1/"))
        assert isinstance(again, wire.Prepared)
        assert await ask(wire.Scan(again.token)) == prepared.scanned

    with_server(served, talk)


def test_an_empty_place_is_not_scanned_as_it_can_be_given_to_at_once(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        prepared = await ask(wire.Prepare(b"d1/", scan=True))
        assert isinstance(prepared, wire.Prepared)
        assert prepared.is_empty
        assert prepared.scanned is None
        await ask(wire.Scan(prepared.token))

    with_server(served, talk)


def test_what_was_prepared_is_let_go_of_when_it_cannot_be_scanned(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / "d1/file").write_bytes(b"x")

    async def talk(ask: Ask) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Held, "scan", cannot_scan)
            await refused(ask, wire.Prepare(b"d1/", scan=True), StoreError)
        before = open_descriptors()
        prepared = await ask(wire.Prepare(b"d1/", scan=True))
        assert isinstance(prepared, wire.Prepared)
        await ask(wire.Drop(prepared.token))
        assert open_descriptors() == before

    with_server(served, talk)


@pytest.mark.parametrize("path", [b"..", b"d1/../..", b"a\0b", b"link", b"link/x"])
def test_a_path_out_of_the_served_directory_is_refused(
    path: bytes, served: Path, tmp_path: Path
) -> None:
    (served / "link").symlink_to(tmp_path)
    before = names_below(tmp_path)

    async def talk(ask: Ask) -> None:
        for request in (wire.Look((path + b"/",)), wire.Prepare(path + b"/")):
            with pytest.raises(Refused):
                await ask(request)

    with_server(served, talk)
    assert names_below(tmp_path) == before


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/x", b"a\0b"])
def test_a_name_that_is_none_is_not_prepared(name: bytes, served: Path, tmp_path: Path) -> None:
    before = names_below(tmp_path)

    async def talk(ask: Ask) -> None:
        await refused(ask, wire.Prepare(b"d1/", inside=name), UsageError)
        await refused(ask, wire.Prepare(b"d1/", names=(name,)), UsageError)

    with_server(served, talk)
    assert names_below(tmp_path) == before


def test_what_another_connection_holds_is_not_yours(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        for request in (
            wire.Scan(TOKEN),
            wire.AskNodes(TOKEN, (Digest(bytes(32)),)),
            wire.AskNodeDeltas(TOKEN, 1, ((Digest(bytes(32)), b""),)),
            wire.AskUnseen(TOKEN, (b"a",)),
            wire.Give(TOKEN, TOKEN, Digest(bytes(32))),
        ):
            await refused(ask, request, NotOffered)

    with_server(served, talk)


@pytest.mark.parametrize("path", [b"", b"/", b"..", b"../../etc", b"d1/../..", b"d1/.", b"a\0"])
def test_nobody_looks_outside_of_what_was_prepared(path: bytes, served: Path) -> None:
    (served / "d1/out").symlink_to("/")

    async def talk(ask: Ask) -> None:
        prepared = await ask(wire.Prepare(b"d1", dry_run=True, rules=(b"- *",)))
        assert isinstance(prepared, wire.Prepared)
        token = prepared.token
        await refused(ask, wire.AskUnseen(token, (b"a",)), UnexpectedMessage)
        await ask(wire.Scan(token))
        await refused(ask, wire.AskUnseen(token, (path,)), UsageError)
        await refused(ask, wire.AskUnseen(token, at=(b"a", path)), UsageError)
        if path:  # which is the destination itself
            await refused(ask, wire.AskUnseen(token, written=(path,)), UsageError)
        out = (b"out/etc",)
        assert await ask(wire.AskUnseen(token, out, out, out)) == wire.Unseen()

    with_server(served, talk)


def test_a_tree_that_came_and_is_not_the_one_that_was_scanned_is_refused(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LyingServer(evil, fields.Part(TOKEN))

    async def lie(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        answer, payload = await LyingServer.answer(server, channel, body)
        if isinstance(wire.decode_request(body), wire.AskDirectories):
            answer = wire.encode(wire.Directories(digest_of(b"another")))
        return answer, payload

    monkeypatch.setattr(server, "answer", lie)
    assert type(server.gives([b"a/"], tmp_path / "home")) is UnexpectedMessage


def test_what_is_wrong_with_what_came_is_said_while_the_scan_goes_on(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LyingServer(evil, fields.Part(TOKEN))

    async def lie(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        match wire.decode_request(body):
            case wire.Scan():
                await asyncio.sleep(30)
                raise UsageError("nobody was to wait for this")
            case wire.AskDirectories():
                done = wire.Directories(digest_of(b"no node"))
                return wire.encode(done), pack_directories([(b"", b"no node")])
            case _:
                return await LyingServer.answer(server, channel, body)

    monkeypatch.setattr(server, "answer", lie)
    assert type(server.gives([b"a/"], tmp_path / "home")) is MalformedManifest


def test_what_is_scanned_while_it_is_taken_is_asked_for_in_its_turn(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        found = await ask(wire.Look((b"d1/", b"d2/")))
        assert isinstance(found, wire.Found)
        one, other = (part.token for part in found.parts)
        await refused(ask, wire.AskDirectories(one), UnexpectedMessage)
        await ask(wire.Scan(one, grows=True))
        await refused(ask, wire.Scan(one, grows=True), UnexpectedMessage)
        await refused(ask, wire.Scan(other, grows=True), UnexpectedMessage)  # one at a time
        assert isinstance(await ask(wire.AskDirectories(one)), wire.Directories)
        await ask(wire.Drop(one))
        await refused(ask, wire.AskDirectories(one), NotOffered)
        await ask(wire.Scan(other, grows=True))
        prepared = await ask(wire.Prepare(b"d3"))
        assert isinstance(prepared, wire.Prepared)
        await refused(ask, wire.Scan(prepared.token, grows=True), UnexpectedMessage)

    with_server(served, talk)


def test_what_is_in_several_directories_is_taken_when_all_was_scanned(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        found = await ask(wire.Look((b"d1/", b"d2/"), unites=True))
        assert isinstance(found, wire.Found)
        assert [part.united for part in found.parts] == [True]
        token = found.parts[0].token
        await refused(ask, wire.Scan(token, grows=True), UnexpectedMessage)
        await ask(wire.Scan(token, fresh=TOKEN))
        await refused(ask, wire.AskDirectories(token, fresh=True), UnexpectedMessage)

    with_server(served, talk)


def test_of_a_scan_that_fails_while_it_is_taken_nothing_is_left(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(ask: Ask) -> None:
        found = await ask(wire.Look((b"d1/",)))
        assert isinstance(found, wire.Found)
        token = found.parts[0].token
        await refused(ask, wire.Scan(token, grows=True), StoreError)
        await refused(ask, wire.AskDirectories(token), NotOffered)
        await refused(ask, wire.Scan(token), NotOffered)

    monkeypatch.setattr(scanning, "scan", cannot_scan)
    with_server(served, talk)


def test_what_is_asked_out_of_turn_is_refused(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        found = await ask(wire.Look((b"d1",)))
        assert isinstance(found, wire.Found)
        token = found.parts[0].token
        nodes = wire.AskNodes(token, (Digest(bytes(32)),))
        await refused(ask, nodes, UnexpectedMessage)
        await ask(wire.Scan(token))
        await refused(ask, wire.Scan(token), UnexpectedMessage)
        await refused(ask, nodes, NotOffered)
        await refused(ask, wire.Give(token, TOKEN, Digest(bytes(32))), UsageError)
        await refused(ask, wire.Progressed(1, 1), UnexpectedMessage)
        await ask(wire.Drop(token))
        await refused(ask, nodes, NotOffered)

    with_server(served, talk)


def giving(*trees: Manifest) -> Answer:
    """Answer a server that asks for nodes; the first tree that has them is asked for deltas."""

    async def answer(_: Channel, body: bytes) -> tuple[bytes, bytes]:
        asked = wire.decode_request(body)
        if isinstance(asked, wire.AskNodes):
            tree = next(tree for tree in trees if asked.digests[0] in tree.nodes)
            return wire.encode(wire.Nodes()), answer_nodes(tree, asked.digests)
        assert isinstance(asked, wire.AskNodeDeltas)
        deltas, payload = answer_deltas(trees[0], asked)
        return wire.encode(deltas), payload

    return answer


async def prepared_by(channel: Channel) -> wire.Prepared:
    request = wire.Prepare(b"d1/", scan=True)
    body, _ = await calls_zmq.call(channel, wire.encode(request))
    prepared = wire.decode_answer(body)
    assert isinstance(prepared, wire.Prepared)
    return prepared


def tree_with(name: bytes) -> Manifest:
    nodes = MemoryNodes()
    files = replace(EMPTY_DIRECTORY, entries=(file(name, b""),))
    return Manifest(accept(nodes, encode(files)), nodes)


def give_together(trees: list[Manifest], served: Path, root: Path) -> None:
    """Give the first of ``trees``, which is that of ``root``, and say that the others go there too."""

    async def main() -> None:
        server = TreeServer(ServedPlaces(served), read_only=False, caches=None)
        async with (
            DataPlane(LOOPBACK, answer=server.answer) as plane,
            DataPlane(answer=giving(*trees)) as client,
        ):
            server.use(plane)
            channel = await client.connect(plane.address)
            token = (await prepared_by(channel)).token
            await calls_zmq.call(channel, wire.encode(wire.Scan(token)))
            with client.offer(trees[0], root) as offer:
                await client.announce(channel, offer)
                others = tuple([fields.Other(TOKEN, other.tree) for other in trees[1:]])
                give = wire.Give(token, offer.token, trees[0].tree, delete=True, others=others)
                await calls_zmq.call(channel, wire.encode(give))

    asyncio.run(main())


def test_all_trees_of_one_gift_together_may_have_as_many_nodes_as_one(
    served: Path, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = [tree_with(b"%d" % number * 200) for number in range(4)]
    (size,) = {len(tree.nodes.read(tree.tree)) for tree in trees}
    monkeypatch.setattr(remote_nodes, "MAX_NODES_BYTES", 3 * size)
    with pytest.raises(Refused) as caught:
        give_together(trees, served, evil)
    assert caught.value.reason == MalformedManifest.code
    give_together(trees[:3], served, evil)


def test_who_goes_while_his_gift_is_planned_does_not_keep_the_place_from_others(
    served: Path, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / "d1/file").write_bytes(b"x")
    nodes = MemoryNodes()
    tree = Manifest(scan(evil, nodes).tree, nodes)
    is_planning = threading.Event()
    around = unwritable.around_unwritable

    def take_long(root: Path, plan: Plan, nodes: Nodes) -> tuple[Plan, Mapping[bytes, int]]:
        is_planning.set()
        time.sleep(0.5)
        return around(root, plan, nodes)

    async def give(plane: DataPlane) -> None:
        async with DataPlane(answer=giving(tree)) as client:
            channel = await client.connect(plane.address)
            prepared = await prepared_by(channel)
            with client.offer(tree, evil) as offer:
                await client.announce(channel, offer)
                given = wire.Give(prepared.token, offer.token, tree.tree)
                await calls_zmq.call_only(channel, wire.encode(given))
                assert await in_thread(is_planning.wait, 10)

    async def main() -> None:
        server = TreeServer(ServedPlaces(served), read_only=False, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            await give(plane)
            await sync_to([os.fsencode(evil) + b"/"], Remote(plane.address, b"d1"), Options())

    monkeypatch.setattr(gifts, "around_unwritable", take_long)
    asyncio.run(main())
    assert (served / "d1/f").read_text() == "planted"


def test_what_a_peer_may_make_long_is_read_beside_the_event_loop(
    served: Path, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, threading.Thread]] = []

    def noting(name: str, call: Callable[..., T]) -> Callable[..., T]:
        def noted(*args: object, **more: object) -> T:
            read.append((name, threading.current_thread()))
            return call(*args, **more)

        return noted

    for module, names in (
        (server_module, ("Filter",)),
        (gifts, ("Filter", "unpack_edits", "unpack_remains")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    nodes = MemoryNodes()
    give_together([Manifest(scan(evil, nodes).tree, nodes)], served, evil)
    assert [name for name, _ in read] == ["Filter", "unpack_edits", "unpack_remains", "Filter"]
    assert threading.main_thread() not in [thread for _, thread in read]


@pytest.mark.parametrize(
    ("nosy", "reason"),
    [
        (wire.Look((b"/etc/",)), UnexpectedMessage),
        (wire.Scan(TOKEN), UnexpectedMessage),
        (wire.Prepare(b"/tmp"), UnexpectedMessage),
        (wire.Drop(TOKEN), UnexpectedMessage),
        (wire.AskNodes(TOKEN, (digest_of(b""),)), NotOffered),
        (wire.AskDirectories(TOKEN), NotOffered),
    ],
)
def test_a_server_that_is_given_a_tree_learns_nothing_else_of_its_client(
    nosy: wire.Request, reason: type[FilesyncError], served: Path, evil: Path
) -> None:
    told: list[str] = []

    async def main() -> None:
        server = TreeServer(ServedPlaces(served), read_only=False, caches=None)

        async def answer(channel: Channel, body: bytes) -> tuple[bytes, bytes]:
            if isinstance(wire.decode_request(body), wire.Prepare):
                with pytest.raises(Refused) as caught:
                    await calls_zmq.call(channel, wire.encode(nosy))
                told.append(caught.value.reason)
            return await server.answer(channel, body)

        async with DataPlane(LOOPBACK, answer=answer) as plane:
            server.use(plane)
            await sync_to([os.fsencode(evil) + b"/"], Remote(plane.address, b"d1"), Options())

    asyncio.run(main())
    assert told == [reason.code]
    assert (served / "d1/f").read_text() == "planted"


def test_a_tree_that_is_not_served_is_not_given(served: Path) -> None:
    async def talk(ask: Ask) -> None:
        prepared = await ask(wire.Prepare(b"d1/", scan=True))
        assert isinstance(prepared, wire.Prepared)
        await refused(ask, wire.Give(prepared.token, TOKEN, Digest(bytes(32))), NotOffered)
        growing = wire.GiveGrowing(prepared.token, TOKEN)
        await refused(ask, growing, NotOffered)
        await refused(ask, wire.Add(prepared.token, TOKEN), NotOffered)
        dry = await ask(wire.Prepare(b"d1/", scan=True, dry_run=True))
        assert isinstance(dry, wire.Prepared)
        await refused(ask, wire.Give(dry.token, TOKEN, Digest(bytes(32))), UsageError)
        await refused(ask, wire.Add(dry.token, TOKEN), UsageError)

    with_server(served, talk)


class ServerOfBefore(TreeServer):
    """One that does not know that anything may be given to others."""

    async def answer(self, channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        request = wire.decode_request(body)
        if isinstance(request, wire.Prepare):
            request = replace(request, owner=None)
        return await super().answer(channel, wire.encode(request))


def gives_away(root: Path, kind: type[TreeServer]) -> None:
    """Give a file to a server of ``kind`` that is to have it belong to somebody."""
    (root / "src").mkdir(exist_ok=True)
    (root / "src/file").write_bytes(b"x")
    (root / "served").mkdir(exist_ok=True)

    async def main() -> None:
        server = kind(ServedPlaces(root / "served"), read_only=False, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            options = Options(owner=OwnerNames("anna", "staff"))
            await sync_to([os.fsencode(root / "src/")], Remote(plane.address, b"d"), options)

    asyncio.run(main())


def test_a_server_that_does_not_know_whom_to_give_it_to_is_given_nothing(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="does not know --chown"):
        gives_away(tmp_path, ServerOfBefore)
    assert names_below(tmp_path / "served") <= {"d", "d/src"}


@pytest.mark.needs("root")
def test_whom_it_is_given_to_is_looked_up_by_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[OwnerNames] = []

    def look_up(names: OwnerNames) -> NewOwner:
        asked.append(names)
        return NewOwner(1234, 5678)

    monkeypatch.setattr(server_module, "look_up", look_up)
    gives_away(tmp_path, TreeServer)
    status = next((tmp_path / "served").rglob("file")).stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)
    assert asked == [OwnerNames("anna", "staff")]


@pytest.mark.parametrize(
    "name", ["no\nsuch", "nosuch", "-1", "4294967295", "\ud7ff", "9" * 255]
)
def test_who_is_asked_for_somebody_that_is_nobody_prepares_nothing(
    served: Path, name: str
) -> None:
    async def talk(ask: Ask) -> None:
        for names in (fields.OwnerNames(name), fields.OwnerNames("", name)):
            await refused(ask, wire.Prepare(b"new", is_directory=True, owner=names), UsageError)
        assert not (served / "new").exists()

    with_server(served, talk)
