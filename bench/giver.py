"""A process that has a tree and gives it: the other side of benchmarks of the data plane.

``python -m bench.giver ROOT`` scans ROOT once, offers it, prints where, and gives until its standard
input ends. As a worker does, it goes by the manifest that it has, and never looks again.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

from filesync.digest import Digest
from filesync.disk.scanning.scan import scan
from filesync.errors import UnexpectedMessage
from filesync.manifest import Manifest, MemoryNodes
from filesync.process.lifetime import wait_for_end
from filesync.sync.remote import wire
from filesync.sync.remote.nodes import answer_nodes
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica

ASK_TREE: Final = b"tree?"
STOP_S: Final = 20.0


class Giver:
    """Runs one giver of ``root`` for as long as the block lasts.

    Attributes:
        replica: where its tree is to be had.
        tree: the tree's digest.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> Self:
        words = [sys.executable, "-m", "bench.giver", str(self._root)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the giver of {self._root} did not start")
        said: dict[str, Any] = json.loads(line)
        self.replica = Replica(said["address"], bytes.fromhex(said["token"]))
        self.tree = Digest(bytes.fromhex(said["tree"]))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=STOP_S)


async def _give(root: Path) -> None:
    nodes = MemoryNodes()
    manifest = Manifest(scan(root, nodes).tree, nodes)

    async def answer(_: Channel, body: bytes) -> tuple[bytes, bytes]:
        if body == ASK_TREE:
            return manifest.tree, b""
        match wire.decode_request(body):
            case wire.AskNodes(_, digests):
                return wire.encode(wire.Nodes()), answer_nodes(manifest, digests)
            case _:
                raise UnexpectedMessage("a giver answers no such request")

    async with DataPlane("tcp://127.0.0.1:0", answer=answer) as plane:
        with plane.offer(manifest, root) as offer:
            said = {"address": plane.address, "token": offer.token.hex()}
            print(json.dumps({**said, "tree": manifest.tree.hex()}), flush=True)
            await wait_for_end(until_eof=True)


if __name__ == "__main__":
    asyncio.run(_give(Path(sys.argv[1])))
