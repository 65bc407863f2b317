"""The graph: inputs come before what reads them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.graph import MAX_READS, Graph, Vertex, reachable
from solver.keys import definition_keys
from worker.wire.ops import ExecOp


def vertex(name: str, *inputs: int) -> Vertex:
    return Vertex(ExecOp((name,)), inputs, name)


@pytest.mark.parametrize("inputs", [(1,), (2,), (-1,), (99,)])
def test_input_that_does_not_come_before_its_step_is_refused(inputs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="vertex 1 reads one that does not come before it"):
        Graph((vertex("a"), vertex("b", *inputs), vertex("c")), 0)


def test_steps_that_read_too_many_others_together_are_refused() -> None:
    many = (0,) * (MAX_READS // 10)
    ten = [vertex("b", *many) for _ in range(10)]
    assert Graph((vertex("a"), *ten), 0).target == 0
    with pytest.raises(ValueError, match=str(MAX_READS)):
        Graph((vertex("a"), *ten, vertex("c", 0)), 0)


@pytest.mark.parametrize("target", [-1, 1])
def test_target_outside_the_graph_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=f"target {target} is not in a graph of 1"):
        Graph((vertex("a"),), target)


def test_graph_that_could_not_be_made_cannot_be_decoded() -> None:
    good = msgspec.msgpack.encode(Graph((vertex("a"), vertex("b", 0)), 1))
    bad = msgspec.to_builtins(Graph((vertex("a"), vertex("b", 0)), 1))
    bad["vertices"][0]["inputs"] = [1]
    assert msgspec.msgpack.decode(good, type=Graph).target == 1
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(bad), type=Graph)


def test_reachable_is_the_target_and_all_that_it_needs() -> None:
    vertices = (vertex("a"), vertex("b", 0), vertex("c"), vertex("d", 1, 0), vertex("e", 3))
    assert reachable(Graph(vertices, 3)) == {0, 1, 3}


@given(st.lists(st.integers(0, 5), max_size=6))
def test_identity_of_a_step_depends_on_its_op_and_inputs_alone(inputs: list[int]) -> None:
    vertices = tuple(vertex("a", *(i for i in inputs if i < at)) for at in range(7))
    named = tuple(msgspec.structs.replace(v, name="other", stage="s") for v in vertices)
    assert definition_keys(Graph(vertices, 0)) == definition_keys(Graph(named, 0))
