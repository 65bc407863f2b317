"""A manager's world without sockets: fake workers that answer orders, and a client that listens."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from filesync.digest import Digest, digest_of
from filesync.errors import FilesyncError, PathMissing
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    Expansion,
    File,
    Manifest,
    MemoryNodes,
    Nodes,
    grow,
)
from filesync.trees.select import Selector, select
from solver.graph import Graph, Vertex
from solver.manager.build import Build
from solver.manager.cluster import Cluster
from solver.manager.records import Records
from solver.manager.shared import Shared, Solved
from solver.manager.workers import Sent, WorkerLink
from solver.wire import Event, StartBuild, StepDone, Warned
from worker.wire import orders
from worker.wire.agents import AgentAsked
from worker.wire.caches import FromRepository
from worker.wire.disk import Holdings, Prune, ReadHoldings, ReadUsage, Touch
from worker.wire.images import FromRegistry, ResolveImage
from worker.wire.leases import AskLacking, Lacking
from worker.wire.ops import BindMount, ExecOp, ImageOp, LocalOp, Op
from worker.wire.orders import (
    VERSION,
    Cancel,
    Failed,
    Finished,
    FromLayers,
    FromLocal,
    FromPaths,
    InputReport,
    Layer,
    Mode,
    Offered,
    Order,
    OrderBody,
    Ran,
    RefInfo,
    Register,
    Release,
    Result,
    ToWorker,
)
from worker.wire.urls import FromGit, FromUrl, ResolveGit

Listing = Mapping[str, str]
"""Paths to the contents of files."""
IMAGE = "sha256:" + "a" * 64


def plant(nodes: Nodes, listing: Listing, *, mtime_ns: int = 7, mode: int = 0o644) -> Manifest:
    """Make the tree that has these files."""

    def expand(prefix: str) -> Expansion[str]:
        below = [path.removeprefix(prefix) for path in listing if path.startswith(prefix)]
        entries: list[Entry] = []
        for name in (path for path in below if "/" not in path):
            data = listing[prefix + name].encode()
            digest = digest_of(data)
            entries.append(File(name.encode(), mode, 0, 0, mtime_ns, len(data), digest))
        folders = sorted({path.split("/")[0] for path in below if "/" in path})
        return Expansion(
            EMPTY_DIRECTORY, entries, [(name.encode(), f"{prefix}{name}/") for name in folders]
        )

    return Manifest(grow(nodes, "", expand), nodes)


def digest(text: str) -> Digest:
    return digest_of(text.encode())


def layer_of(ref: Digest) -> Layer:
    return Layer("application/tar", f"sha256:{ref.hex()}", 100, f"sha256:{ref.hex()}")


class Recipe:
    """Puts a graph together, step by step."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.vertices: list[Vertex] = []

    def local(self, listing: Listing, *, name: str = "context", mtime_ns: int = 7) -> int:
        tree = plant(self._nodes, listing, mtime_ns=mtime_ns)
        return self._add(Vertex(LocalOp(name, tree.content, tree.tree), (), name))

    def pulled(self, name: str = "FROM a.io/app", manifest: str = IMAGE) -> int:
        return self._add(Vertex(ImageOp(manifest, "a.io/app"), (), name))

    def image(self, layout: int, name: str = "image", manifest: str = IMAGE) -> int:
        return self._add(Vertex(ImageOp(manifest), (layout,), name))

    def run(
        self,
        name: str,
        *,
        on: int | None = None,
        reads: Mapping[int, str] | None = None,
        needs: tuple[tuple[str, str], ...] = (),
        command: str = "",
        ignore_cache: bool = False,
    ) -> int:
        """Add a command; ``reads`` are the subpaths that it mounts of other steps."""
        reads = reads or {}
        inputs = (() if on is None else (on,)) + tuple(reads)
        first = 0 if on is None else 1
        mounts = tuple(
            BindMount(f"/in{index}", index, source)
            for index, source in enumerate(reads.values(), first)
        )
        op = ExecOp((command or name,), mounts=mounts, scratch=on is None)
        vertex = Vertex(op, inputs, name, constraints=needs, ignore_cache=ignore_cache)
        return self._add(vertex)

    def graph(self, target: int = -1) -> Graph:
        return Graph(tuple(self.vertices), target % len(self.vertices))

    def _add(self, vertex: Vertex) -> int:
        self.vertices.append(vertex)
        return len(self.vertices) - 1


