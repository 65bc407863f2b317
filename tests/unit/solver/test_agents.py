"""``--ssh``, and what of an agent's protocol goes through."""

import socket
from pathlib import Path

import msgspec
import pytest

from filesync.errors import MalformedMessage, UsageError
from solver import wire
from solver.agents import AgentSaid, AskAgent
from solver.client.agents import is_allowed, read_agents
from solver.graph import Graph, Vertex
from solver.manager.agents import MAX_LINES, AgentLines
from solver.manager.build import Build
from solver.wire import StartBuild
from tests.unit.solver.fakes import World
from worker.wire import orders
from worker.wire.agents import (
    LENGTH_BYTES,
    MAX_AGENT_BYTES,
    MAX_AGENTS,
    AgentAnswered,
    AgentAsked,
    framed,
    length_of,
)
from worker.wire.ops import ExecOp, SshMount
from worker.wire.orders import VERSION, Order, Run

OP = ExecOp(("x",), mounts=(SshMount("/m", "mine"),), scratch=True)
GRAPH = Graph((Vertex(OP, (), "RUN x"),), 0)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    return path


def test_an_agent_is_the_one_of_the_environment_or_a_socket(agent: Path) -> None:
    assert read_agents(["default", f"mine={agent}"]) == {"default": agent, "mine": agent}
    assert read_agents([]) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write default, or ID=SOCKET"),
        ("=/a", "write default, or ID=SOCKET"),
        ("a\nb", "write default, or ID=SOCKET"),
        ("a=/no/such", "No such file or directory; name an agent's socket"),
        ("a=x\0y", "name an agent's socket"),
        ("a=/etc/passwd", r"give a key to an agent .*ssh-add /etc/passwd\) and write --ssh a"),
    ],
)
def test_what_is_no_agent_is_refused_with_what_to_do(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_agents([text])


def test_without_an_agent_in_the_environment_it_is_said_how_to_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(UsageError, match=r"no SSH_AUTH_SOCK; start an agent .*default=SOCKET"):
        read_agents(["default"])


def test_agents_have_an_end(agent: Path) -> None:
    with pytest.raises(UsageError, match="more than 100"):
        read_agents([f"{number}={agent}" for number in range(MAX_AGENTS + 1)])


@pytest.mark.parametrize(
    ("said", "may"),
    [
        (bytes([11]), True),
        (bytes([13]) + b"key", True),
        (bytes([27]) + framed(b"session-bind@openssh.com") + b"host", True),
        (bytes([27]) + framed(b"query"), False),
        (bytes([27]) + b"session-bind@openssh.com", False),
        (bytes([27]), False),
        (bytes([1]), False),  # what was asked in the first version of the protocol
        (bytes([17]) + b"key", False),  # take one
        (bytes([18]) + b"key", False),  # remove one
        (bytes([19]), False),  # or all
        (bytes([22]) + b"password", False),  # be locked
        (bytes([255]), False),
    ],
)
def test_a_step_may_ask_for_keys_and_signatures_and_nothing_else(
    said: bytes, may: bool
) -> None:
    assert is_allowed(said) is may


def test_a_message_that_is_too_long_is_not_read() -> None:
    assert framed(b"abc") == b"\0\0\0\x03abc"
    assert length_of(framed(b"abc")[:LENGTH_BYTES]) == 3
    assert length_of(MAX_AGENT_BYTES.to_bytes(4)) == MAX_AGENT_BYTES
    assert length_of((MAX_AGENT_BYTES + 1).to_bytes(4)) == 0


LARGE = bytes(MAX_AGENT_BYTES + 1)


@pytest.mark.parametrize(
    "message", [AgentSaid(1, LARGE), AgentAsked(1, "a", 1, LARGE), AgentAsked(1, "", 1, b"")]
)
def test_what_is_said_to_a_manager_beyond_a_cap_is_malformed(
    message: AgentSaid | AgentAsked,
) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_to_manager([msgspec.msgpack.encode(message)])


def test_what_a_manager_says_beyond_a_cap_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_to_client(wire.encode(AskAgent("a", 1, LARGE)))
    with pytest.raises(MalformedMessage):
        orders.decode_to_worker(orders.encode(AgentAnswered(1, 1, LARGE)))
    many = tuple(map(str, range(MAX_AGENTS + 1)))
    with pytest.raises(MalformedMessage):
        orders.decode_to_worker(orders.encode(Order(1, Run(OP, (), agents=many))))
    with pytest.raises(MalformedMessage):
        wire.decode_to_manager(wire.encode(StartBuild(VERSION, GRAPH, agents=many)))


def test_no_text_about_a_message_has_what_is_said() -> None:
    said = b"secret-handshake"
    messages = (
        AgentSaid(1, said),
        AgentAsked(1, "a", 1, said),
        AgentAnswered(1, 1, said),
        AskAgent("a", 1, said),
    )
    assert "handshake" not in f"{messages}"


async def test_only_the_agents_that_a_step_names_are_given_to_its_worker(world: World) -> None:
    worker = world.worker("a")
    plain = Vertex(ExecOp(("y",)), (0,), "RUN y")
    graph = Graph((*GRAPH.vertices, plain), 1)
    request = StartBuild(VERSION, graph, agents=("other", "mine"))
    build = Build(world.shared, request, world.client())
    await build.solve_target()
    await build.release()
    runs = {one.op: one.agents for one in worker.orders if isinstance(one, Run)}
    assert runs == {OP: ("mine",), plain.op: ()}


def test_an_answer_goes_to_the_process_that_waits_for_it(world: World) -> None:
    lines = AgentLines()
    here, there = world.worker("a").link, world.worker("b").link
    assert lines.asked(here, AgentAsked(5, "a", 0, b"one")) == AskAgent("a", 1, b"one")
    assert lines.asked(there, AgentAsked(5, "a", 0, b"two")) == AskAgent("a", 2, b"two")
    assert lines.answered(AgentSaid(2, b"2")) == (there, AgentAnswered(5, 0, b"2"))
    assert lines.answered(AgentSaid(2, b"2 again")) is None
    assert lines.answered(AgentSaid(1, b"")) == (here, AgentAnswered(5, 0, b""))
    assert lines.asked(here, AgentAsked(5, "a", 0, b"")) is None
    assert lines.asked(there, AgentAsked(5, "a", 0, b"")) == AskAgent("a", 2, b"")
    assert lines.answered(AgentSaid(2, b"late")) is None


def test_who_does_not_wait_for_an_answer_is_not_heard(world: World) -> None:
    lines = AgentLines()
    worker = world.worker("a").link
    assert lines.asked(worker, AgentAsked(5, "a", 0, b"one")) is not None
    assert lines.asked(worker, AgentAsked(5, "a", 0, b"two")) is None
    for number in range(1, MAX_LINES):
        assert lines.asked(worker, AgentAsked(5, "a", number, b"x")) is not None
    assert lines.asked(worker, AgentAsked(5, "a", MAX_LINES, b"x")) is None
