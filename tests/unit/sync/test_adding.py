"""What a peer says is new, and what is asked of it then."""

import asyncio
from collections.abc import Callable, Container, Iterable, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from filesync.digest import Digest, digest_of
from filesync.early import EARLY_BYTES
from filesync.errors import FilesyncError, MalformedManifest, StoreError, UnexpectedMessage
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, empty_manifest, encode
from filesync.manifest.node import Directory
from filesync.manifest.pack import pack_nodes
from filesync.sync.applying import Update
from filesync.sync.filter import Filter
from filesync.sync.part import Part
from filesync.sync.places import Place
from filesync.sync.remote import nodes as remote_nodes
from filesync.sync.remote import wire
from filesync.sync.remote.adding import Adding
from filesync.sync.remote.earlies import Earlies
from filesync.sync.remote.fields import Begun
from filesync.sync.remote.unasked import Unasked
from filesync.sync.scanning import Found
from filesync.transfer.connection.channel_zmq import Channel
from tests.unit.made import file

NODE = encode(Directory(0o755, 0, 0, 0, (), (file(b"f", b"content"),)))
TREE = digest_of(NODE)


class Coming:
    """Notes what is to come early."""

    def __init__(self) -> None:
        self.begun: list[Begun] = []
        self.has_stopped = False

    def begin(self, begun: Iterable[Begun]) -> None:
        self.begun += begun

    async def come(self, _: Container[bytes]) -> None:
        """Do so at once."""

    async def come_all(self) -> None:
        """Likewise."""

    async def stop(self) -> None:
        self.has_stopped = True


class Room:
    """Can be made, unless it ``is_shut``."""

    is_open = is_shut = False

    def open(self) -> None:
        if self.is_shut:
            raise StoreError("nobody may write here")
        self.is_open = True


class Peer:
    """Says what is new once, and sends ``nodes`` whatever it is asked for."""

    def __init__(
        self,
        *fresh: tuple[bytes, Digest],
        nodes: Sequence[bytes] = (),
        begun: Sequence[Begun] = (),
    ) -> None:
        self.answers = [
            wire.Directories(fresh=fresh, begun=tuple(begun)),
            wire.Directories(TREE),
        ]
        self.nodes = nodes
        self.asked: list[Digest] = []
        self.here = MemoryNodes()
        self.added: list[bytes] = []
        self.looked = 0
        self.earlies, self.staging = Coming(), Room()
        self.rename: bytes | None = None

    async def ask(
        self, _: Channel, request: wire.Request, __: type[wire.Answer]
    ) -> tuple[wire.Answer, bytes]:
        if isinstance(request, wire.AskNodes):
            self.asked += request.digests
            return wire.Nodes(), next(pack_nodes(self.nodes), b"")
        return self.answers.pop(0), b""

    def adding(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_made: bool = True,
        rules: Sequence[bytes] = (),
    ) -> Adding:
        """Return what adds what it says, by updates that do all or nothing."""
        for module in ("adding", "nodes"):
            monkeypatch.setattr(f"filesync.sync.remote.{module}.ask", self.ask)

        def add(_: object, __: object, ___: object, top: Manifest, **____: object) -> object:
            self.added = [path for path, _ in top.walk()]
            return SimpleNamespace(update=None, top=top, is_made=is_made)

        monkeypatch.setattr("filesync.sync.remote.adding.add_to", add)
        return Adding(
            cast(Channel, SimpleNamespace(lost=None, name="peer")),
            bytes(16),
            cast(
                Place, SimpleNamespace(is_of_files=False, staging=self.staging, label=b"dest")
            ),
            Part(),
            Found(empty_manifest(self.here), {}, {}),
            self.here,
            unseen=Filter(()),
            caches=None,
            deletes=False,
            rename=self.rename,
            earlies=cast(Earlies, self.earlies),
            unasked=Unasked(Filter(rules)),
        )

    def run(self, adding: Adding) -> None:
        """Add until it ends."""

        async def pull(_: Update) -> None:
            pass

        def look() -> Found:
            self.looked += 1
            return Found(empty_manifest(self.here), {}, {})

        asyncio.run(adding.run(pull, look))


