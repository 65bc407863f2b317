"""Directory nodes on their way from one side to the other, without a connection."""

import random
import tracemalloc
from collections.abc import Mapping

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.errors import MalformedManifest, MalformedMessage, PeerError, UnexpectedMessage
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    Manifest,
    MemoryNodes,
    Subdirectory,
    encode,
    put,
    subdirectory,
    with_entries,
)
from filesync.manifest.node import pieces
from filesync.manifest.pack import unpack_nodes
from filesync.sync.remote import wire
from filesync.sync.remote.nodes import (
    FIRST_NODES_BYTES,
    MAX_NODES,
    MAX_NODES_BYTES,
    NodeBudget,
    NodeFetch,
    answer_deltas,
    answer_nodes,
    first_nodes,
)
from filesync.transfer.coding import delta, edit
from filesync.transfer.coding.edit import Edit
from filesync.transfer.errors import NotOffered
from tests.unit.counting_nodes import CountingNodes
from tests.unit.made import file

TOKEN = bytes(16)


def tree_of(nodes: MemoryNodes, shape: dict[int, list[int]]) -> Manifest:
    """A directory for each key, with 100 files, those named in its list edited."""
    below: list[Entry] = []
    for number, edited in shape.items():
        files = [file(b"%03d" % n, b"%d %d %d" % (number, n, n in edited)) for n in range(100)]
        tree = put(nodes, with_entries(EMPTY_DIRECTORY, files))
        below.append(subdirectory(nodes, b"%03d" % number, tree))
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, below)), nodes)


def fetch(
    there: Manifest,
    here: MemoryNodes,
    basis: Digest | None,
    first: bytes = b"",
    edits: Mapping[Digest, Edit] | None = None,
) -> tuple[int, int]:
    """Bring ``there`` into ``here``; return the bytes that went and that came."""
    sent, came = 0, len(first)
    fetching = NodeFetch(TOKEN, {there.tree: basis}, here)
    if edits:
        fetching.take_edits(edits)
    if first:
        fetching.take_first(first)
    while request := fetching.next_request():
        sent += len(wire.encode(request))
        assert len(wire.encode(request)) < 512 << 10
        if isinstance(request, wire.AskNodes):
            payload = answer_nodes(there, request.digests)
            fetching.take_nodes(payload)
        else:
            answer, payload = answer_deltas(there, request)
            fetching.take_deltas(answer, payload)
        came += len(payload)
    fetching.settle()
    assert there.tree in here
    assert Manifest(there.tree, here).summary == there.summary
    return sent, came


shapes = st.dictionaries(
    st.integers(0, 5), st.lists(st.integers(0, 99), max_size=3), max_size=4
)


@given(shapes, shapes, st.booleans(), st.booleans())
def test_all_nodes_come_whatever_is_there_or_has_come_already(
    old: dict[int, list[int]], new: dict[int, list[int]], has_basis: bool, has_first: bool
) -> None:
    here = MemoryNodes()
    before = tree_of(here, old)
    there = tree_of(MemoryNodes(), new)
    first = first_nodes(there) if has_first else b""
    fetch(there, here, before.tree if has_basis else None, first)


def test_a_small_tree_need_not_be_asked_for() -> None:
    there = tree_of(MemoryNodes(), {0: [5], 1: []})
    sent, _ = fetch(there, MemoryNodes(), None, first_nodes(there))
    assert sent == 0


def edits_of(old: Manifest, new: Manifest) -> dict[Digest, Edit]:
    """Return what makes each directory of ``new`` out of the one of ``old`` that has its name."""
    pairs = [(old.root, new.root, new.tree)]
    made: dict[Digest, Edit] = {}
    for before, after, tree in pairs:
        one = edit.between(tree, pieces(encode(before)), pieces(encode(after)))
        assert one is not None
        made[tree] = one
        pairs += [
            (old.directory(one.tree), new.directory(other.tree), other.tree)
            for one, other in zip(before.entries, after.entries, strict=False)
            if isinstance(one, Subdirectory)
            and isinstance(other, Subdirectory)
            and one.name == other.name
        ]
    return made


def test_what_edits_make_of_the_basis_need_not_be_asked_for() -> None:
    here = MemoryNodes()
    before = tree_of(here, {number: [1, 2, 3] for number in range(20)})
    there = tree_of(MemoryNodes(), {number: [1, 2, 3 + (number == 9)] for number in range(20)})
    sent, _ = fetch(there, here, before.tree, edits=edits_of(before, there))
    assert sent == 0


@given(shapes, shapes, shapes)
def test_edits_of_another_tree_are_not_kept_and_all_nodes_come(
    old: dict[int, list[int]], new: dict[int, list[int]], other: dict[int, list[int]]
) -> None:
    here = MemoryNodes()
    before, there = tree_of(here, old), tree_of(MemoryNodes(), new)
    elsewhere = tree_of(MemoryNodes(), other)
    fetch(there, here, before.tree, edits=edits_of(elsewhere, there))


