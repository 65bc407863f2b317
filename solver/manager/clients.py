"""One connected client, and its build."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
from msgspec import structs

from filesync.digest import Digest
from filesync.errors import FilesyncError, NodeMissing
from filesync.manifest import Nodes
from filesync.trees.select import Selector
from solver.errors import InputLost, OrderFailed, StepFailed
from solver.manager.agents import AgentLines
from solver.manager.build import Build
from solver.manager.outbox import Outbox
from solver.manager.outputs import Outputs
from solver.manager.results.replicas import Replicas
from solver.manager.results.transferring import transfer_cache
from solver.manager.shared import Shared
from solver.manager.workers import WorkerLink
from solver.wire import (
    AgentSaid,
    BuildFailed,
    CacheFrom,
    Denied,
    Event,
    Serve,
    StartBuild,
    StopServing,
    TransferCache,
    Warned,
)
from worker.wire import orders
from worker.wire.agents import AgentAsked
from worker.wire.ops import LocalOp

log = logging.getLogger(__name__)

Traffic = Callable[[], tuple[int, int]]
"""Bytes that the manager has received and sent so far."""


class ClientLink(msgspec.Struct):
    """A client by its ZeroMQ identity; one build at a time.

    Attributes:
        outbox: what it is told.
        last_s: when it was heard last.
        has_begun: it builds or moves something, or has sent trees, or asked which are here.
    """

    identity: bytes
    shared: Shared
    outbox: Outbox
    traffic: Traffic
    last_s: float
    has_begun: bool = False
    _running: asyncio.Task[None] | None = None
    _asked: set[asyncio.Task[None]] = msgspec.field(default_factory=set)
    _agent_lines: AgentLines = msgspec.field(default_factory=AgentLines)
    _traffic_before: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._traffic_before = self.traffic()

    # --- what a build needs of its client -----------------------------------------------------

    def tell(self, event: Event | Warned) -> None:
        """Let it know of an event; never waits."""
        self.outbox.tell(event)

    async def serve(self, tree: Digest, address: str, part: Selector | None) -> bytes:
        """Have the client serve a tree of its own, or a part, to a data plane; return the token."""
        token = secrets.token_bytes(16)
        self.outbox.answer(Serve(tree, address, token, part))
        return token

    async def stop_serving(self, token: bytes) -> None:
        """End that."""
        self.outbox.answer(StopServing(token))

    def ask_agent(self, worker: WorkerLink, asked: AgentAsked) -> None:
        """Have an SSH agent of the client's asked; ``agent_said`` has the answer."""
        if (question := self._agent_lines.asked(worker, asked)) is not None:
            self.outbox.answer(question)

    # --- what the server does with it ---------------------------------------------------------

    async def agent_said(self, said: AgentSaid) -> None:
        """Pass on what an agent of the client's has answered."""
        if (told := self._agent_lines.answered(said)) is not None:
            worker, answer = told
            await worker.send(worker.identity, answer, b"")

    def start(self, request: StartBuild, group: asyncio.TaskGroup) -> None:
        """Begin a build, unless one runs already."""
        if request.version != orders.VERSION:
            detail = f"client speaks version {request.version}, the manager {orders.VERSION}"
            self.outbox.answer(Denied("version", detail))
            return
        if self._running is not None:
            self.outbox.answer(Denied("busy", "this client has a build that has not ended"))
            return
        if unknown := list(self._unknown(request)):
            # What a client sends when its connection is cut is lost; it has dialled again since.
            detail = f"the trees of {', '.join(unknown)} have not come; was the connection cut?"
            self.outbox.answer(Denied(NodeMissing.code, detail))
            return
        self._running = group.create_task(self._run(request))

    def _unknown(self, request: StartBuild) -> Iterator[str]:
        """Yield the names of the trees that a build needs of its client and that are not here."""
        for vertex in request.graph.vertices:
            if isinstance(vertex.op, LocalOp) and vertex.op.tree not in self.shared.nodes:
                yield vertex.op.name
        for cache in request.caches:
            if isinstance(cache, CacheFrom) and cache.tree not in self.shared.nodes:
                yield "cache"

    def ask(self, work: Coroutine[Any, Any, None], group: asyncio.TaskGroup) -> None:
        """Work on a question of this client, for as long as the client is there."""
        task = group.create_task(work)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    def start_transfer(
        self, request: TransferCache, replicas: Replicas, group: asyncio.TaskGroup
    ) -> None:
        """Begin to move a result, in place of a build; it ends with its client."""
        if self._running is not None:
            self.outbox.answer(Denied("busy", "this client has a build that has not ended"))
            return
        self._running = group.create_task(self._transfer(request, replicas))

    async def _transfer(self, request: TransferCache, replicas: Replicas) -> None:
        try:
            self.outbox.answer(await transfer_cache(replicas, request, self.outbox.tell))
        except OrderFailed as exc:
            self.outbox.answer(Denied(exc.reason, str(exc)))
        except FilesyncError as exc:
            self.outbox.answer(Denied(exc.code, str(exc)))
        except Exception as exc:
            log.exception("transfer ended by a bug")
            self.outbox.answer(Denied("internal", f"internal error: {exc!r}"))

    async def end(self) -> None:
        """Stop the build and let go of what it holds. Idempotent."""
        task, self._running = self._running, None
        for asked in self._asked:
            asked.cancel()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, request: StartBuild) -> None:
        build: Build | None = None
        outputs = Outputs(self.shared, request, self.outbox)
        try:
            try:
                build = Build(self.shared, request, self)
                # A worker that has just joined may still be telling what it holds.
                await self.shared.cluster.wait_until_learnt()
                built = await outputs.make(build)
                self.outbox.answer(structs.replace(built, manager_bytes=self._moved()))
            except FilesyncError as exc:
                log.info("build failed reason=%s", exc)
                self.outbox.answer(_failure(exc))
            except Exception as exc:
                log.exception("build ended by a bug")
                self.outbox.answer(BuildFailed("internal", f"internal error: {exc!r}"))
            # The outputs stay open until the client has taken them and ends the build.
            await asyncio.Event().wait()
        finally:
            if build is not None:
                await build.release()
            await outputs.release()

    def _moved(self) -> tuple[int, int]:
        """Return the bytes that the manager has received and sent since this client came."""
        before, after = self._traffic_before, self.traffic()
        return after[0] - before[0], after[1] - before[1]


def lacking(nodes: Nodes, trees: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """Return those of ``trees`` that are not here whole."""
    return tuple(tree for tree in trees if tree not in nodes)


def _failure(exc: FilesyncError) -> BuildFailed:
    match exc:
        case StepFailed():
            return BuildFailed(exc.reason, str(exc), exc.position, exc.exit_status, exc.tail)
        case InputLost():
            return BuildFailed(exc.code, str(exc), exc.position)
        case OrderFailed():
            return BuildFailed(exc.reason, str(exc))
        case NodeMissing():
            return BuildFailed(exc.code, f"{exc}; build again")
        case _:
            return BuildFailed(exc.code, str(exc))
