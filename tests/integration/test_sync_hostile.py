"""``filesync sync`` and ``filesync serve`` against peers that ask for, or give, what they should not."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from filesync.disk.scan import scan
from filesync.errors import FilesyncError, MalformedManifest, PeerError, UnexpectedMessage
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, put, subdirectory, with_entries
from filesync.sync import wire
from filesync.sync.client import Remote, sync_from
from filesync.sync.nodes import answer_deltas, answer_nodes
from filesync.sync.options import Options
from filesync.transfer import DataPlane
from filesync.transfer.channel_zmq import Channel

LOOPBACK = "tcp://127.0.0.1:0"
TOKEN = bytes(16)


class LyingServer:
    """Serves one tree, and says what it likes of where that is to go."""

    def __init__(self, root: Path, *parts: wire.Part) -> None:
        self.root = root
        self.parts = parts
        self.nodes = MemoryNodes()
        self.manifest = Manifest(scan(root, self.nodes).tree, self.nodes)
        self.asked: list[wire.Request] = []

    async def answer(self, _: Channel, body: bytes) -> tuple[bytes, bytes]:
        request = wire.decode_request(body)
        self.asked.append(request)
        match request:
            case wire.Look():
                return wire.encode(wire.Found(self.parts)), b""
            case wire.Scan():
                return wire.encode(wire.Scanned(self.manifest.tree)), b""
            case wire.AskNodes(_, digests):
                return wire.encode(wire.Nodes()), answer_nodes(self.manifest, digests)
            case wire.AskNodeDeltas():
                answer, payload = answer_deltas(self.manifest, request)
                return wire.encode(answer), payload
            case _:
                return wire.encode(wire.Done()), b""

    def gives(self, paths: list[bytes], dest: Path) -> FilesyncError | None:
        """Take ``paths`` from it; return what that raised."""

        async def main() -> FilesyncError | None:
            async with DataPlane(LOOPBACK, answer=self.answer) as plane:
                remotes = [Remote(plane.address, path) for path in paths]
                with plane.offer(self.manifest, self.root, TOKEN):
                    try:
                        await sync_from(remotes, os.fsencode(dest), Options())
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


def names_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ([b"a"], wire.Part(TOKEN, b"..")),
        ([b"a"], wire.Part(TOKEN, b"../out")),
        ([b"a"], wire.Part(TOKEN, b"a/../../out")),
        ([b"a"], wire.Part(TOKEN, b".ssh")),
        ([b"a"], wire.Part(TOKEN, b"")),
        ([b"a"], wire.Part(TOKEN, b"", (b"f",))),
        ([b"a"], wire.Part(TOKEN, b"a", (b"a",))),
        ([b"a/"], wire.Part(TOKEN, b"a")),
        ([b"a/"], wire.Part(TOKEN, b"", (b"f",))),
        ([b"x/f", b"y/g"], wire.Part(TOKEN, b"", (b"f", b"h"))),
        ([b"x/f", b"y/g"], wire.Part(TOKEN, b"", (b"../f",))),
    ],
    ids=repr,
)
def test_a_server_decides_nothing_of_where_things_go(
    asked: list[bytes], part: wire.Part, evil: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    before = names_below(tmp_path)
    error = LyingServer(evil, part).gives(asked, tmp_path / "home")
    assert type(error) is UnexpectedMessage
    assert names_below(tmp_path) == before


def test_a_server_gives_no_more_parts_than_were_asked_for(evil: Path, tmp_path: Path) -> None:
    part = wire.Part(TOKEN, b"a")
    error = LyingServer(evil, part, part).gives([b"a"], tmp_path / "home")
    assert type(error) is UnexpectedMessage


@pytest.mark.parametrize(
    ("asked", "part", "lands"),
    [
        ([b"x/a"], wire.Part(TOKEN, b"a"), "a/f"),
        ([b"x/a/"], wire.Part(TOKEN), "f"),
        ([b""], wire.Part(TOKEN), "f"),
        ([b"x/f", b"y/g"], wire.Part(TOKEN, b"", (b"f",)), "f"),
    ],
    ids=repr,
)
def test_what_was_asked_for_is_taken(
    asked: list[bytes], part: wire.Part, lands: str, evil: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    assert LyingServer(evil, part).gives(asked, tmp_path / "home") is None
    assert (tmp_path / "home" / lands).read_text() == "planted"