def test_what_is_new_is_asked_for_and_added(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer((b"a", TREE), (b"b/c", TREE), nodes=[NODE])
    peer.run(peer.adding(monkeypatch))
    assert peer.added == [b"a", b"a/f", b"b", b"b/c", b"b/c/f"]
    assert (peer.asked, peer.looked) == ([TREE], 0)


def test_a_directory_that_is_known_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer((b"a", digest_of(encode(EMPTY_DIRECTORY))), nodes=[])
    peer.run(peer.adding(monkeypatch))
    assert (peer.added, peer.asked) == ([], [])


def test_when_not_all_could_be_made_nothing_more_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = Peer((b"a", TREE), nodes=[NODE])
    peer.run(peer.adding(monkeypatch, is_made=False))
    assert peer.added == [b"a", b"a/f"]
    assert (peer.looked, len(peer.answers)) == (1, 1)


@pytest.mark.parametrize("rule", [b"- /b", b"- /b/c", b"- f"])
def test_what_was_to_be_left_out_is_not_added(
    rule: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer((b"a", TREE), (b"b/c", TREE), nodes=[NODE])
    with pytest.raises(UnexpectedMessage):
        asyncio.run(peer.adding(monkeypatch, rules=[rule])._next())
    again = Peer((b"a", TREE), (b"b/c", TREE), nodes=[NODE])
    again.run(again.adding(monkeypatch, rules=[rule]))
    assert again.added == []


OTHER = encode(Directory(0o700, 0, 0, 0, (), ()))


@pytest.mark.parametrize(
    ("peer", "error"),
    [
        (lambda: Peer((b"../a", TREE), nodes=[NODE]), MalformedManifest),
        (lambda: Peer((b"/a", TREE), nodes=[NODE]), MalformedManifest),
        (lambda: Peer((b"a/./b", TREE), nodes=[NODE]), MalformedManifest),
        (lambda: Peer((b"a", TREE), nodes=[OTHER]), UnexpectedMessage),
        (lambda: Peer((b"a", TREE), (b"b", digest_of(OTHER)), nodes=[NODE]), UnexpectedMessage),
        (lambda: Peer((b"a", digest_of(b"x")), nodes=[b"x"]), MalformedManifest),
    ],
    ids=["above", "absolute", "dot", "not asked for", "too few", "no directory"],
)
def test_what_is_no_directory_of_the_peer_is_refused(
    peer: Callable[[], Peer], error: type[FilesyncError], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error):
        asyncio.run(peer().adding(monkeypatch)._next())
    one = peer()
    one.run(one.adding(monkeypatch))  # what is wrong shows when all is given
    assert (one.added, one.looked) == ([], 1)


def test_no_more_paths_come_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_nodes, "MAX_NODES_BYTES", 1000)
    paths = [b"d%d/" % number + b"n" * 250 for number in range(4)]
    peer = Peer(*[(path, TREE) for path in paths], nodes=[NODE])
    with pytest.raises(MalformedManifest):
        asyncio.run(peer.adding(monkeypatch)._next())


def test_what_leads_to_a_deep_directory_takes_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_nodes, "MAX_NODES_BYTES", 2000)
    flat, deep = b"n" * 200, b"n/" * 99 + b"n"
    assert asyncio.run(Peer((flat, TREE), nodes=[NODE]).adding(monkeypatch)._next())
    with pytest.raises(MalformedManifest):
        asyncio.run(Peer((deep, TREE), nodes=[NODE]).adding(monkeypatch)._next())


LARGE = (b"d/large", EARLY_BYTES, 7)


@pytest.mark.parametrize(
    ("rename", "path"), [(None, b"d/large"), (b"to", b"to/large")], ids=["as it is", "renamed"]
)
def test_large_files_that_are_read_come_meanwhile(
    rename: bytes | None, path: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(begun=[LARGE])
    peer.rename = rename
    peer.run(peer.adding(monkeypatch))
    assert peer.earlies.begun == [(path, EARLY_BYTES, 7)]
    assert (peer.staging.is_open, peer.earlies.has_stopped, peer.looked) == (True, True, 0)


def test_without_any_nothing_is_made_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer((b"a", TREE), nodes=[NODE])
    peer.run(peer.adding(monkeypatch))
    assert not peer.staging.is_open


def test_where_there_is_no_room_for_them_all_else_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = Peer((b"a", TREE), nodes=[NODE], begun=[LARGE])
    peer.staging.is_shut = True
    peer.run(peer.adding(monkeypatch))
    assert (peer.earlies.begun, peer.added, peer.looked) == ([], [b"a", b"a/f"], 0)


@pytest.mark.parametrize("path", [b"../f", b"/f", b"d//f", b""])
def test_a_path_of_no_file_is_refused(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(begun=[(path, EARLY_BYTES, 7)])
    with pytest.raises(MalformedManifest):
        asyncio.run(peer.adding(monkeypatch)._next())


def test_to_a_place_of_files_no_directories_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer((b"a", TREE), nodes=[NODE])
    peer.rename = b"to"
    peer.run(peer.adding(monkeypatch))
    assert (peer.asked, peer.added) == ([], [])
