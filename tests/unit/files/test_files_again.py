"""A copy on top of what an earlier one has made: the same tree as on the base, with less to do."""

import errno
import os
import struct
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from filesync.disk.handles import DirectoryHandles
from filesync.errors import FilesyncError, StoreError
from filesync.manifest import Manifest, MemoryNodes
from filesync.process.wanted import NotWanted, until_given_up
from tests.unit.files.conftest import NOW_NS, manifest_of
from tests.unit.layers.layer_trees import Tree, build, trees
from worker.files import (
    Again,
    Basis,
    InputTree,
    given_to,
    perform,
    perform_again,
    plan_again,
)
from worker.files import again as planning
from worker.files.errors import BadMode
from worker.snapshots import Committed, open_snapshotter
from worker.wire.ops import Copy, FileOp

Listing = Mapping[str, str]
Lay = Callable[[Listing], Path]
Read = Callable[[Path], dict[str, str]]

EARLIER_NS = NOW_NS - 1_000_000_000
OWNERS: Mapping[str, tuple[int, int] | None] = {"": None, "7:8": (7, 8)}

pytestmark = pytest.mark.needs("root")

copies = st.builds(
    Copy,
    input=st.just(0),
    source=st.just("/"),
    dest=st.sampled_from(["/", "/a", "/b/c", "/x/y/"]),
    owner=st.sampled_from([*OWNERS]),
    mode=st.sampled_from(["", "", "0711", "go-rwx"]),
    exclude=st.sampled_from([(), (), ("a",), ("**/b",)]),
)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have little be worth it, too."""
    monkeypatch.setattr(planning, "LEAST_KEPT", 0)
    monkeypatch.setattr(planning, "LEAST_TIMES", 0)


def merged(tree: Tree, changes: Tree) -> Tree:
    """Return ``tree`` with ``changes`` over it; a change that is empty removes a name."""
    result = dict(tree)
    for name, what in changes.items():
        old = tree.get(name)
        if isinstance(what, dict) and isinstance(old, dict):
            result[name] = merged(old, what)
        elif what == {}:
            result.pop(name, None)
        else:
            result[name] = what
    return result


def plan_of(op: Copy, given: Manifest, base: Manifest, earlier: Manifest) -> Again | None:
    basis = Basis(base, earlier, OWNERS[op.owner], (os.geteuid(), os.getegid()))
    directory = given_to(op, given)
    return None if directory is None else plan_again(op, directory, basis)


def copied(op: Copy, source: Path, root: Path, now_ns: int = NOW_NS) -> Path:
    given = InputTree(source, manifest_of(source))
    perform(FileOp((op,), scratch=True), root=root, inputs={0: given}, now_ns=now_ns)
    return root


def copied_again(op: Copy, source: Path, base: Path, root: Path) -> Again | None:
    """Make in ``root``, where a copy was made, what ``op`` makes of ``base``, if there is a plan."""
    plan = plan_of(op, manifest_of(source), manifest_of(base), manifest_of(root))
    if plan is not None:
        perform_again(op, plan, root=root, source=source, now_ns=NOW_NS)
    return plan


@pytest.mark.usefixtures("eager")
@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=300,
)
@given(base=trees, tree=trees, changes=trees, op=copies, first=copies, is_same=st.booleans())
@example(
    base={b"a": {b"b": ("file", 1, b"x")}},
    tree={b"b": ("file", 1, b"z"), b"c": {b"d.d": ("fifo", 0, b"")}},
    changes={b"c": {b"a": ("file", 2, b"new")}},
    op=Copy(0, "/", "/a"),
    first=Copy(0, "/", "/a"),
    is_same=True,
)
def test_what_a_copy_makes_of_an_earlier_one_is_what_it_makes_of_the_base(
    base: Tree, tree: Tree, changes: Tree, op: Copy, first: Copy, is_same: bool
) -> None:
    with tempfile.TemporaryDirectory() as made:
        at = Path(made)
        bare, root, again = (build(at / name, base) for name in ("bare", "root", "again"))
        old, new = build(at / "old", tree), build(at / "new", merged(tree, changes))
        try:
            copied(op if is_same else first, old, again, EARLIER_NS)
        except FilesyncError:
            return
        try:
            copied(op, new, root)
        except FilesyncError:
            with suppress(FilesyncError):
                assert copied_again(op, new, bare, again) is None
            return
        plan = copied_again(op, new, bare, again)
        event("planned" if plan is not None else "not planned")
        if plan is not None:
            assert manifest_of(again).tree == manifest_of(root).tree


@pytest.mark.usefixtures("eager")
@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=50,
    deadline=None,
)
@given(base=trees, tree=trees, changes=trees, op=copies)
def test_on_an_overlay_of_the_earlier_one_the_tree_is_the_same_as_on_one_of_the_base(
    base: Tree, tree: Tree, changes: Tree, op: Copy
) -> None:
    nodes = MemoryNodes()
    with ExitStack() as stack:
        at = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        old, new = build(at / "old", tree), build(at / "new", merged(tree, changes))
        snapshotter = open_snapshotter(at / "snapshots", nodes, kind="overlay")
        stack.callback(snapshotter.close)

        def made(on: str | None, do: Callable[[Path], object]) -> Committed:
            active = snapshotter.prepare(on)
            try:
                do(active.path)
            except FilesyncError:
                snapshotter.discard(active)
                raise
            return snapshotter.commit(active)

        bare = made(None, lambda root: build_in(root, base))
        try:
            earlier = made(bare.id, lambda root: copied(op, old, root, EARLIER_NS))
            whole = made(bare.id, lambda root: copied(op, new, root))
        except FilesyncError:
            return
        in_both = Manifest(bare.tree, nodes), Manifest(earlier.tree, nodes)
        plan = plan_of(op, manifest_of(new), *in_both)
        event("planned" if plan is not None else "not planned")
        if plan is not None:
            again = made(
                earlier.id,
                lambda root: perform_again(op, plan, root=root, source=new, now_ns=NOW_NS),
            )
            assert again.tree == whole.tree
            with snapshotter.view(again.id) as view:
                assert manifest_of(view.path).tree == whole.tree


def build_in(root: Path, tree: Tree) -> None:
    """Make ``tree`` in a directory that is there."""
    made = build(root / "made", tree)
    for path in made.iterdir():
        path.rename(root / path.name)
    made.rmdir()


def many(edited: str = "") -> dict[str, str]:
    """Return a tree of ten directories of ten files each."""
    return {f"d{n // 10}/f{n}": edited if n == 42 and edited else f"{n}" for n in range(100)}


def many_at(above: str) -> dict[str, str]:
    return {f"{above}/{name}": text for name, text in many().items()}


BASE: Listing = {"etc/passwd": "root", "etc/group": "", "app/kept": "of the base"}
OP = Copy(0, "/", "/app")


@pytest.fixture
def rest(lay: Lay) -> Lay:
    """Lay a tree whose times are those of any other."""

    def make(tree: Listing) -> Path:
        root = lay(tree)
        for path in [*root.rglob("*"), root]:
            os.utime(path, ns=(NOW_NS, NOW_NS), follow_symlinks=False)
        return root

    return make


def test_of_an_edited_and_a_new_file_only_these_are_copied(rest: Lay, read: Read) -> None:
    root = copied(OP, rest({**many(), "d5/gone": "gone"}), rest(BASE))
    source = rest({**many("edited"), "d4/new": "new"})
    plan = copied_again(OP, source, rest(BASE), root)
    assert plan is not None
    assert [target for _, _, target in plan.copied] == [b"app/d4/f42", b"app/d4/new"]
    assert plan.removed == [b"app/d5/gone"]
    assert plan.made == []
    assert sorted(target for _, target in plan.finished) == [b"app/d4", b"app/d5"]
    assert read(root) == read(copied(OP, source, rest(BASE)))


def test_of_a_tree_that_is_the_same_nothing_is_read(rest: Lay) -> None:
    source = rest(many())
    plan = plan_of(
        OP,
        manifest_of(source),
        manifest_of(rest(BASE)),
        manifest_of(copied(OP, source, rest(BASE))),
    )
    assert plan is not None
    assert plan == Again(plan.manifest, None, b"app", NOW_NS, kept=110)


@pytest.mark.parametrize(
    ("base", "old", "new", "op"),
    [
        (BASE, {}, many(), OP),
        (BASE, dict(list(many().items())[:60]), many(), OP),
        (BASE, many(), many(), Copy(0, "/", "/app", owner="7:8")),
        (BASE, {**many(), "kept": "mine"}, many(), OP),
        ({"etc/passwd": "root", "app": "-> /etc"}, many(), many(), OP),
        (BASE, many(), {**many(), "kept/is": "a directory"}, OP),
        (BASE, many(), many(), Copy(0, "/d1/f10", "/app")),
    ],
    ids=[
        "nothing is there",
        "too little is there",
        "all has another owner",
        "the earlier copy has replaced what is in the base",
        "a link on the way",
        "a directory meets a file of the base",
        "a file is copied",
    ],
)
def test_what_cannot_be_made_of_an_earlier_copy_or_not_for_less_is_made_of_the_base(
    rest: Lay, base: Listing, old: Listing, new: Listing, op: Copy
) -> None:
    root = copied(Copy(0, "/", "/app"), rest(old), rest(base))
    before = manifest_of(root).tree
    assert copied_again(op, rest(new), rest(base), root) is None
    assert manifest_of(root).tree == before


@pytest.mark.parametrize("new", [{"big": "edited"}, {}], ids=["edited", "gone"])
def test_what_would_keep_much_that_is_in_no_tree_any_more_is_made_of_the_base(
    rest: Lay, new: Listing
) -> None:
    big = "1" * 500_000
    root = copied(OP, rest({**many(), "big": big}), rest(BASE))
    assert copied_again(OP, rest({**many(), **new}), rest(BASE), root) is None
    assert copied_again(OP, rest({**many("edited"), "big": big}), rest(BASE), root) is not None


def test_a_tree_of_which_more_was_made_is_no_basis(rest: Lay) -> None:
    source = rest(many())
    root = copied(OP, source, rest(BASE))
    (root / "etc/more").write_text("more")
    assert copied_again(OP, source, rest(BASE), root) is None


def test_a_tree_whose_root_has_another_time_is_no_basis(rest: Lay) -> None:
    source, base = manifest_of(rest(many())), rest({"etc/passwd": "root"})
    earlier = copied(OP, rest(many()), base)
    bare = manifest_of(rest({"etc/passwd": "root"}))
    assert plan_of(OP, source, bare, manifest_of(earlier)) is not None
    os.utime(earlier, ns=(EARLIER_NS, EARLIER_NS))
    assert plan_of(OP, source, bare, manifest_of(earlier)) is None


def test_of_a_root_of_no_time_all_is_copied(rest: Lay) -> None:
    source = rest(many())
    os.utime(source, ns=(0, 0))
    assert given_to(OP, manifest_of(source)) is None


def test_where_what_is_made_gets_an_acl_nothing_is_taken_for_a_copy(rest: Lay) -> None:
    acl = struct.pack("<I", 2)
    for tag, of in ((1, -1), (2, 7), (4, -1), (16, -1), (32, -1)):
        acl += struct.pack("<HHi", tag, 7, of)
    source, base, root = rest(many()), rest(BASE), rest({**BASE, **many_at("app")})
    for tree in (base, root):
        os.setxattr(tree / "app", "system.posix_acl_default", acl)
    assert copied_again(OP, source, base, root) is None


def test_names_of_one_file_are_copied_anew(rest: Lay) -> None:
    source = rest(many())
    os.link(source / "d1/f11", source / "d2/linked")
    root = copied(OP, source, rest(BASE))
    assert copied_again(OP, source, rest(BASE), root) is None


def test_what_is_no_mode_is_said_as_of_a_copy(rest: Lay) -> None:
    source = rest(many())
    root = copied(OP, source, rest(BASE))
    with pytest.raises(BadMode):
        copied_again(Copy(0, "/", "/app", mode="999"), source, rest(BASE), root)


def test_of_names_that_go_none_is_looked_for_among_those_that_went(
    rest: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(OP, rest({**many(), **{f"d{n}/gone": "" for n in range(10)}}), rest(BASE))
    looked_for: list[bytes] = []
    forget = DirectoryHandles.forget

    def counted(self: DirectoryHandles, path: bytes) -> None:
        looked_for.append(path)
        forget(self, path)

    monkeypatch.setattr(DirectoryHandles, "forget", counted)
    plan = copied_again(OP, rest(many()), rest(BASE), root)
    assert plan is not None
    assert len(plan.removed) == 10
    assert not any(looked_for)


def test_names_that_go_stay_when_nobody_waits_any_more(rest: Lay) -> None:
    root = copied(OP, rest({**many(), "d5/gone": "gone"}), rest(BASE))
    source = rest(many())
    plan = plan_of(OP, manifest_of(source), manifest_of(rest(BASE)), manifest_of(root))
    assert plan is not None
    with until_given_up() as given_up:
        given_up.set()
        with pytest.raises(NotWanted):
            perform_again(OP, plan, root=root, source=source, now_ns=NOW_NS)
    assert (root / "app/d5/gone").exists()


def test_what_this_machine_refuses_is_said_as_of_a_copy(
    rest: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, base = copied(OP, rest(many()), rest(BASE)), rest(BASE)
    source = rest({**many(), "d10/new": "new"})
    plan = plan_of(OP, manifest_of(source), manifest_of(base), manifest_of(root))
    assert plan is not None

    def refuse(fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "dup", refuse)
    with pytest.raises(StoreError, match=r"app/d10'.*ulimit"):
        perform_again(OP, plan, root=root, source=source, now_ns=NOW_NS)