class FakeClient:
    """Keeps what it is told, and the trees that it is asked to serve."""

    def __init__(self) -> None:
        self.events: list[Event | Warned] = []
        self.served: list[tuple[Digest, str]] = []
        self.parts: list[Selector | None] = []
        self.open: set[bytes] = set()

    def tell(self, event: Event | Warned) -> None:
        self.events.append(event)

    async def serve(self, tree: Digest, address: str, part: Selector | None = None) -> bytes:
        self.served.append((tree, address))
        self.parts.append(part)
        token = b"client" + len(self.served).to_bytes(10, "big")
        self.open.add(token)
        return token

    async def stop_serving(self, token: bytes) -> None:
        self.open.remove(token)

    def ask_agent(self, worker: WorkerLink, asked: AgentAsked) -> None:
        raise AssertionError("no agent is given")

    def done(self) -> dict[int, StepDone]:
        return {event.position: event for event in self.events if isinstance(event, StepDone)}


class FakeWorker:
    """Answers orders as a worker would; what a step gives is the world's to say."""

    def __init__(
        self, world: "World", name: str, labels: Mapping[str, str], slots: int
    ) -> None:
        self.world = world
        address = f"tcp://{name}"
        hello = Register(VERSION, name, name, dict(labels), slots, address, "fake")
        self.link = WorkerLink(name.encode(), hello, self._send, 0.0)
        self.link.learnt.set()
        self.orders: list[OrderBody] = []
        self.touched: set[Digest] = set()
        self.holdings = Holdings()
        self.cancelled: list[int] = []
        self.held: dict[Digest, Digest] = {}
        self.passes_on = True
        self.progresses = True
        self.sources: set[Digest] = set()
        self.tokens: set[bytes] = set()
        self.says: list[Result] = []
        self.answers: Callable[[], Result] = lambda: self.says.pop(0)
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def _send(self, _: bytes, message: ToWorker, payload: bytes) -> Sent:
        match message:
            case Order(number, body):
                if isinstance(body, Touch):
                    self.touched.update(body.refs)
                else:
                    self.orders.append(body)
                self.tasks[number] = asyncio.create_task(self._perform(number, body))
            case Cancel(number):
                self.cancelled.append(number)
                self.tasks[number].cancel()
            case _:
                pass
        return Sent.UNDER_WAY

    async def _perform(self, number: int, body: OrderBody) -> None:
        if isinstance(body, orders.Run) and self.progresses:
            self.link.event(orders.Progress(number, 0, 1, 1))
        try:
            result = await self._result(body)
        except asyncio.CancelledError:
            result = Failed("cancelled", "the order was cancelled")
        except FilesyncError as exc:
            result = Failed(exc.code, str(exc))
        await self.answer(number, result)

    async def answer(self, number: int, result: Result) -> None:
        if not self.link.answer(number, result):
            await self.link.release(result)

    async def _result(self, body: OrderBody) -> Result:
        match body:
            case orders.Run():
                return await self._run(body)
            case ResolveImage() | ResolveGit():
                return self.says.pop(0)
            case orders.Offer() | orders.OfferLayers() | orders.PassOn():
                return await self._open(body)
            case ReadHoldings():
                return self.holdings
            case AskLacking(refs):
                return Lacking(tuple(ref for ref in refs if ref not in self.held))
            case ReadUsage() | Prune():
                return self.answers()
            case Release(tokens, sources):
                self.tokens.difference_update(tokens)
                self.sources.difference_update(sources)
                return Finished()
            case _:
                return Finished()

    async def _open(self, body: orders.Offer | orders.OfferLayers | orders.PassOn) -> Result:
        match body:
            case orders.Offer(ref, selector):
                await self.world.reach("offer", self)
                if ref not in self.held:
                    return Failed("ref-missing", "not here any more")
                tree = Manifest(self.held[ref], self.world.nodes)
                if selector is not None:
                    tree = select(tree, selector, self.world.nodes)
                return self._offered(tree.tree)
            case orders.OfferLayers(refs):
                if not self.held.keys() >= set(refs):
                    return Failed("ref-missing", "not here any more")
                blobs = plant(self.world.nodes, {ref.hex(): "blob" for ref in refs})
                return self._offered(blobs.tree, tuple(map(layer_of, refs)))
            case orders.PassOn(tree):
                return self._offered(tree) if self.passes_on else Failed("store", "no")

    def _offered(self, tree: Digest, layers: tuple[Layer, ...] = ()) -> Offered:
        token = next(self.world.numbers).to_bytes(16, "big")
        self.tokens.add(token)
        return Offered(token, tree, layers)

    async def _run(self, run: orders.Run) -> Result:
        self.world.ran.append((self.world.name_of(run.op), self.link.name))
        pulled: list[RefInfo] = []
        trees: list[Digest] = []
        for order in run.inputs:
            match order:
                case FromLocal(ref):
                    if ref not in self.held:
                        return Failed("ref-missing", "not here any more")
                    trees.append(self.held[ref])
                case FromPaths(tree, replicas):
                    self.world.check_open(replicas)
                    trees.append(tree)
                case FromLayers(chain, _, replicas):
                    below = chain[0].ref.parent
                    if below is not None and below not in self.held:
                        return Failed("ref-missing", "not here any more")
                    self.world.check_open(replicas)
                    self.held |= {link.ref.ref: link.ref.tree for link in chain}
                    pulled.extend(link.ref for link in chain)
                    trees.append(chain[-1].ref.tree)
                case FromRegistry() | FromRepository() | FromUrl() | FromGit():
                    self.world.registries.append(order)
        if (failure := await self.world.reach(self.world.name_of(run.op), self)) is not None:
            return failure
        reports = tuple(map(self._report, run.inputs))
        return Ran(self._keep(run, trees), tuple(pulled), reports)

    def _keep(self, run: orders.Run, trees: list[Digest]) -> RefInfo:
        asked = [one.selector for one in run.inputs if isinstance(one, FromRegistry)]
        if asked and asked[0] is not None and not self.world.takes_images_whole:
            whole = Manifest(
                self.world.outcome(self.world.name_of(run.op), trees), self.world.nodes
            )
            trees = [select(whole, asked[0], self.world.nodes).tree]
        elif asked:
            asked = []
        if isinstance(run.op, LocalOp) or asked:
            ref = digest(f"source {next(self.world.numbers)}")
            self.sources.add(ref)
            info = RefInfo(ref, trees[0], source=True, tar_size=10)
        else:
            tree = self.world.outcome(self.world.name_of(run.op), trees)
            parent = _base(run)
            ref = digest_of(b"ref\0" + (parent or b"") + tree)
            info = RefInfo(ref, tree, parent, run.keys, 1.0, tar_size=10)
        self.held[info.ref] = info.tree
        return info

    def _report(self, order: orders.InputOrder) -> InputReport:
        match order:
            case FromLocal():
                return InputReport(Mode.LOCAL)
            case FromPaths(tree):
                return InputReport(Mode.PATHS, self.world.nodes.summary(tree).size, 1)
            case FromLayers(chain):
                return InputReport(Mode.LAYERS, sum(link.layer.size for link in chain))
            case FromRegistry():
                return InputReport(
                    Mode.REGISTRY, 1000, bytes_whole=5000 if order.selector else 0
                )
            case FromRepository():
                return InputReport(Mode.REGISTRY, 1000)
            case FromUrl() | FromGit():
                return InputReport(Mode.URL, 1000)


