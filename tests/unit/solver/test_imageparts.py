"""Which images are read in parts, told from the graph alone."""

from filesync.trees.select import Pick
from solver.graph import Graph, Vertex
from solver.imageparts import image_parts
from worker.wire.ops import BindMount, Copy, ExecOp, FileOp, ImageOp, MakeFile

IMAGE = Vertex(ImageOp("sha256:" + "a" * 64, "registry.example/app"))
LAYOUT = Vertex(ImageOp("sha256:" + "a" * 64))
EMPTY = Vertex(FileOp((MakeFile("/a", b""),), scratch=True))


def copy(*paths: str, inputs: tuple[int, ...], scratch: bool = True) -> Vertex:
    index = len(inputs) - 1
    actions = tuple(Copy(index, path, "/") for path in paths)
    return Vertex(FileOp(actions, scratch=scratch), inputs)


def test_an_image_that_is_only_copied_from_is_read_in_parts_all_at_once() -> None:
    graph = Graph(
        (IMAGE, copy("/a", inputs=(0,)), copy("/b", "/a", inputs=(1, 0), scratch=False)), 2
    )
    assert {p: set(s.picks) for p, s in image_parts(graph).items()} == {
        0: {Pick("/a"), Pick("/b")}
    }


def test_a_mount_reads_a_part() -> None:
    run = ExecOp(("true",), mounts=(BindMount("/m", 1, "/etc"),))
    graph = Graph((IMAGE, EMPTY, Vertex(run, (1, 0))), 2)
    assert [s.picks for s in image_parts(graph).values()] == [(Pick("/etc"),)]


def test_an_image_that_is_a_root_or_the_result_is_needed_whole() -> None:
    both = Graph(
        (
            IMAGE,
            copy("/a", inputs=(0,)),
            Vertex(ExecOp(("true",)), (0,)),
            copy("/x", inputs=(1, 2), scratch=False),
        ),
        3,
    )
    assert image_parts(both) == {}
    assert image_parts(Graph((IMAGE,), 0)) == {}
    assert image_parts(Graph((IMAGE, copy("/a", inputs=(0, 0), scratch=False)), 1)) == {}


def test_an_image_that_is_copied_as_it_is_is_needed_whole() -> None:
    assert image_parts(Graph((IMAGE, copy("/a", "/b/..", inputs=(0,))), 1)) == {}


def test_an_image_of_a_layout_is_none_of_these_and_what_the_target_does_not_need_is_not_asked() -> (
    None
):
    assert image_parts(Graph((LAYOUT, copy("/a", inputs=(0,))), 1)) == {}
    graph = Graph((IMAGE, copy("/a", inputs=(0,)), copy("/b", inputs=(0,))), 1)
    assert [s.picks for s in image_parts(graph).values()] == [(Pick("/a"),)]
