"""What a peer says is new, and what is asked of it then."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from filesync.digest import Digest, digest_of
from filesync.errors import FilesyncError, MalformedManifest, UnexpectedMessage
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, empty_manifest, encode
from filesync.manifest.node import Directory
from filesync.manifest.pack import pack_nodes
from filesync.sync.additions import Additions
from filesync.sync.remote import nodes as remote_nodes
from filesync.sync.remote import wire
from filesync.sync.remote.adding import Adding
from filesync.transfer.connection.channel_zmq import Channel
from tests.unit.made import file

NODE = encode(Directory(0o755, 0, 0, 0, (), (file(b"f", b"content"),)))
TREE = digest_of(NODE)


class Peer:
    """Says what is new once, and sends ``nodes`` whatever it is asked for."""

    def __init__(self, *fresh: tuple[bytes, Digest], nodes: list[bytes]) -> None:
        self.answers = [wire.Directories(fresh=fresh), wire.Directories(TREE)]
        self.nodes = nodes
        self.asked: list[Digest] = []
        self.there = empty_manifest(MemoryNodes())

    async def ask(
        self, _: Channel, request: wire.Request, __: type[wire.Answer]
    ) -> tuple[wire.Answer, bytes]:
        if isinstance(request, wire.AskNodes):
            self.asked += request.digests
            return wire.Nodes(), next(pack_nodes(self.nodes), b"")
        return self.answers.pop(0), b""

    def adds(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        """Return the paths that are added."""
        monkeypatch.setattr("filesync.sync.remote.adding.ask", self.ask)
        nodes = cast(MemoryNodes, self.there.nodes)
        additions = Additions(self.there, nodes, writer=None, deletes=False)
        adding = Adding(cast(Channel, None), bytes(16), nodes, additions)
        found: list[bytes] = []

        async def bring(_: Manifest, top: Manifest) -> Manifest:
            found.extend(path for path, _ in top.walk())
            return top

        asyncio.run(adding.run(self.there, bring))
        return found


def test_what_is_new_is_asked_for_and_added(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer((b"a", TREE), (b"b/c", TREE), nodes=[NODE])
    assert peer.adds(monkeypatch) == [b"a", b"a/f", b"b", b"b/c", b"b/c/f"]
    assert peer.asked == [TREE]


def test_a_directory_that_is_known_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer((b"a", digest_of(encode(EMPTY_DIRECTORY))), nodes=[])
    assert peer.adds(monkeypatch) == []
    assert peer.asked == []


def test_when_not_all_could_be_made_nothing_more_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = Peer((b"a", TREE), nodes=[NODE])
    peer.answers.insert(1, peer.answers[0])
    monkeypatch.setattr("filesync.sync.remote.adding.ask", peer.ask)
    nodes = cast(MemoryNodes, peer.there.nodes)
    additions = Additions(peer.there, nodes, writer=None, deletes=False)
    adding = Adding(cast(Channel, None), bytes(16), nodes, additions)

    async def refuse(there: Manifest, _: Manifest) -> Manifest:
        return there

    assert asyncio.run(adding.run(peer.there, refuse)) == peer.there
    assert len(peer.answers) == 2


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
        peer().adds(monkeypatch)


def test_no_more_paths_come_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_nodes, "MAX_NODES_BYTES", 1000)
    paths = [b"d%d/" % number + b"n" * 250 for number in range(4)]
    with pytest.raises(MalformedManifest):
        Peer(*[(path, TREE) for path in paths], nodes=[NODE]).adds(monkeypatch)
