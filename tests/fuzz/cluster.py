"""What clients, managers and workers say to each other, and what comes of it before anything is run."""

import contextlib
import random
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec

from filesync.digest import digest_of
from filesync.errors import FilesyncError, MalformedMessage
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, put, with_entries
from filesync.trees.select import Pick, Selector
from solver import wire
from solver.client.agents import is_allowed
from solver.client.outputlines import OutputLines
from solver.client.wording import printable
from solver.graph import Graph, Vertex
from solver.imageparts import image_parts
from solver.keys import content_key, definition_keys, part_read, url_key
from solver.manager.agents import AgentLines
from solver.manager.workers import WorkerLink
from tests.fuzz import mutation
from tests.fuzz.mutation import Mutate
from tests.unit.made import file
from worker.exec.check import check_op, environment
from worker.exec.errors import BadExec
from worker.git.address import Address
from worker.git.errors import BadRepository
from worker.wire import orders
from worker.wire.agents import AgentAnswered, AgentAsked
from worker.wire.inputs import FromLocal
from worker.wire.ops import (
    BindMount,
    CacheMount,
    Copy,
    ExecOp,
    FileOp,
    GitOp,
    HttpOp,
    ImageOp,
    LocalOp,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from worker.wire.orders import Order, Output, Progress, Register, Run
from worker.wire.secrets import Secret
from worker.wire.urls import FromGit, FromUrl, ResolveGit, ResolveUrl, without_secrets

TO_MANAGER: Final = b"m"
TO_WORKER: Final = b"w"
TO_CLIENT: Final = b"c"
PASSWORD: Final = "hunter2"
URL: Final = f"https://user:{PASSWORD}@example.org/a?token={PASSWORD}"
COMMIT: Final = "0" * 40
SHA256: Final = "sha256:" + "0" * 64
CONTENT: Final = digest_of(b"content")
WORKER: Final = cast(WorkerLink, SimpleNamespace(identity=b"worker", name="w1"))


def _tree() -> Manifest:
    nodes = MemoryNodes()
    files = [file(name, b"x") for name in (b"a", b"b.c")]
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, files)), nodes)


TREE: Final = _tree()
MOUNTS: Final = (
    BindMount("/b", 1, "/a"),
    CacheMount("/c", "id"),
    TmpfsMount("/t", 4096),
    SecretMount("/s", "id", env="S"),
    SshMount("/agent", "default"),
)
GRAPH: Final = Graph(
    (
        Vertex(LocalOp("context", CONTENT, TREE.tree)),
        Vertex(ImageOp(SHA256, "registry.example/base")),
        Vertex(HttpOp(URL, "a", SHA256)),
        Vertex(GitOp(URL, COMMIT, "docs", True, "refs/heads/main")),
        Vertex(
            FileOp((Copy(1, "/*.c", "/d/"), Copy(2, "/a", "/e"), Copy(3, "/", "/f"))),
            (1, 0, 2, 3),
        ),
        Vertex(ExecOp(("make",), env=(("A", "b"),), mounts=MOUNTS), (4, 0), "RUN make"),
    ),
    5,
)


