"""What the parts of the manager hold in common."""

import asyncio
from typing import Protocol

import msgspec

from filesync.digest import Digest
from filesync.manifest import Manifest, Nodes, accept, missing_nodes
from filesync.transfer.threads import in_thread
from filesync.trees.select import Selector
from solver.keys import content_made_on
from solver.manager.cluster import Cluster
from solver.manager.leases import Leases
from solver.manager.moving.passers import Passers
from solver.manager.records import Records
from solver.manager.workers import OnEvent, WorkerLink
from solver.wire import Event, StepOutput, StepProgress, Warned
from worker.wire import orders
from worker.wire.agents import AgentAsked


class Solved(msgspec.Struct, frozen=True):
    """A step's result.

    Attributes:
        position: the step that has it, in its graph.
        ref: None for a client's tree, which no worker need have.
        worker: one that held it when it was found or made.
    """

    position: int
    tree: Digest
    ref: Digest | None
    worker: str


class Shared(msgspec.Struct):
    """What all builds of a manager share.

    Attributes:
        flights: steps that run now, by content key. The future's result is None when the
            build that ran it gave up; whoever waits then runs it itself.
        leases: results that builds, and others who asked, hold.
        passers: workers that take layers now, for others to take them there.
    """

    cluster: Cluster
    records: Records
    nodes: Nodes
    flights: dict[Digest, "asyncio.Future[Solved | None]"] = msgspec.field(default_factory=dict)
    leases: Leases = msgspec.field(default_factory=Leases)
    passers: Passers = msgspec.field(default_factory=Passers)

    def keep(self, tree: Manifest) -> Manifest:
        """Return ``tree``, with its nodes kept here.

        What a worker was sent it does not send back, and a result may be what was read for it.
        """
        for node in missing_nodes(tree.nodes, tree.tree, self.nodes.__contains__):
            accept(self.nodes, node)
        return Manifest(tree.tree, self.nodes)

    async def content_on(self, ref: Digest) -> Digest:
        """Return what a step reads that is made on a result: ``content_made_on``."""
        chain = [Manifest(info.tree, self.nodes) for info in self.records.chain(ref)]
        trees = [one for one in chain if one.tree in self.nodes]
        # A step may have touched a million files: that takes seconds.
        return await in_thread(content_made_on, trees)


class Client(Protocol):
    """A build's client, as the build needs it."""

    def tell(self, event: Event | Warned) -> None:
        """Send an event, in order; never waits."""

    async def serve(self, tree: Digest, address: str, part: Selector | None) -> bytes:
        """Have the client serve a tree of its own, or a part, to a data plane; return the token."""

    async def stop_serving(self, token: bytes) -> None:
        """End that."""

    def ask_agent(self, worker: WorkerLink, asked: AgentAsked) -> None:
        """Have an SSH agent of the client's asked; the worker is told the answer."""


def forwarding(client: Client, position: int, worker: WorkerLink) -> OnEvent:
    """Return what passes on to a client what a step of its build has to say on ``worker``."""

    def forward(message: orders.Event) -> None:
        match message:
            case orders.Output(_, stream, data):
                client.tell(StepOutput(position, stream, data))
            case orders.Progress(_, index, done, total):
                client.tell(StepProgress(position, index, done, total))
            case AgentAsked():
                client.ask_agent(worker, message)

    return forward
