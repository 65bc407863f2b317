"""The manager's edge: one ROUTER that workers and clients dial, and the clock."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import assert_never

import zmq
import zmq.asyncio

from filesync.errors import FilesyncError, MalformedMessage, PeerError, StoreError
from filesync.keys.files import AllowFile, PublicKey
from filesync.manifest.pack import accept_pack
from filesync.manifest.store import SqliteNodes
from filesync.transfer.connection.channel_zmq import received, wire_bytes_of
from filesync.transfer.connection.curve_zmq import key_of
from filesync.transfer.connection.guard_zmq import SocketGuard, came_by
from solver.errors import OrderFailed
from solver.manager.clients import ClientLink, lacking
from solver.manager.cluster import Cluster
from solver.manager.images import find_image
from solver.manager.joining import Joining, Peer
from solver.manager.outbox import Outbox
from solver.manager.results.pruning import Pruning
from solver.manager.results.replicas import Replicas
from solver.manager.results.sweeping import Sweeping
from solver.manager.sending_zmq import Sending
from solver.manager.shared import Shared
from solver.manager.urls import find_commit, find_url
from solver.manager.workers import Sent, WorkerLink
from solver.wire import (
    NOT_KNOWN,
    AgentSaid,
    Alive,
    AskGit,
    AskImage,
    AskPrune,
    AskUrl,
    AskUsage,
    Denied,
    EndBuild,
    FromClient,
    Have,
    Lack,
    ListWorkers,
    NoImage,
    NoUrl,
    StartBuild,
    TransferCache,
    Workers,
    decode_to_manager,
)
from worker.wire import orders
from worker.wire.agents import AgentAsked
from worker.wire.disk import Crowded, PrunePolicy
from worker.wire.orders import FromWorker

log = logging.getLogger(__name__)

QUIET_S = 2.0
"""Of whom nothing was heard for so long it is asked whether the connection is still there."""
CLIENT_SILENCE_S = 30.0
"""A client with a build says ``Alive`` every few seconds."""
LOOK_S = 1.0
"""How often is looked who has fallen silent."""
WAIT_FOR_WORKERS_S = 8.0
"""How long a question for a number of workers waits for them to join."""
FORGET_S = 60.0
"""In which a connection that is to be cut is gone."""


class Server:
    """Drives the builds of a manager over one bound ROUTER socket.

    Args:
        nodes: those of ``shared``.
        socket: a ROUTER, bound by the time of ``run``; owned and closed by the caller.
        guard: watches the socket.
        allowed: whose keys are let in, here and by the workers; None where none are used.

    Attributes:
        replicas: what can be done with the results on the workers.
    """

    def __init__(
        self,
        shared: Shared,
        nodes: SqliteNodes,
        socket: zmq.asyncio.Socket,
        guard: SocketGuard,
        allowed: AllowFile | None = None,
    ) -> None:
        self._shared = shared
        self._socket = socket
        self._guard = guard
        self._allowed = allowed
        self._sending = Sending(socket)
        self._joining = Joining(shared, self._sending, allowed)
        self._pruning = Pruning(shared)
        self._sweeping = Sweeping(shared, nodes, self._pruning, self._is_idle)
        self.replicas = Replicas(shared)
        self._asked_for = asyncio.Event()
        self._clients: dict[bytes, tuple[ClientLink, asyncio.Task[None]]] = {}
        # Whose connections are about to be cut, for what they have said.
        self._dropped: dict[bytes, float] = {}
        # By descriptor, which may be another's later: who spoke there last, and how much had come when.
        self._lines: dict[int, tuple[bytes, int]] = {}
        self._received_bytes = 0

    @property
    def cluster(self) -> Cluster:
        """The connected workers."""
        return self._shared.cluster

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(group))
            group.create_task(self._tell_alive())
            group.create_task(self.replicas.keep())
            if self._allowed is not None:
                group.create_task(self._share(self._allowed))
            try:
                await self._take_messages(group)
            finally:
                # No answer is read any more, so nothing that ends may wait for one.
                for worker in self.cluster:
                    self.cluster.leave(worker)

    async def _take_messages(self, group: asyncio.TaskGroup) -> None:
        async with aclosing(received(self._socket)) as messages:
            async for message in messages:
                await self._take(message, group)

    async def _take(self, message: list[zmq.Frame], group: asyncio.TaskGroup) -> None:
        fd = came_by(message[-1])
        identity, *frames = (frame.bytes for frame in message)
        is_encrypted = self._allowed is not None
        self._guard.delivered(fd, wire_bytes_of(map(len, frames), is_encrypted=is_encrypted))
        self._received_bytes += sum(map(len, frames))
        if identity in self._dropped:
            return
        key = key_of(message[-1]) if is_encrypted else None
        if key is not None and self._allowed is not None and key not in self._allowed.keys:
            log.warning("message not taken, the key is not allowed any more: key=%s", key.hex())
            self._guard.refused(fd)
            return
        await self._receive(Peer(identity, key, fd), frames, group)

    async def _receive(self, peer: Peer, frames: list[bytes], group: asyncio.TaskGroup) -> None:
        identity = peer.identity
        try:
            message, payload = decode_to_manager(frames)
            self._guard.greeted(peer.fd)
            if self._lines.get(peer.fd, (b"", 0))[0] != identity:
                self._lines[peer.fd] = identity, 0
            match message:
                case orders.Nodes():
                    await self._take_nodes(peer, payload)
                    await asyncio.sleep(0)  # a large tree comes in many, each some work
                case (
                    orders.Register()
                    | orders.Heartbeat()
                    | orders.Leaving()
                    | orders.Output()
                    | orders.Progress()
                    | AgentAsked()
                    | orders.Outcome()
                    | Crowded()
                ):
                    await self._from_worker(peer, message, group)
                case Alive(goes_on=True) if identity not in self._clients:
                    # This manager has restarted, or the client's connection was lost: a ROUTER
                    # takes who dials again for somebody else.
                    detail = "it has restarted, or the connection was cut"
                    await self._sending.send(identity, Denied(NOT_KNOWN, detail))
                case _:
                    self._from_client(identity, message, group)
        except MalformedMessage as exc:
            log.warning("peer dropped reason=%s", exc)
            await self._sending.send(identity, Denied(exc.code, str(exc)))
            self._dropped[identity] = time.monotonic()
            self._guard.refused(peer.fd)
        except (PeerError, StoreError) as exc:
            log.warning("message not taken reason=%s", exc)
            await self._sending.send(identity, Denied(exc.code, str(exc)))

    async def _take_nodes(self, peer: Peer, payload: bytes | memoryview) -> None:
        worker = self._worker(peer)
        try:
            taken = accept_pack(self._shared.nodes, payload)
        except (PeerError, StoreError) as exc:
            if worker is not None:
                worker.unkept = worker.unkept or exc
                # Else it would count on what it has told for as long as it is connected.
                await self._sending.send(peer.identity, orders.Swept())
            raise
        if worker is not None:
            worker.known.update(taken)
            worker.last_s = time.monotonic()
        elif peer.identity in self._clients:
            # Over a slow link a large tree takes longer than a client may be silent.
            self._clients[peer.identity][0].last_s = time.monotonic()

    # --- keys ---------------------------------------------------------------------------------

    def lets_in(self, key: PublicKey) -> bool:
        """May whoever has ``key`` connect?"""
        assert self._allowed is not None
        is_allowed = self._allowed.allows(key)
        self._asked_for.set()
        return is_allowed

    async def _share(self, allowed: AllowFile) -> None:
        """Tell the workers whom to let in whenever that changes, until cancelled."""
        told = allowed.keys
        while True:
            # At once when somebody new comes, who will soon dial a worker.
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._asked_for.wait()
            self._asked_for.clear()
            allowed.refresh()
            if allowed.keys == told:
                continue
            told = allowed.keys
            for worker in self.cluster:
                await self._sending.send(worker.identity, orders.Allow(tuple(told)))

    # --- workers ------------------------------------------------------------------------------

    def _worker(self, peer: Peer) -> WorkerLink | None:
        worker = self.cluster.identified(peer.identity)
        return worker if worker is not None and worker.key == peer.key else None

    @staticmethod
    def _pass_on(worker: WorkerLink, outcome: orders.Outcome, group: asyncio.TaskGroup) -> None:
        if not worker.answer(outcome.id, outcome.result):
            # In a task: a worker that reads nothing must not keep all others waiting.
            group.create_task(worker.release(outcome.result))

    async def _from_worker(
        self, peer: Peer, message: FromWorker, group: asyncio.TaskGroup
    ) -> None:
        if isinstance(message, orders.Register):
            await self._joining.register(peer, message, group)
            return
        worker = self._worker(peer)
        if worker is None:
            await self._joining.ask(peer.identity)
            return
        worker.last_s = time.monotonic()
        match message:
            case orders.Heartbeat(sources):
                if sources is not None:
                    worker.sources = {source.id: source.tree for source in sources}
            case orders.Leaving():
                log.info("worker left worker=%s", worker.name)
                self.cluster.leave(worker)
            case orders.Output() | orders.Progress() | AgentAsked():
                worker.event(message)
            case orders.Outcome():
                self._pass_on(worker, message, group)
            case Crowded(policies):
                group.create_task(self._relieve(worker, policies))
            case orders.Nodes():
                pass
            case _:
                assert_never(message)

    async def _relieve(self, worker: WorkerLink, policies: Sequence[PrunePolicy]) -> None:
        await self._pruning.relieve(worker, policies)
        self._sweeping.want()

    def _is_idle(self) -> bool:
        """Say whether nobody needs a tree that no result is of, nor can be about to."""
        has_begun = any(client.has_begun for client, _ in self._clients.values())
        is_busy = has_begun or self.replicas.leases
        return not is_busy and all(worker.is_idle for worker in self.cluster)

    # --- clients ------------------------------------------------------------------------------

    def _from_client(
        self, identity: bytes, message: FromClient, group: asyncio.TaskGroup
    ) -> None:
        client = self._client(identity, group)
        client.last_s = time.monotonic()
        client.outbox.check_reading()
        client.has_begun |= not isinstance(message, ListWorkers | AskUsage | AskPrune | Alive)
        match message:
            case Have(trees):
                client.outbox.answer(Lack(lacking(self._shared.nodes, trees)))
            case StartBuild():
                client.start(message, group)
            case TransferCache():
                client.start_transfer(message, self.replicas, group)
            case EndBuild():
                group.create_task(self._end(client))
            case Alive():
                client.outbox.answer(Alive())
            case AskImage() | AskUrl() | AskGit():
                client.ask(self._look_up(client, message), group)
            case AgentSaid():
                client.ask(client.agent_said(message), group)
            case ListWorkers() | AskUsage() | AskPrune():
                group.create_task(self._tell_of_workers(client, message))
            case orders.Nodes():
                pass
            case _:
                assert_never(message)

    def _client(self, identity: bytes, group: asyncio.TaskGroup) -> ClientLink:
        if identity not in self._clients:
            outbox = Outbox(partial(self._sending.send_all, identity))
            client = ClientLink(identity, self._shared, outbox, self._traffic, time.monotonic())
            self._clients[identity] = (client, group.create_task(client.outbox.pump()))
        return self._clients[identity][0]

    async def _end(self, client: ClientLink) -> None:
        """End a client's build; whoever says something by that connection is a client anew."""
        _, pump = self._clients.pop(client.identity, (client, None))
        if pump is not None:  # else somebody else ends it
            await client.end()
            pump.cancel()

    async def _look_up(self, client: ClientLink, question: AskImage | AskUrl | AskGit) -> None:
        try:
            match question:
                case AskUrl():
                    client.outbox.answer(await find_url(self._shared, question))
                case AskGit():
                    client.outbox.answer(await find_commit(self.cluster, question))
                case AskImage():
                    client.outbox.answer(await find_image(self.cluster, question))
        except OrderFailed as exc:
            client.outbox.answer(_not_found(question, exc.reason, exc.detail))
        except FilesyncError as exc:
            client.outbox.answer(_not_found(question, exc.code, str(exc)))

    async def _tell_of_workers(
        self, client: ClientLink, question: ListWorkers | AskUsage | AskPrune
    ) -> None:
        match question:
            case ListWorkers(at_least):
                deadline_s = time.monotonic() + WAIT_FOR_WORKERS_S
                while len(self.cluster) < at_least and time.monotonic() < deadline_s:
                    await self.cluster.wait_for_join(deadline_s - time.monotonic())
                client.outbox.answer(Workers(tuple(worker.row() for worker in self.cluster)))
            case AskUsage(verbose):
                client.outbox.answer(await self._pruning.usage(verbose=verbose))
            case AskPrune(policy, verbose):
                pruned = await self._pruning.prune(policy, verbose=verbose)
                self._sweeping.want()
                # Before the answer: with it a cluster may end that was started for this alone.
                await self._sweeping.sweep()
                client.outbox.answer(pruned)

    # --- both ---------------------------------------------------------------------------------

    async def _watch(self, group: asyncio.TaskGroup) -> None:
        """Drop whoever is gone or has fallen silent."""
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = time.monotonic()
            self._hear(now_s)
            for worker in list(self.cluster):
                if await self._is_gone(worker, orders.Alive()):
                    log.warning("worker gone worker=%s", worker.name)
                    self.cluster.leave(worker)
            for worker in self.cluster.silent(now_s):
                log.warning("worker silent worker=%s", worker.name)
                self.cluster.leave(worker)
            group.create_task(self._sweeping.sweep())
            self._joining.forget(now_s)
            dropped = self._dropped
            self._dropped = {i: s for i, s in dropped.items() if now_s - s <= FORGET_S}
            for client in [client for client, _ in self._clients.values()]:
                is_silent = now_s - client.last_s > CLIENT_SILENCE_S
                if is_silent or await self._is_gone(client, Alive()):
                    log.info("client gone or silent; its build is ended")
                    # In a task: workers answer to that, and may be the next to be missed.
                    group.create_task(self._end(client))

    def _hear(self, now_s: float) -> None:
        """Take note of whose messages are still coming: one may take a slow link for minutes."""
        peers: dict[bytes, WorkerLink | ClientLink] = {}
        peers |= {worker.identity: worker for worker in self.cluster}
        peers |= {identity: client for identity, (client, _) in self._clients.items()}
        lines: dict[int, tuple[bytes, int]] = {}
        for fd, (identity, before) in self._lines.items():
            if (peer := peers.get(identity)) is None:
                continue
            came = self._guard.moved(fd).came
            # Who is not quiet was heard by messages, and may have died since.
            if came > before and now_s - peer.last_s > QUIET_S:
                peer.last_s = now_s
            lines[fd] = identity, came
        self._lines = lines

    async def _is_gone(
        self, peer: WorkerLink | ClientLink, alive: orders.Alive | Alive
    ) -> bool:
        """Say whether the connection of a peer that is quiet has ended.

        Nobody tells a ROUTER's user, who learns it by having something to say.
        """
        is_quiet = time.monotonic() - peer.last_s > QUIET_S
        return is_quiet and await self._sending.send(peer.identity, alive) is Sent.GONE

    async def _tell_alive(self) -> None:
        """Let the workers know that this manager is there, until cancelled."""
        while True:
            await asyncio.sleep(orders.ALIVE_S)
            for worker in list(self.cluster):
                await self._sending.send(worker.identity, orders.Alive())

    def _traffic(self) -> tuple[int, int]:
        return self._received_bytes, self._sending.sent_bytes


def _not_found(question: AskImage | AskUrl | AskGit, code: str, detail: str) -> NoImage | NoUrl:
    if isinstance(question, AskImage):
        return NoImage(question.name, code, detail)
    return NoUrl(question.number, code, detail)
