"""The workers as the manager sees them: what each holds, and the orders it has."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError, Unavailable
from filesync.manifest import Manifest, Nodes, missing_nodes, note_tree
from filesync.manifest.pack import pack_nodes
from filesync.transfer.connection.address import key_in
from solver.errors import OrderFailed, WorkerLost
from solver.place import WorkerView
from solver.wire import WorkerRow
from worker.wire import orders
from worker.wire.orders import Failed, Order, OrderBody, Register, Result


class Sent(Enum):
    """What has become of a message.

    Attributes:
        NO_ROOM: its peer does not read, and never gets it.
        GONE: the connection has ended; who dials again is somebody else.
    """

    UNDER_WAY = auto()
    NO_ROOM = auto()
    GONE = auto()


Send = Callable[[bytes, orders.ToWorker, bytes], Awaitable[Sent]]
"""Send a message and payload to the peer with this ZeroMQ identity."""
OnEvent = Callable[[orders.Event], None]


class _Call(msgspec.Struct):
    answer: asyncio.Future[Result]
    on_event: OnEvent | None


class WorkerLink(msgspec.Struct):
    """One connected worker.

    Attributes:
        refs: what it holds whole.
        sources: its idle sources, id to tree digest.
        known: directory nodes that it has for certain, since we told each other.
        last_s: when it last said something, by the manager's monotonic clock.
        learnt: set once what it held when it registered is known.
        unkept: why trees that it has sent are not here; the answer behind them fails for that.
    """

    identity: bytes
    hello: Register
    send: Send
    last_s: float
    refs: set[Digest] = msgspec.field(default_factory=set)
    sources: dict[str, Digest] = msgspec.field(default_factory=dict)
    known: set[Digest] = msgspec.field(default_factory=set)
    gone: bool = False
    learnt: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    unkept: FilesyncError | None = None
    _began_s: list[float] = msgspec.field(default_factory=list)
    _calls: dict[int, _Call] = msgspec.field(default_factory=dict)
    # A worker still answers what was asked of it before it registered anew, by this manager or
    # one that was here before: such an answer must not have the number of another order.
    _last_id: int = msgspec.field(default_factory=lambda: secrets.randbits(48))

    @property
    def name(self) -> str:
        """Its name."""
        return self.hello.worker

    @property
    def address(self) -> str:
        """Where its data plane listens."""
        return self.hello.address

    @property
    def key(self) -> bytes | None:
        """The key that its connection and its data plane have; None where none are used."""
        return key_in(self.hello.address)

    @property
    def is_idle(self) -> bool:
        """Nothing is asked of it, and what it held when it registered is known."""
        return not self._calls and self.learnt.is_set()

    @property
    def running(self) -> int:
        """How many steps were given to it and are not over."""
        return len(self._began_s)

    def begin_step(self) -> float:
        """Count a step that is about to be given to it; return what ``end_step`` takes."""
        self._began_s.append(time.monotonic())
        return self._began_s[-1]

    def end_step(self, began_s: float) -> None:
        """Count a step as over."""
        self._began_s.remove(began_s)

    def view(self) -> WorkerView:
        """Return what placement needs to know of it."""
        labels = {"name": self.name, **self.hello.labels}
        now_s = time.monotonic()
        ran_s = tuple(now_s - began_s for began_s in self._began_s)
        return WorkerView(self.name, labels, self.hello.slots, ran_s)

    def row(self) -> WorkerRow:
        """Return it as a line for people."""
        hello = self.hello
        return WorkerRow(
            hello.worker,
            hello.address,
            {"name": self.name, **hello.labels},
            hello.slots,
            self.running,
            len(self.refs),
            hello.snapshotter,
        )

    async def call(self, body: OrderBody, on_event: OnEvent | None = None) -> Result:
        """Give an order and return its answer; a cancelled call cancels the order.

        Where the answer comes all the same, what it keeps in place is let go of.

        Raises:
            OrderFailed: the worker said so, or has no room for the order.
            WorkerLost: it went away before it answered.
            StoreError, PeerError: what it answers of cannot be kept here.
        """
        if self.gone:
            raise WorkerLost(self.name)
        self._last_id += 1
        number = self._last_id
        call = _Call(asyncio.get_running_loop().create_future(), on_event)
        self._calls[number] = call
        try:
            if await self.send(self.identity, Order(number, body), b"") is Sent.NO_ROOM:
                # It is there, so it is not missed, and does not answer what it never gets.
                detail = "it does not read what it is sent"
                raise OrderFailed(self.name, Unavailable.code, detail)
            result = await call.answer
        except asyncio.CancelledError:
            await self._call_off(number, call)
            raise
        finally:
            self._calls.pop(number, None)
        if isinstance(result, Failed):
            raise OrderFailed(
                self.name, result.code, result.detail, result.exit_status, result.tail
            )
        return result

    async def send_tree(self, nodes: Nodes, tree: Digest) -> None:
        """Make sure that the worker has the nodes of ``tree``."""
        lacking = missing_nodes(nodes, tree, self.known.__contains__)
        for pack in pack_nodes(lacking):
            await self.send(self.identity, orders.Nodes(), pack)
            await asyncio.sleep(0)  # of a million files there are 80, each a good 20 ms of work
        self.learn_tree(nodes, tree)

    def learn_tree(self, nodes: Nodes, tree: Digest) -> None:
        """Note that the worker has ``tree`` whole."""
        note_tree(self.known, Manifest(tree, nodes))

    def answer(self, number: int, result: Result) -> bool:
        """Pass an outcome to whoever gave the order; False if nobody has use for it: ``release`` it."""
        unkept, self.unkept = self.unkept, None
        call = self._calls.get(number)
        if call is None or call.answer.done():
            return False
        if unkept is not None and not isinstance(result, Failed):
            call.answer.set_exception(unkept)
            return False
        call.answer.set_result(result)
        return True

    async def release(self, result: Result) -> None:
        """Have the worker let go of what an answer keeps in place."""
        release = orders.release_of(result)
        if release is not None:
            self._last_id += 1
            await self.send(self.identity, Order(self._last_id, release), b"")

    async def _call_off(self, number: int, call: _Call) -> None:
        if self.gone:
            return
        if not call.answer.done() or call.answer.cancelled():
            await self.send(self.identity, orders.Cancel(number), b"")
        elif call.answer.exception() is None:
            await self.release(call.answer.result())

    def event(self, message: orders.Event) -> None:
        """Pass what an order tells of to whoever gave it."""
        call = self._calls.get(message.id)
        if call is not None and call.on_event is not None:
            call.on_event(message)

    def lose(self) -> None:
        """Fail every order that it has. Idempotent."""
        self.gone = True
        self.learnt.set()
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(WorkerLost(self.name))