def test_an_edit_that_makes_another_node_is_not_kept() -> None:
    here = MemoryNodes()
    before, there = tree_of(here, {0: [1]}), tree_of(MemoryNodes(), {0: [2]})
    lie = edit.whole(there.tree, encode(before.root))
    sent, _ = fetch(there, here, before.tree, edits={there.tree: lie})
    assert sent > 0


def test_the_first_nodes_are_whole_levels_of_few_bytes() -> None:
    wide = tree_of(MemoryNodes(), {number: [] for number in range(20)})
    (root,) = unpack_nodes(first_nodes(wide))
    assert digest_of(root) == wide.tree
    nodes = MemoryNodes()
    files = [file(b"%04d" % n, b"") for n in range(FIRST_NODES_BYTES // 32)]
    assert first_nodes(Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, files)), nodes)) == b""


def test_first_nodes_that_are_not_of_the_tree_are_not_kept() -> None:
    there, other = tree_of(MemoryNodes(), {0: [5]}), tree_of(MemoryNodes(), {7: [1]})
    here = MemoryNodes()
    fetch(there, here, None, first_nodes(other))
    assert other.tree not in here


def test_first_nodes_that_are_no_pack_are_refused() -> None:
    fetching = NodeFetch(TOKEN, {digest_of(b"tree"): None}, MemoryNodes())
    with pytest.raises(PeerError):
        fetching.take_first(b"no pack")


@given(shapes, shapes, st.randoms(use_true_random=False))
def test_a_peer_that_lies_now_and_then_gives_that_tree_or_is_found_out(
    old: dict[int, list[int]], new: dict[int, list[int]], rng: random.Random
) -> None:
    """It may leave out, put in another order, repeat, damage, and put in what is of elsewhere."""
    here, there = MemoryNodes(), tree_of(MemoryNodes(), new)
    other = tree_of(MemoryNodes(), {77: [7]})
    fetching = NodeFetch(TOKEN, {there.tree: tree_of(here, old).tree}, here)
    before = len(here)
    try:
        while request := fetching.next_request():
            if isinstance(request, wire.AskNodes):
                nodes = [there.nodes.read(digest) for digest in request.digests]
                fetching.take_nodes(pack(lied(nodes, other, rng)))
            else:
                asked = [there.nodes.read(digest) for digest, _ in request.items]
                some = lied(asked, other, rng)
                made = delta.join([delta.encode(node, b"", request.key) for node in some])
                answer = wire.NodeDeltas(tuple(map(len, some)), len(made))
                fetching.take_deltas(answer, made)
        fetching.settle()
    except PeerError:
        assert len(here) == before
    else:
        assert there.tree in here
        assert Manifest(there.tree, here).summary == there.summary


def lied(nodes: list[bytes], other: Manifest, rng: random.Random) -> list[bytes]:
    match rng.randrange(12):
        case 0:
            rng.shuffle(nodes)
        case 1:
            nodes.append(nodes[0])
        case 2:
            nodes.append(other.nodes.read(other.tree))
        case 3:
            nodes[0] = nodes[0][:-1] + bytes([nodes[0][-1] ^ 1])
        case 4:
            nodes = nodes[: rng.randint(0, len(nodes) - 1)]
        case _:
            pass
    return nodes


def pack(nodes: list[bytes]) -> bytes:
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(nodes))


@pytest.mark.parametrize("is_known", [False, True])
def test_who_answers_one_at_a_time_is_found_out(is_known: bool) -> None:
    there = tree_of(MemoryNodes(), {number: [number] for number in range(10)})
    here = MemoryNodes()
    before = tree_of(here, {number: [] for number in range(10)})
    fetching = NodeFetch(TOKEN, {there.tree: before.tree if is_known else None}, here)

    def take_one() -> None:
        request = fetching.next_request()
        if isinstance(request, wire.AskNodeDeltas):
            one = msgspec.structs.replace(request, items=request.items[:1])
            fetching.take_deltas(*answer_deltas(there, one))
        elif request is not None:
            fetching.take_nodes(answer_nodes(there, request.digests[:1]))

    take_one()  # the root
    with pytest.raises(UnexpectedMessage, match="fewer"):
        take_one()


def test_as_many_come_at_once_as_fill_a_pack() -> None:
    rng = random.Random(1)
    names = [b"%0200d" % number for number in range(1000)]
    there = MemoryNodes()
    below: list[Entry] = []
    for number in range(12):  # 12 nodes of about 250 kB
        files = [file(name, rng.randbytes(8)) for name in names]
        tree = put(there, with_entries(EMPTY_DIRECTORY, files))
        below.append(subdirectory(there, b"%02d" % number, tree))
    top = Manifest(put(there, with_entries(EMPTY_DIRECTORY, below)), there)
    here = MemoryNodes()
    fetching = NodeFetch(TOKEN, {top.tree: None}, here)
    asked = 0
    while isinstance(request := fetching.next_request(), wire.AskNodes):
        asked += 1
        fetching.take_nodes(answer_nodes(top, request.digests))
    fetching.settle()
    assert asked > 3
    assert top.tree in here