class World:
    """A manager's state, its workers, and what their steps give.

    Attributes:
        gives: files that a step makes, by its name; without one it makes a file of its own.
        fails: what a step answers instead, once for each answer in the list.
        registries: what workers were told to take from registries and web servers.
        ran: (step, worker) of each Run order, in order.
        takes_images_whole: workers cannot read images in parts.
    """

    def __init__(self, state: Path) -> None:
        self.nodes = MemoryNodes()
        self.shared = Shared(Cluster(), Records(state / "records.db"), self.nodes)
        self.workers: dict[str, FakeWorker] = {}
        self.clients: list[FakeClient] = []
        self.gives: dict[str, Listing] = {}
        self.fails: dict[str, list[Failed]] = {}
        self.ran: list[tuple[str, str]] = []
        self.registries: list[FromRegistry | FromRepository | FromUrl | FromGit] = []
        self.takes_images_whole = False
        self._names: dict[Op, str] = {}
        self.numbers = itertools.count(1)
        self._gates: dict[str, asyncio.Event] = {}
        self._reached: dict[str, asyncio.Queue[FakeWorker]] = {}

    def worker(
        self, name: str, *, slots: int = 2, labels: Mapping[str, str] | None = None
    ) -> FakeWorker:
        worker = FakeWorker(self, name, labels or {}, slots)
        self.workers[name] = worker
        self.shared.cluster.join(worker.link)
        return worker

    def lose(self, worker: FakeWorker) -> None:
        del self.workers[worker.link.name]
        self.shared.cluster.leave(worker.link)

    def recipe(self) -> Recipe:
        return Recipe(self.nodes)

    def client(self) -> FakeClient:
        self.clients.append(FakeClient())
        return self.clients[-1]

    async def build(
        self, graph: Graph, client: FakeClient | None = None, *, no_cache: bool = False
    ) -> Solved:
        """Build as a client's task does: whatever happens, let go at the end."""
        self._names |= {vertex.op: vertex.name for vertex in graph.vertices}
        request = StartBuild(VERSION, graph, no_cache=no_cache)
        build = Build(self.shared, request, client or self.client())
        try:
            return await build.solve_target()
        finally:
            await build.release()

    def ran_steps(self) -> Counter[str]:
        """Return how often each step was run, and forget it."""
        steps = Counter(step for step, _ in self.ran)
        self.ran.clear()
        return steps

    # --- holding a step where it is -----------------------------------------------------------

    def hold(self, *steps: str) -> None:
        """Let these steps begin but not end."""
        for step in steps:
            self._gates[step] = asyncio.Event()
            self._reached[step] = asyncio.Queue()

    async def wait_for(self, step: str) -> FakeWorker:
        """Wait until a step that is held has begun; return its worker."""
        async with asyncio.timeout(10):
            return await self._reached[step].get()

    def let_go(self, *steps: str) -> None:
        for step in steps:
            self._gates[step].set()

    # --- what workers ask ---------------------------------------------------------------------

    async def reach(self, step: str, worker: FakeWorker) -> Failed | None:
        """Note that a step runs, wait while it is held, and return how it fails, if it does."""
        if step in self._gates:
            self._reached[step].put_nowait(worker)
            await self._gates[step].wait()
        return self.fails[step].pop(0) if self.fails.get(step) else None

    def name_of(self, op: Op) -> str:
        """Return what the step is called in what was built; workers are not told."""
        return self._names.get(op, "step")

    def outcome(self, step: str, trees: list[Digest]) -> Digest:
        """Return the tree that a step makes: always the same for the same inputs."""
        contents = b"".join(self.nodes.summary(tree).content for tree in trees)
        made = {step.replace("/", "-"): digest_of(contents).hex()}
        return plant(self.nodes, self.gives.get(step, made)).tree

    def check_open(self, replicas: tuple[orders.Replica, ...]) -> None:
        """Refuse bytes that nobody offers."""
        offered = set[bytes]()
        offered.update(*(worker.tokens for worker in self.workers.values()))
        offered.update(*(client.open for client in self.clients))
        if not any(replica.token in offered for replica in replicas):
            raise PathMissing("an open offer")

    def check_idle(self) -> None:
        """Nothing is left open or running when no build runs."""
        for worker in self.workers.values():
            assert worker.link.running == 0
            assert worker.tokens == set(), "an offer was left open"
            assert worker.sources == set(), "a source was left held"
        assert all(client.open == set() for client in self.clients)
        assert self.shared.flights == {}


def _base(run: orders.Run) -> Digest | None:
    if isinstance(run.op, ImageOp) or getattr(run.op, "scratch", False):
        return None
    match run.inputs[0]:
        case FromLocal(ref):
            return ref
        case FromLayers(chain):
            return chain[-1].ref.ref
        case FromPaths() | FromRegistry() | FromRepository() | FromUrl() | FromGit():
            return None
