"""Workers that come: which may have the name that it says, and what it holds."""

import asyncio
import logging
import time
from typing import Final, NamedTuple

from filesync.errors import FilesyncError
from filesync.keys.files import AllowFile, PublicKey
from filesync.transfer.connection.address import key_in
from solver.errors import OrderFailed
from solver.manager.sending_zmq import Sending
from solver.manager.shared import Shared
from solver.manager.workers import WorkerLink
from worker.wire import orders
from worker.wire.orders import VERSION, RefInfo

log = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 2.0
"""A worker that was away has much to say from before it is asked to register: it is asked once."""


class Peer(NamedTuple):
    """Who sent a message: its route, the key that it has proved to have, its connection."""

    identity: bytes
    key: PublicKey | None
    fd: int


class Joining:
    """Takes workers into the cluster.

    Args:
        allowed: whose keys a worker is told to let in; None where none are used.
    """

    def __init__(self, shared: Shared, sending: Sending, allowed: AllowFile | None) -> None:
        self._shared = shared
        self._cluster = shared.cluster
        self._sending = sending
        self._allowed = allowed
        self._asked_s: dict[bytes, float] = {}
        # Who has registered, and hears whether it may have its name once that is known.
        self._waiting: set[bytes] = set()

    async def ask(self, identity: bytes) -> None:
        """Ask who speaks like a worker, and is none that is known, to register."""
        now_s = time.monotonic()
        is_due = now_s - self._asked_s.get(identity, -ASK_AGAIN_S) >= ASK_AGAIN_S
        if is_due and identity not in self._waiting:
            self._asked_s[identity] = now_s
            await self._sending.send(identity, orders.Unknown())

    def forget(self, now_s: float) -> None:
        """Forget who was asked long ago: call it from time to time."""
        asked_s = self._asked_s
        self._asked_s = {i: s for i, s in asked_s.items() if now_s - s <= ASK_AGAIN_S}

    async def register(
        self, peer: Peer, hello: orders.Register, group: asyncio.TaskGroup
    ) -> None:
        """Take a worker in, or tell it why not; tasks of ``group`` see to what takes its time."""
        if refused := _refusal(peer, hello):
            await self._sending.send(peer.identity, refused)
            return
        known = self._cluster.named(hello.worker)
        if known is not None:
            if (known.hello.instance, known.key) != (hello.instance, peer.key):
                group.create_task(self._register_unless_heard(known, peer, hello, group))
                return
            self._cluster.leave(known)
        await self._join(peer.identity, hello, group)

    async def _join(
        self, identity: bytes, hello: orders.Register, group: asyncio.TaskGroup
    ) -> None:
        worker = WorkerLink(identity, hello, self._sending.send, time.monotonic())
        worker.sources = {source.id: source.tree for source in hello.sources}
        self._cluster.join(worker)
        if self._allowed is not None:
            await self._sending.send(identity, orders.Allow(tuple(self._allowed.keys)))
        await self._sending.send(identity, orders.Welcome())
        log.info("worker joined worker=%s refs=%d", hello.worker, len(hello.refs))
        group.create_task(self._learn(worker))

    async def _register_unless_heard(
        self,
        known: WorkerLink,
        peer: Peer,
        hello: orders.Register,
        group: asyncio.TaskGroup,
    ) -> None:
        """Refuse a worker if the other of its name is alive: it may have died, and its state be lost."""
        came_s = time.monotonic()
        self._waiting.add(peer.identity)
        try:
            while not known.gone:
                await asyncio.sleep(0.1)
                if known.last_s > came_s:
                    detail = f"a worker named {known.name} is connected already"
                    refused = orders.Refused("name-taken", f"{detail}; give another --name")
                    await self._sending.send(peer.identity, refused)
                    return
        finally:
            self._waiting.discard(peer.identity)
        await self.register(peer, hello, group)

    async def _learn(self, worker: WorkerLink) -> None:
        """Take up what a worker holds; ask for the trees that are not known here."""
        try:
            for info in worker.hello.refs:
                # Of what is removed meanwhile, or damaged there, no chain may be thought to be here.
                is_whole = info.parent is None or info.parent in worker.refs
                if is_whole and await self._is_known(worker, info):
                    self._shared.records.add(info)
                    self._cluster.add_ref(worker, info)
        except FilesyncError as exc:
            log.warning("not all learnt worker=%s reason=%s", worker.name, exc)
        finally:
            worker.learnt.set()

    async def _is_known(self, worker: WorkerLink, info: RefInfo) -> bool:
        """Have a ref's tree be here; False if the worker does not give it."""
        if info.tree not in self._shared.nodes:
            try:
                await worker.call(orders.ReadTree(info.tree))
            except OrderFailed as exc:
                log.warning("not learnt worker=%s reason=%s", worker.name, exc)
                return False
        return True


def _refusal(peer: Peer, hello: orders.Register) -> orders.Refused | None:
    """Return why a worker cannot be taken in, whoever else is there."""
    if hello.version != VERSION:
        detail = f"worker speaks version {hello.version}, the manager {VERSION}"
        return orders.Refused("version", detail)
    if key_in(hello.address) != peer.key:
        detail = f"its address {hello.address} does not have the key that it connects with"
        return orders.Refused("key", detail)
    return None