def fuzz(data: bytes) -> None:
    """Take ``data`` as who is spoken to and a message, and use it as that one does."""
    kind, body = data[:1], data[1:]
    try:
        if kind == TO_MANAGER:
            message, _ = wire.decode_to_manager([body])
            _check_again(message, wire.decode_to_manager)
            _manage(message)
        elif kind == TO_WORKER:
            order, _ = orders.decode_to_worker([body])
            _check_again(order, orders.decode_to_worker)
            _work(order)
        elif kind == TO_CLIENT:
            told, _ = wire.decode_to_client([body])
            _check_again(told, wire.decode_to_client)
            _show(told)
    except MalformedMessage:
        pass


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something in its message changed."""
    return data[:1] + mutation.mutated(data[1:], rng, mutate)


def seeds() -> list[bytes]:
    """Return one input for most messages."""
    run = Run(
        GRAPH.vertices[5].op,
        (FromLocal(CONTENT), FromUrl(URL, "a", SHA256), FromGit(URL, COMMIT, "docs")),
        (CONTENT,),
        (Secret("id", b"data"),),
        ("default",),
    )
    to_manager: list[Any] = [
        wire.StartBuild(orders.VERSION, GRAPH, secrets=run.secrets, agents=run.agents),
        wire.Have((CONTENT,)),
        wire.AskUrl(1, URL, "a"),
        wire.AskGit(1, URL, "main"),
        wire.AgentSaid(1, b"\x0c"),
        AgentAsked(1, "default", 2, b"\x0b"),
        Output(1, 2, b"line\n"),
        Progress(1, 0, 5, 10),
        Register(orders.VERSION, "w1", "i", {"gpu": "true"}, 2, "tcp://127.0.0.1:1", "overlay"),
    ]
    to_worker = [
        Order(1, run),
        Order(2, ResolveUrl(URL, "a", CONTENT, ("etag",))),
        Order(4, ResolveGit(URL, "refs/tags/v1")),
        Order(3, orders.Offer(CONTENT, Selector((Pick("/a"),)))),
        AgentAnswered(1, 2, b"\x0c"),
    ]
    to_client: list[Any] = [
        wire.AskAgent("default", 1, b"\x0b"),
        wire.StepOutput(0, 1, b"a\x1b[31mb\r50%\n\xff"),
        wire.BuildFailed("command-failed", "RUN make", 4, 1, "tail"),
        wire.Warned("text\x1b"),
    ]
    sides = ((TO_MANAGER, to_manager), (TO_WORKER, to_worker), (TO_CLIENT, to_client))
    return [kind + msgspec.msgpack.encode(one) for kind, some in sides for one in some]


def _check_again(message: Any, decode: Any) -> None:  # noqa: ANN401
    again, _ = decode([msgspec.msgpack.encode(message)])
    assert again == message


def _manage(message: wire.ToManager) -> None:
    match message:
        case wire.StartBuild(graph=graph):
            keys = definition_keys(graph)
            assert len(keys) == len(graph.vertices)
            image_parts(graph)
            for vertex in graph.vertices:
                for index in range(len(vertex.inputs)):
                    _read_part(vertex, index)
        case wire.AskUrl(_, url, name):
            url_key(url, name)
            without_secrets(url)
        case wire.AskGit(_, url, ref):
            _check_git(url, ref)
        case AgentAsked():
            lines = AgentLines()
            asked = lines.asked(WORKER, message)
            assert (asked is None) == (not message.said)
            assert asked is None or lines.asked(WORKER, message) is None
        case _:
            pass


def _read_part(vertex: Vertex, index: int) -> None:
    try:
        read = part_read(vertex.op, index, TREE)
    except FilesyncError:
        return
    content_key(vertex.op, [read.content])


def _work(order: orders.ToWorker) -> None:
    if isinstance(order, Order) and isinstance(order.body, ResolveGit):
        _check_git(order.body.url, order.body.ref)
    if isinstance(order, Order) and isinstance(order.body, Run):
        for source in order.body.inputs:
            if isinstance(source, FromUrl | FromGit) and source.url == URL:
                assert PASSWORD not in f"{source!r}"
            if isinstance(source, FromGit):
                _check_git(source.url, source.ref, source.subdir)
        op = order.body.op
        if isinstance(op, ExecOp):
            try:
                check_op(op)
            except BadExec:
                return
            known = environment(op, home="/root", path="/bin")
            assert len(dict(known)) == len(known)


def _check_git(url: str, *words: str) -> None:
    """Ask that nothing is an option, or leads out of a repository, and that a login is nowhere."""
    for word in words:
        assert not word.startswith(("-", "/"))
        assert ".." not in word.split("/")
    with contextlib.suppress(BadRepository):
        address = Address.parse(url)
        assert address.url.startswith(("http://", "https://"))
        assert "@" not in address.origin


def _show(told: wire.ToClient) -> None:
    match told:
        case wire.AskAgent(_, _, said) if said:
            is_allowed(said)
        case wire.StepOutput(_, _, data):
            lines = OutputLines()
            for line in (*lines.add(data), *lines.end()):
                assert printable(line).replace("\t", "").isprintable()
        case wire.Warned(text):
            assert printable(text).replace("\t", "").isprintable()
        case _:
            pass
