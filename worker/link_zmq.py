"""A worker's connection to its manager."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, assert_never

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from filesync.digest import Digest
from filesync.disk.statedir import LOCK
from filesync.errors import FilesyncError, PeerError, StoreError, UsageError
from filesync.keys.files import PublicKey
from filesync.manifest import Manifest, missing_nodes, note_tree
from filesync.manifest.pack import accept_pack, pack_nodes
from filesync.transfer.connection.address import parse_address
from filesync.transfer.connection.channel_zmq import HANDSHAKE_EVENTS
from filesync.transfer.connection.curve_zmq import dial, handshake_failure
from filesync.transfer.connection.guard import SILENT_S
from filesync.transfer.connection.guard_zmq import Unguarded
from filesync.transfer.threads import in_thread
from worker.options import WorkerOptions
from worker.service import Service
from worker.wire import framing, orders
from worker.wire.agents import AgentAnswered, AgentAsked
from worker.wire.clipping import STDERR, Clipped
from worker.wire.disk import Crowded, Prune
from worker.wire.orders import (
    VERSION,
    Cancel,
    FromWorker,
    Heartbeat,
    Leaving,
    Offered,
    Order,
    Outcome,
    Ran,
    Refused,
    Register,
    SourceInfo,
    Swept,
    ToWorker,
    Unknown,
    Welcome,
    decode_to_worker,
    encode,
)

log = logging.getLogger(__name__)

_CONNECTED: Final = zmq.Event.HANDSHAKE_SUCCEEDED
_NOT_CONNECTED: Final = zmq.Event.DISCONNECTED | zmq.Event.CONNECT_RETRIED

HEARTBEAT_S: Final = 1.0
REDIAL_S: Final = 2.0
PATIENCE_S: Final = 3.0
"""A worker and its manager may be started together."""
LOOK_AT_DISK_S: Final = 5.0
LOOK_ANYWAY_S: Final = 600.0
MAX_QUEUED: Final = 20_000
"""Messages that may wait for the manager; beyond it what ops print is dropped, and that is said."""


class ManagerLink:
    """Registers, takes orders, answers them; dials again when the manager restarts.

    Args:
        allowed: whom the data plane lets in; kept here as the manager says.
    """

    def __init__(
        self,
        options: WorkerOptions,
        instance: str,
        slots: int,
        service: Service,
        address: str,
        allowed: set[PublicKey],
    ) -> None:
        self._options = options
        self._instance = instance
        self._slots = slots
        self._service = service
        self._address = address
        self._allowed = allowed
        self._orders: dict[int, asyncio.Task[None]] = {}
        self._known: set[Digest] = set()
        self._told_sources: tuple[SourceInfo, ...] = ()
        self._has_worked = True
        self._unkept: StoreError | None = None
        self._queue: asyncio.Queue[tuple[FromWorker, bytes]] = asyncio.Queue()
        self._clipped = Clipped()
        self._heard = 0
        self._connection = Unguarded()
        self._is_missed = False

    async def run(self, stopped: Callable[[], Awaitable[None]]) -> None:
        """Work for the manager until ``stopped()`` returns, and say goodbye.

        Raises:
            UsageError: the address cannot be used, or the manager refuses this worker.
            StoreError: the state directory was removed.
        """
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.MAXMSGSIZE, framing.MAX_PAYLOAD_BYTES)
        monitor = socket.get_monitor_socket(
            zmq.Event.CONNECTED | _CONNECTED | _NOT_CONNECTED | HANDSHAKE_EVENTS
        )
        try:
            self._dial(socket)
            await self._work(socket, monitor, stopped)
        finally:
            socket.disable_monitor()
            # Else the context waits for it, for ever.
            monitor.close(linger=0)
            socket.close(linger=500)
            context.term()

    def _dial(self, socket: zmq.asyncio.Socket) -> None:
        address = self._options.manager
        try:
            dial(socket, address, self._options.own)
        except zmq.ZMQError as exc:
            raise UsageError(f"{address!r} is no address like tcp://host:port") from exc

    async def _work(
        self,
        socket: zmq.asyncio.Socket,
        monitor: zmq.asyncio.Socket,
        stopped: Callable[[], Awaitable[None]],
    ) -> None:
        self._register()
        ending = asyncio.ensure_future(stopped())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._watch(socket, monitor)),
                group.create_task(self._pump(socket)),
                group.create_task(self._beat()),
                group.create_task(self._expire_leases()),
                group.create_task(self._heed(socket)),
                group.create_task(self._watch_disk()),
                group.create_task(self._listen(socket, group)),
            ]
            await asyncio.wait({ending, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            for task in (*self._orders.values(), *tasks):
                task.cancel()
        # A manager that was long away leaves the socket's queue full: it cannot be told.
        with contextlib.suppress(zmq.Again):
            await socket.send_multipart(encode(Leaving()), flags=zmq.NOBLOCK)

    def _register(self) -> None:
        self._known = set()
        self._told_sources = self._service.store.idle_sources()
        options = self._options
        hello = Register(
            version=VERSION,
            worker=options.name,
            instance=self._instance,
            labels=options.labels,
            slots=self._slots,
            address=self._address,
            snapshotter=self._service.store.snapshots.kind,
            refs=self._service.store.refs.infos(),
            sources=self._told_sources,
        )
        self._queue.put_nowait((hello, b""))

    async def _watch(self, socket: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket) -> None:
        """Say once that the manager is not there, and once that it is again.

        Both may be on their way up: a while must pass before one that never was there is missed.
        """
        loop = asyncio.get_running_loop()
        patient_s = loop.time() + PATIENCE_S
        while True:
            told = await recv_monitor_message(monitor)
            if (event := told["event"]) == zmq.Event.CONNECTED:
                self._connection = Unguarded(told["value"])
                continue
            if event & HANDSHAKE_EVENTS:
                if not self._is_missed:
                    address, own = self._options.manager, self._options.own
                    log.warning("%s; trying again", handshake_failure(event, address, own))
                if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    # ZeroMQ gives up for good; whoever adds the key need not come here for that.
                    await asyncio.sleep(REDIAL_S)
                    self._redial(socket)
            elif event & _NOT_CONNECTED and loop.time() < patient_s:
                continue
            elif event & _NOT_CONNECTED and not self._is_missed:
                log.warning("no manager at %s; trying until one is", self._options.manager)
            elif event & _CONNECTED and self._is_missed:
                log.warning("the manager at %s is there now", self._options.manager)
            self._is_missed = not event & _CONNECTED
            patient_s = 0.0

    async def _heed(self, socket: zmq.asyncio.Socket) -> None:
        """Dial again when the manager has said nothing for long, as nobody may have told this side.

        In turns, as the clock goes on while this process is suspended.
        """
        silent_s = 0.0
        while True:
            heard = self._heard, self._connection.moved().came
            await asyncio.sleep(orders.ALIVE_S)
            # Bytes, too: a large tree is one message, which may take a slow link longer than that.
            is_silent = heard == (self._heard, self._connection.moved().came)
            is_silent &= not self._is_missed
            silent_s = silent_s + orders.ALIVE_S if is_silent else 0.0
            if silent_s >= SILENT_S:
                silent_s = 0.0
                address = self._options.manager
                log.warning("the manager at %s has fallen silent; dialling again", address)
                self._redial(socket)

    def _redial(self, socket: zmq.asyncio.Socket) -> None:
        # What it had for the manager is lost, so that one will ask for it.
        socket.disconnect(parse_address(self._options.manager).endpoint)
        self._dial(socket)

    async def _pump(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            message, payload = await self._queue.get()
            await socket.send_multipart(encode(message, payload))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if not (self._options.state / LOCK).exists():
                # Else all that it is given fails, while it is the least busy of all.
                raise StoreError(
                    f"{self._options.state} was removed while this worker had its state there;"
                    " start it again"
                )
            self._tell_sources(Heartbeat())

    async def _expire_leases(self) -> None:
        """End leases in time; apart from ``_beat``, which must not wait until a thread is free."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await in_thread(self._service.leases.expire)
            except StoreError as exc:
                log.warning("what a lease held is not given back reason=%s", exc)

    def _tell_sources(self, otherwise: Heartbeat | None = None) -> None:
        """Announce the idle sources if they have changed."""
        sources = self._service.store.idle_sources()
        if sources != self._told_sources:
            self._told_sources = sources
            self._queue.put_nowait((Heartbeat(sources), b""))
        elif otherwise is not None and self._queue.empty():
            self._queue.put_nowait((otherwise, b""))

    async def _watch_disk(self) -> None:
        """Tell the manager when there is more than may be; look after orders, and now and then."""
        policies = self._options.policies
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_AT_DISK_S)
            now_s = time.monotonic()
            is_due = self._has_worked or now_s - looked_s >= LOOK_ANYWAY_S
            if not policies or not is_due:
                continue
            self._has_worked, looked_s = False, now_s
            try:
                if await self._service.disk.is_crowded(policies):
                    self._queue.put_nowait((Crowded(policies), b""))
            except (FilesyncError, OSError) as exc:
                log.warning("cannot see what the disk holds reason=%s", exc)

    async def _listen(self, socket: zmq.asyncio.Socket, group: asyncio.TaskGroup) -> None:
        while True:
            frames = await socket.recv_multipart()
            self._heard += 1
            try:
                message, payload = decode_to_worker(frames)
                self._receive(message, payload, group)
                if isinstance(message, orders.Nodes):
                    await asyncio.sleep(0)  # a large tree comes in many, each some work
            except PeerError as exc:
                log.warning("message from the manager refused reason=%s", exc)
            except StoreError as exc:
                # A full disk passes; a worker that had ended for it would have to be started.
                log.error("what the manager sent is not kept reason=%s", exc)
                self._unkept = exc

    def _receive(
        self, message: ToWorker, payload: bytes | memoryview, group: asyncio.TaskGroup
    ) -> None:
        match message:
            case Order(number, body):
                self._begin(number, body, group)
            case Cancel() | AgentAnswered():
                self._meanwhile(message)
            case orders.Nodes():
                self._known.update(accept_pack(self._service.store.nodes, payload))
            case orders.Allow(keys):
                self._allowed.clear()
                self._allowed.update(map(PublicKey, keys))
            case Unknown():
                # The manager has restarted: what it asked before it no longer waits for.
                self._meet_again(group)
            case Swept():
                # Not cleared: an order that was called off may still note what it has told.
                self._known = set()
            case orders.Alive():
                pass
            case Welcome():
                log.info("registered worker=%s", self._options.name)
            case Refused(_, detail):
                raise UsageError(f"the manager refused this worker: {detail}")
            case _:
                assert_never(message)

    def _begin(self, number: int, body: orders.OrderBody, group: asyncio.TaskGroup) -> None:
        if self._unkept is not None:
            self._answer(number, orders.Failed(self._unkept.code, str(self._unkept)))
            self._meet_again(group)
            return
        task = group.create_task(self._perform(number, body))
        # A task that is cancelled before it has begun never does: then nothing would be let go.
        if not isinstance(body, orders.Release):
            self._orders[number] = task
            task.add_done_callback(partial(self._forget, number))

    def _meanwhile(self, message: Cancel | AgentAnswered) -> None:
        """Do what is said of an order that is being carried out."""
        if isinstance(message, AgentAnswered):
            self._service.agent_answered(message)
        elif message.id in self._orders:
            self._orders[message.id].cancel()

    def _forget(self, number: int, task: "asyncio.Task[None]") -> None:
        if self._orders.get(number) is task:  # another manager may give the same number
            del self._orders[number]

    def _meet_again(self, group: asyncio.TaskGroup) -> None:
        """Register as if for the first time: the manager forgets what it sent, asked and was given."""
        self._unkept = None
        for task in self._orders.values():
            task.cancel()
        group.create_task(self._service.perform(0, self._service.kept(), self._tell))
        self._register()

    async def _perform(self, number: int, body: orders.OrderBody) -> None:
        try:
            result = await self._service.perform(number, body, self._tell)
            try:
                await self._send_trees(body, result)
            except BaseException as exc:
                await self._service.take_back(result)
                if not isinstance(exc, FilesyncError):
                    raise
                result = orders.Failed(exc.code, str(exc))
            self._tell_sources()
            self._answer(number, result)
        except asyncio.CancelledError:
            self._answer(number, orders.Failed("cancelled", "the order was cancelled"))
        finally:
            self._has_worked |= not isinstance(body, Prune)

    def _answer(self, number: int, result: orders.Result) -> None:
        self._tell_clipped(number)
        self._queue.put_nowait((Outcome(number, result), b""))

    def _tell(self, message: orders.Event) -> None:
        # A process that asks an agent waits for the answer: there is one of these at a time.
        if self._queue.qsize() < MAX_QUEUED or isinstance(message, AgentAsked):
            self._tell_clipped(message.id)
            self._queue.put_nowait((message, b""))
        elif isinstance(message, orders.Output):
            self._clipped.drop(message.id, message.data)

    def _tell_clipped(self, number: int) -> None:
        if line := self._clipped.take(number):
            self._queue.put_nowait((orders.Output(number, STDERR, line), b""))

    async def _send_trees(self, body: orders.OrderBody, result: orders.Result) -> None:
        """Send the nodes that the manager lacks of what an answer speaks of."""
        trees: list[Digest] = []
        if isinstance(body, orders.ReadTree):
            trees.append(body.tree)
        if isinstance(result, Ran):
            trees.extend((*(info.tree for info in result.pulled), result.ref.tree))
        if isinstance(result, Offered) and not isinstance(body, orders.Offer):
            # What an offer shows is a part of a ref, and the manager has selected it too.
            trees.append(result.tree)
        nodes, known = self._service.store.nodes, self._known
        for tree in trees:
            lacking = missing_nodes(nodes, tree, known.__contains__)
            for pack in await in_thread(list, pack_nodes(lacking)):
                self._queue.put_nowait((orders.Nodes(), pack))
            note_tree(known, Manifest(tree, nodes))
