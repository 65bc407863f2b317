"""Trees with planted links: nothing outside the root is read or written, at any position."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filesync.disk.removing import remove_path
from filesync.disk.scanning.scan import scan
from filesync.errors import FilesyncError
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes, Subdirectory
from filesync.trees.select import select
from tests.deep import dig
from worker.files import InputTree, perform
from worker.wire.ops import (
    Action,
    Copy,
    FileOp,
    MakeDirectory,
    MakeFile,
    selector_of,
)

Lay = Callable[[Mapping[str, str]], Path]
Run = Callable[..., object]

ACTIONS: list[Action] = [
    Copy(0, "f", "/a/b/c"),
    Copy(0, "f", "/a/b/c/"),
    Copy(0, "d", "/a/b"),
    Copy(0, "d", "/a/b/c"),
    Copy(0, "d/dir/file", "/a/b", parents=True),
    Copy(0, "*", "/a", wildcard=True),
    MakeDirectory("/a/b/c/d"),
    MakeFile("/a/b/c", b"written"),
    MakeFile("/a/b/c/passwd", b"written"),
]
SOURCE = {"f": "new", "d/dir/file": "new", "d/c": "new", "d/passwd": "new", "b": "new"}


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("planted", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
@pytest.mark.parametrize("leads_to", ["", "/dir", "/passwd"])
def test_a_planted_link_leads_nowhere_but_into_the_root(
    lay: Lay,
    run: Run,
    outside: Path,
    action: Action,
    planted: str,
    absolute: bool,
    leads_to: str,
) -> None:
    root = lay({})
    target = f"{outside}{leads_to}"
    text = target if absolute else os.path.relpath(target, (root / planted).parent)
    (root / planted).parent.mkdir(parents=True, exist_ok=True)
    (root / planted).symlink_to(text)

    try:
        run(root, action, source=lay(SOURCE))
    except FilesyncError:
        pass

    # That the outside is as it was is checked by its fixture; nor may it have been read.
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.read_text() in ("new", "written")


def test_the_trees_own_account_files_may_be_links_too(lay: Lay, run: Run) -> None:
    elsewhere = lay({"passwd": "me:x:7:8::/:\n"})
    root = lay({"etc/passwd": f"-> {elsewhere}/passwd"})

    with pytest.raises(FilesyncError, match="'me'"):
        run(root, Copy(0, "f", "/x", owner="me"), source=lay(SOURCE))


@pytest.mark.parametrize("text", ["self", "../a/self", "/a/self", "other/x"])
@pytest.mark.parametrize("action", ACTIONS[:5] + ACTIONS[6:9], ids=str)
def test_loops_end_in_an_error_of_ours(lay: Lay, run: Run, action: Action, text: str) -> None:
    root = lay({"a/self": f"-> {text}", "a/other": "-> self", "a/b": "-> self"})

    with pytest.raises(FilesyncError):
        run(root, action, source=lay(SOURCE))


def test_a_link_planted_by_one_action_does_not_lead_the_next_out(
    lay: Lay, run: Run, outside: Path
) -> None:
    root = lay({})

    run(
        root,
        Copy(0, "links", "/a"),
        Copy(0, "f", "/a/dir/file"),
        source=lay(SOURCE | {"links/dir": f"-> {outside}/dir"}),
    )

    assert (root / str(outside)[1:] / "dir/file").read_text() == "new"


def test_names_of_any_bytes_are_copied(lay: Lay) -> None:
    source = lay({})
    names = [b"\xff\xfe", b"new\nline", b"\x1b[0m", b"...", b"..x", b"-rf", b"*", "é".encode()]
    for name in names:
        with open(os.fsencode(source) + b"/" + name, "wb") as file:
            file.write(name)
    nodes = MemoryNodes()
    given_tree = InputTree(source, Manifest(scan(source, nodes).tree, nodes))
    root = lay({})

    perform(
        FileOp((Copy(0, "/", "/"), Copy(0, r"\*", "/star/", wildcard=True)), scratch=True),
        root=root,
        inputs={0: given_tree},
        now_ns=None,
    )

    assert sorted(os.listdir(os.fsencode(root))) == sorted([*names, b"star"])
    assert os.listdir(root / "star") == ["*"]


def test_a_deep_tree_needs_few_descriptors(lay: Lay) -> None:
    source = lay({})
    fd = dig(source, 1200)
    os.mknod("bottom", stat.S_IFREG | 0o644, dir_fd=fd)
    os.close(fd)
    nodes = MemoryNodes()
    given_tree = InputTree(source, Manifest(scan(source, nodes).tree, nodes))
    root = lay({})

    op = FileOp((Copy(0, "/", "/"),), scratch=True)
    hints = perform(op, root=root, inputs={0: given_tree}, now_ns=None).hints

    assert list(hints) == [b"d/" * 1200 + b"bottom"]
    # pytest removes its directories by recursion.
    for top in (source, root):
        remove_path(top / "d")


NAMES = st.sampled_from(["a", "b", "c", "a.o"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TEXTS = st.one_of(
    PATHS, PATHS.map("/{}".format), PATHS.map("../{}".format), PATHS.map("../../../{}".format)
)
VALUES = st.one_of(
    st.just(""), st.text("xy", min_size=1, max_size=3), TEXTS.map("-> {}".format)
)
TREES = st.dictionaries(PATHS, VALUES, max_size=8)
PATTERNS = ["*", "a/*", "*/*", "[ab]", "*.o", "./*/a", "*/./*", "a/../b", "/"]
EXCLUDES = st.lists(
    st.sampled_from(["a", "*.o", "**/a", "b", "!b/a", "*", "!**/c"]), max_size=2
).map(tuple)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, str], list[Copy]]:
    """A source, the tree that is there, and copies of what the source mostly has."""
    source = draw(TREES)
    paths = st.sampled_from([*source, *(path.replace("/", "/./", 1) for path in source), "a"])
    copies = st.builds(
        Copy,
        input=st.just(0),
        source=st.one_of(paths, st.sampled_from(PATTERNS)),
        dest=st.one_of(TEXTS, PATHS.map("{}/".format), st.just("/")),
        exclude=EXCLUDES,
        wildcard=st.just(True) | st.booleans(),
        parents=st.booleans(),
    )
    return source, draw(TREES), draw(st.lists(copies, min_size=1, max_size=3))


def plant_any(root: Path, tree: Mapping[str, str]) -> None:
    """Plant what fits; what a link would lead elsewhere is left out."""
    root.mkdir()
    for name, value in tree.items():
        path = root / name
        above = [root / Path(name).parents[i] for i in range(len(Path(name).parents) - 1)]
        if os.path.lexists(path) or any(
            p.is_symlink() or (p.exists() and not p.is_dir()) for p in above
        ):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if value.startswith("-> "):
            path.symlink_to(value[3:])
        else:
            path.write_text(value)


def outcome(op: FileOp, base: Mapping[str, str], source: InputTree, root: Path) -> object:
    plant_any(root, base)
    for path in (root, *root.rglob("*")):
        os.utime(path, ns=(7, 7), follow_symlinks=False)
    try:
        perform(op, root=root, inputs={0: source}, now_ns=7)
    except FilesyncError as error:
        return type(error)
    return scan(root, MemoryNodes()).tree


@given(case=cases())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_a_subset_gives_what_the_whole_input_gives(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[dict[str, str], dict[str, str], list[Copy]],
) -> None:
    source, base, copies = case
    top = tmp_path_factory.mktemp("t")
    plant_any(top / "source", source)
    nodes = MemoryNodes()
    whole = InputTree(top / "source", Manifest(scan(top / "source", nodes).tree, nodes))
    op = FileOp(tuple(copies), scratch=True)
    selector = selector_of(op, 0)
    assert selector is not None
    try:
        subset = select(whole.manifest, selector, LayeredNodes(MemoryNodes(), nodes))
    except FilesyncError:
        subset = None
    if subset is None:
        # What the selector cannot name, the op cannot either.
        assert isinstance(outcome(op, base, whole, top / "x"), type)
        return
    (top / "part").mkdir()
    for path, entry in subset.walk():
        if isinstance(entry, Subdirectory):
            (top / "part" / os.fsdecode(path)).mkdir()
        else:
            target = top / "part" / os.fsdecode(path)
            os.link(top / "source" / os.fsdecode(path), target, follow_symlinks=False)
    part = InputTree(top / "part", subset)

    assert outcome(op, base, whole, top / "a") == outcome(op, base, part, top / "b")
