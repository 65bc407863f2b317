"""The manager's edge: one ROUTER that workers and clients dial, and the clock."""

import asyncio
import logging
import time
from typing import assert_never

import zmq
import zmq.asyncio

from filesync.errors import FilesyncError, MalformedMessage, PeerError, StoreError
from filesync.manifest.pack import accept_pack
from solver.errors import OrderFailed
from solver.manager.clients import ClientLink, lacking
from solver.manager.cluster import Cluster
from solver.manager.shared import Shared
from solver.manager.workers import WorkerLink
from solver.wire import (
    Alive,
    AskPrune,
    AskUsage,
    Denied,
    EndBuild,
    FromClient,
    Have,
    Lack,
    ListWorkers,
    StartBuild,
    ToClient,
    Usages,
    Workers,
    decode_to_manager,
    encode,
)
from worker.wire import orders
from worker.wire.orders import VERSION, FromWorker, ToWorker, Usage

log = logging.getLogger(__name__)

CLIENT_SILENCE_S = 30.0
"""A client with a build says ``Alive`` every few seconds."""


WAIT_FOR_WORKERS_S = 8.0
"""How long a question for a number of workers waits for them to join."""


class Server:
    """Drives the builds of a manager over one bound ROUTER socket.

    Args:
        socket: a bound ROUTER; owned and closed by the caller.
    """

    def __init__(self, shared: Shared, socket: zmq.asyncio.Socket) -> None:
        self._shared = shared
        self._socket = socket
        self._clients: dict[bytes, tuple[ClientLink, asyncio.Task[None]]] = {}
        self._received_bytes = 0
        self._sent_bytes = 0

    @property
    def cluster(self) -> Cluster:
        """The connected workers."""
        return self._shared.cluster

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            try:
                await self._take_messages(group)
            finally:
                # No answer is read any more, so nothing that ends may wait for one.
                for worker in self.cluster:
                    self.cluster.leave(worker)

    async def _take_messages(self, group: asyncio.TaskGroup) -> None:
        while True:
            identity, *frames = await self._socket.recv_multipart()
            self._received_bytes += sum(map(len, frames))
            await self._receive(identity, frames, group)

    async def _receive(
        self, identity: bytes, frames: list[bytes], group: asyncio.TaskGroup
    ) -> None:
        try:
            message, payload = decode_to_manager(frames)
            match message:
                case orders.Nodes():
                    self._take_nodes(identity, payload)
                case (
                    orders.Register()
                    | orders.Heartbeat()
                    | orders.Leaving()
                    | orders.Output()
                    | orders.Progress()
                    | orders.Outcome()
                ):
                    await self._from_worker(identity, message, group)
                case _:
                    self._from_client(identity, message, group)
        except MalformedMessage as exc:
            log.warning("message refused reason=%s", exc)
            await self._send(identity, Denied(exc.code, str(exc)))
        except (PeerError, StoreError) as exc:
            log.warning("message not taken reason=%s", exc)
            await self._send(identity, Denied(exc.code, str(exc)))

    def _take_nodes(self, identity: bytes, payload: bytes | memoryview) -> None:
        taken = accept_pack(self._shared.nodes, payload)
        worker = self.cluster.identified(identity)
        if worker is not None:
            worker.known.update(taken)
            worker.last_s = time.monotonic()

    # --- workers ------------------------------------------------------------------------------

    async def _from_worker(
        self, identity: bytes, message: FromWorker, group: asyncio.TaskGroup
    ) -> None:
        if isinstance(message, orders.Register):
            await self._register(identity, message, group)
            return
        worker = self.cluster.identified(identity)
        if worker is None:
            await self._send(identity, orders.Unknown())
            return
        worker.last_s = time.monotonic()
        match message:
            case orders.Heartbeat(sources):
                if sources is not None:
                    worker.sources = {source.id: source.tree for source in sources}
            case orders.Leaving():
                log.info("worker left worker=%s", worker.name)
                self.cluster.leave(worker)
            case orders.Output() | orders.Progress():
                worker.event(message)
            case orders.Outcome(number, result):
                worker.answer(number, result)
            case orders.Nodes():
                pass
            case _:
                assert_never(message)

    async def _register(
        self, identity: bytes, hello: orders.Register, group: asyncio.TaskGroup
    ) -> None:
        known = self.cluster.named(hello.worker)
        if hello.version != VERSION:
            detail = f"worker speaks version {hello.version}, the manager {VERSION}"
            await self._send(identity, orders.Refused("version", detail))
            return
        if known is not None and known.hello.instance != hello.instance:
            detail = f"a worker named {hello.worker} is connected already; give another --name"
            await self._send(identity, orders.Refused("name-taken", detail))
            return
        if known is not None:
            self.cluster.leave(known)
        worker = WorkerLink(identity, hello, self._send, time.monotonic())
        worker.sources = {source.id: source.tree for source in hello.sources}
        self.cluster.join(worker)
        await self._send(identity, orders.Welcome())
        log.info("worker joined worker=%s refs=%d", hello.worker, len(hello.refs))
        group.create_task(self._learn(worker))

    async def _learn(self, worker: WorkerLink) -> None:
        """Take up what a worker holds; ask for the trees that are not known here."""
        try:
            for info in worker.hello.refs:
                if info.tree not in self._shared.nodes:
                    await worker.call(orders.ReadTree(info.tree))
                self._shared.records.add(info)
                self.cluster.add_ref(worker, info)
        except FilesyncError as exc:
            log.warning("not all learnt worker=%s reason=%s", worker.name, exc)
        finally:
            worker.learnt.set()

    # --- clients ------------------------------------------------------------------------------

    def _from_client(
        self, identity: bytes, message: FromClient, group: asyncio.TaskGroup
    ) -> None:
        client = self._client(identity, group)
        client.last_s = time.monotonic()
        match message:
            case Have(trees):
                client.answer(Lack(lacking(self._shared.nodes, trees)))
            case StartBuild():
                client.start(message, group)
            case EndBuild():
                group.create_task(self._end(client))
            case Alive():
                client.answer(Alive())
            case ListWorkers(at_least):
                group.create_task(self._list(client, at_least))
            case AskUsage():
                group.create_task(self._usage(client, orders.ReadUsage()))
            case AskPrune(everything):
                group.create_task(self._usage(client, orders.Prune(everything)))
            case orders.Nodes():
                pass
            case _:
                assert_never(message)

    def _client(self, identity: bytes, group: asyncio.TaskGroup) -> ClientLink:
        if identity not in self._clients:
            client = ClientLink(
                identity, self._shared, self._send, self._traffic, time.monotonic()
            )
            self._clients[identity] = (client, group.create_task(client.pump()))
        return self._clients[identity][0]

    async def _end(self, client: ClientLink) -> None:
        await client.end()
        _, pump = self._clients.pop(client.identity, (client, None))
        if pump is not None:
            pump.cancel()

    async def _list(self, client: ClientLink, at_least: int) -> None:
        deadline_s = time.monotonic() + WAIT_FOR_WORKERS_S
        while len(self.cluster) < at_least and time.monotonic() < deadline_s:
            await self.cluster.wait_for_join(deadline_s - time.monotonic())
        client.answer(Workers(tuple(worker.row() for worker in self.cluster)))

    async def _usage(self, client: ClientLink, order: orders.ReadUsage | orders.Prune) -> None:
        rows: list[tuple[str, tuple[orders.UsageRow, ...]]] = []
        for worker in self.cluster:
            try:
                usage = await worker.call(order)
            except (OrderFailed, FilesyncError) as exc:
                log.warning("no answer worker=%s reason=%s", worker.name, exc)
                continue
            if isinstance(order, orders.Prune):
                self._forget_results(worker)
            if isinstance(usage, Usage):
                rows.append((worker.name, usage.rows))
        client.answer(Usages(tuple(rows)))

    def _forget_results(self, worker: WorkerLink) -> None:
        """Believe nothing of a pruned worker; what it kept, in use, is learnt again as it is made.

        A build's sources are no results, and no pruning removes them.
        """
        results = [ref for ref in worker.refs if self._shared.records.ref(ref) is not None]
        self.cluster.forget(worker, results)

    # --- both ---------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Drop whoever has fallen silent."""
        while True:
            await asyncio.sleep(1.0)
            now_s = time.monotonic()
            for worker in self.cluster.silent(now_s):
                log.warning("worker silent worker=%s", worker.name)
                self.cluster.leave(worker)
            silent = [
                client
                for client, _ in self._clients.values()
                if now_s - client.last_s > CLIENT_SILENCE_S
            ]
            for client in silent:
                log.info("client silent; its build is ended")
                await self._end(client)

    async def _send(
        self, identity: bytes, message: ToClient | ToWorker, payload: bytes = b""
    ) -> None:
        frames = encode(message, payload)
        self._sent_bytes += sum(map(len, frames))
        try:
            await self._socket.send_multipart([identity, *frames])
        except zmq.ZMQError as exc:
            # ROUTER_MANDATORY: the peer's connection is gone; its silence will be noticed.
            log.debug("not sent reason=%s", exc)

    def _traffic(self) -> tuple[int, int]:
        return self._received_bytes, self._sent_bytes