def test_an_edit_in_each_of_many_directories_costs_a_fraction_of_their_nodes() -> None:
    there = tree_of(MemoryNodes(), {number: [number] for number in range(100)})
    here = MemoryNodes()
    before = tree_of(here, {number: [] for number in range(100)})
    sent, came = fetch(there, here, before.tree)
    other = MemoryNodes()
    tree_of(other, {number: [] for number in range(100)})
    whole_sent, whole_came = fetch(there, other, None)
    assert (sent + came) * 3 < whole_sent + whole_came


def test_an_older_directory_is_read_for_its_pieces_and_for_those_in_it_that_are_lacking() -> (
    None
):
    there = tree_of(MemoryNodes(), {1: [1], 2: [2]})
    here = CountingNodes()
    before = tree_of(here, {1: [], 2: []})
    here.reads = 0
    fetch(there, here, before.tree)
    assert here.reads == 2 + 2 * 1


def test_what_is_here_is_not_asked_for() -> None:
    here = MemoryNodes()
    there = tree_of(here, {1: []})
    assert NodeFetch(TOKEN, {there.tree: None}, here).next_request() is None


def test_a_delta_that_comes_out_wrong_has_the_node_sent_whole() -> None:
    there = tree_of(MemoryNodes(), {1: [1]})
    here = MemoryNodes()
    before = tree_of(here, {1: []})
    fetching = NodeFetch(TOKEN, {there.tree: before.tree}, here)
    request = fetching.next_request()
    assert isinstance(request, wire.AskNodeDeltas)
    lie = delta.join([delta.encode(b"x" * 50, b"", request.key)])
    fetching.take_deltas(wire.NodeDeltas((50,), len(lie)), lie)
    again = fetching.next_request()
    assert again == wire.AskNodes(TOKEN, (there.tree,))


def test_what_was_not_asked_for_is_refused() -> None:
    there = tree_of(MemoryNodes(), {1: [1]})
    here = MemoryNodes()
    before = tree_of(here, {1: []})
    fetching = NodeFetch(TOKEN, {there.tree: before.tree}, here)
    request = fetching.next_request()
    assert isinstance(request, wire.AskNodeDeltas)
    one = delta.encode(b"x", b"", request.key)
    with pytest.raises(UnexpectedMessage):
        fetching.take_deltas(wire.NodeDeltas((1, 1), 1), delta.join([one, one]))
    with pytest.raises(MalformedMessage):
        fetching.take_deltas(wire.NodeDeltas((1,), 1), delta.join([one]))
    with pytest.raises(UnexpectedMessage):
        fetching.take_nodes(answer_nodes(before, (before.tree,)))


def test_no_ask_has_more_cut_than_an_answer_is_worth() -> None:
    files = [file(b"%06d" % number, b"x") for number in range(60_000)]
    nodes = MemoryNodes()
    large = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, files)), nodes)
    signed = delta.cut(nodes.read(large.tree), 1, average=delta.NODE_PIECE_BYTES)
    item = (large.tree, signed.signatures)
    answer, _ = answer_deltas(large, wire.AskNodeDeltas(TOKEN, 1, (item,) * 1000))
    assert 1 < sum(answer.sizes) // len(nodes.read(large.tree)) < 10


def test_a_node_of_another_tree_is_not_on_offer() -> None:
    manifest = tree_of(MemoryNodes(), {1: []})
    for answer in (
        lambda: answer_nodes(manifest, (digest_of(b"x"),)),
        lambda: answer_deltas(
            manifest, wire.AskNodeDeltas(TOKEN, 1, ((digest_of(b"x"), b""),))
        ),
    ):
        with pytest.raises(NotOffered):
            answer()


def test_what_is_settled_is_not_kept_a_second_time() -> None:
    there = tree_of(MemoryNodes(), {number: [] for number in range(200)})
    here = MemoryNodes()
    fetching = NodeFetch(TOKEN, {there.tree: None}, here)
    tracemalloc.start()
    try:
        while isinstance(request := fetching.next_request(), wire.AskNodes):
            fetching.take_nodes(answer_nodes(there, request.digests))
        came_bytes, _ = tracemalloc.get_traced_memory()
        fetching.settle()
        settled_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(here) == 201
    assert settled_bytes < came_bytes * 1.2


@pytest.mark.parametrize(("size", "missing"), [(MAX_NODES_BYTES, 0), (1, MAX_NODES)])
def test_a_tree_that_is_too_much_for_one_sync_is_told_how_it_comes(
    size: int, missing: int
) -> None:
    budget = NodeBudget()
    budget.take(1)
    with pytest.raises(
        MalformedManifest, match=r"1,024 MiB of names; sync directories of it one"
    ):
        budget.take(size, missing=missing)
