"""A worker's store that gives layers, and a process that takes them and can be killed.

``python -m tests.integration.layer_pair STATE ORDER KILL_AT`` carries out an order to pull layers
that is in the file ORDER, with the nodes beside it, and prints what it took. Once KILL_AT bytes of
content have come, if that is not 0, it kills itself.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from filesync.digest import Digest
from filesync.manifest import missing_nodes
from filesync.manifest.pack import accept_pack, pack_nodes
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.stats import Progress
from worker.garbage.keeper import DiskKeeper
from worker.images import Images
from worker.link_zmq import ManagerLink
from worker.moving.arrivals import Arrivals
from worker.options import WorkerOptions
from worker.registry import Registries
from worker.service import Service
from worker.store import Store
from worker.store.leases import Leases
from worker.store.results import keep
from worker.wire import orders
from worker.wire.orders import FromLayers, Link, LinkParts, Offered, RefInfo, Replica


class Side:
    """One worker's store, data plane and orders, in this process."""

    def __init__(self, state: Path, *, snapshotter: str | None = "copy") -> None:
        self.state = state
        self._snapshotter = snapshotter
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.state.mkdir(parents=True, exist_ok=True)
        self.store = await asyncio.to_thread(
            Store.open, self.state, snapshotter=self._snapshotter
        )
        self.plane = await self._stack.enter_async_context(DataPlane("tcp://127.0.0.1:0"))
        self.arrivals = Arrivals(self.store, self.plane)
        images = Images(self.store, Registries())
        slots = asyncio.Semaphore(2)
        disk = DiskKeeper(self.store, None)
        self.service = Service(
            self.store,
            self.plane,
            images,
            self.arrivals,
            None,
            "",
            slots,
            asyncio.Semaphore(1),
            disk,
            Leases(self.store),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.close()
        await self._stack.aclose()
        self.store.close()

    def link(self) -> ManagerLink:
        """Return what would take orders from a manager, were it told to dial one."""
        options = WorkerOptions("tcp://127.0.0.1:1", "", self.state, "w")
        return ManagerLink(options, "i", 2, self.service, self.plane.address, set())

    def commit(self, files: Mapping[str, bytes], parent: RefInfo | None = None) -> RefInfo:
        """Keep a result with these files, on top of another."""
        below = None if parent is None else self.store.refs.get(parent.ref)
        active = self.store.snapshots.prepare(below.snapshot if below else None)
        for name, data in files.items():
            path = active.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return keep(self.store, active, {}, parent.ref if parent else None, ())

    async def offer(self, *refs: RefInfo) -> Offered:
        """Open the layers of a chain, as the manager would ask for it."""
        order = orders.OfferLayers(tuple(info.ref for info in refs))
        offered = await self.service.perform(1, order, lambda _: None)
        assert isinstance(offered, Offered), offered
        return offered

    def taking(self, refs: tuple[RefInfo, ...], offered: Offered) -> FromLayers:
        """Return the order to take what was opened."""
        links = [
            Link(
                msgspec.structs.replace(info, layer=layer),
                layer,
                LinkParts(parts.skeleton, self._replica(parts.token)) if parts else None,
            )
            for info, layer, parts in zip(refs, offered.layers, offered.parts, strict=True)
        ]
        return FromLayers(tuple(links), offered.tree, self._replica(offered.token))

    def _replica(self, token: bytes) -> tuple[Replica, ...]:
        return (Replica("giver", self.plane.address, token),)

    def packs(self, tree: Digest) -> list[bytes]:
        """Return the nodes of a tree, as they go from worker to worker."""
        return list(pack_nodes(missing_nodes(self.store.nodes, tree, lambda _: False)))

    def learn(self, giver: "Side", order: FromLayers) -> None:
        """Get the nodes that an order speaks of."""
        for pack in giver.packs(order.blobs):
            accept_pack(self.store.nodes, pack)


@dataclass(frozen=True, slots=True)
class Took:
    """How a taker ended, and what it said.

    Attributes:
        status: of the process; minus the signal that ended it.
        said: what came, if it ended well.
    """

    status: int
    said: dict[str, Any]


def write(where: Path, giver: Side, order: FromLayers) -> None:
    """Put down what a taker is to read."""
    (where / "order").write_bytes(msgspec.msgpack.encode(order))
    (where / "nodes").write_bytes(msgspec.msgpack.encode(giver.packs(order.blobs)))


async def take(where: Path, giver: Side, order: FromLayers, *, kill_at: int = 0) -> Took:
    """Run a process on the state ``where / "taker"`` that carries out ``order``."""
    write(where, giver, order)
    words = ["-m", "tests.integration.layer_pair", str(where), str(kill_at)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return Took(process.returncode, json.loads(out) if out else {})


def killing(at: int) -> Callable[[Progress], None]:
    """Return what kills this process once so many bytes have come."""

    def tell(progress: Progress) -> None:
        if at and progress.content_bytes >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    return tell


async def main(where: Path, kill_at: int) -> None:
    """Be the taker."""
    order = msgspec.msgpack.decode((where / "order").read_bytes(), type=FromLayers)
    async with Side(where / "taker") as taker:
        for pack in msgspec.msgpack.decode((where / "nodes").read_bytes(), type=list[bytes]):
            accept_pack(taker.store.nodes, pack)
        stats, pulled = await taker.arrivals.pull(order, killing(kill_at))
        said = {
            "content_bytes": stats.content_bytes,
            "wire_bytes": stats.wire_in + stats.wire_out,
            "trees": [info.tree.hex() for info in pulled],
            "blobs": [blob.digest for blob in taker.store.blobs.list()],
            "arriving": os.listdir(where / "taker" / "arriving"),
        }
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
