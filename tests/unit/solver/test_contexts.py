"""Contexts: what the build reads of a directory, as the build sees it."""

import os
from pathlib import Path

import pytest

from filesync.disk.scanning.readfile import Keep, read_small
from filesync.errors import StoreError, UsageError
from filesync.manifest import Subdirectory
from filesync.trees.select import Pick, Selector
from solver.client.contexts import Context, NotInContext, scan_contexts

ALL = Selector((Pick("/"),))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "context"
    (place / "src").mkdir(parents=True)
    (place / "src" / "main.c").write_text("int")
    (place / "notes").write_text("text")
    (place / "link").symlink_to("notes")
    return place


def scanned(root: Path, selector: Selector = ALL, *, name: str = "context") -> Context:
    return scan_contexts({name: root}, {name: selector}, root / "Dockerfile")[name]


def paths(context: Context) -> list[str]:
    return [os.fsdecode(path) for path, _ in context.manifest.walk()]


def test_context_is_what_the_build_reads_of_it(root: Path) -> None:
    assert paths(scanned(root)) == ["link", "notes", "src", "src/main.c"]
    assert paths(scanned(root, Selector((Pick("src"),)))) == ["src", "src/main.c"]
    assert scan_contexts({"context": root}, {}, root / "Dockerfile") == {}


def test_a_scan_of_a_part_is_not_remembered_as_one_of_all(root: Path) -> None:
    part, whole = Selector((Pick("/src/main.c"),)), ["link", "notes", "src", "src/main.c"]
    for _ in range(2):
        assert paths(scanned(root, part)) == ["src", "src/main.c"]
        assert paths(scanned(root)) == whole


def test_a_scan_of_a_part_leaves_what_is_known_of_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filesync.disk.scanning.listing.is_racy", lambda *_, **__: False)
    (root / "docs").mkdir()
    (root / "docs" / "page").write_text("text")
    scanned(root)
    read: list[bytes] = []

    def spy(dirfd: int, name: bytes, path: bytes, keep: Keep | None = None) -> object:
        read.append(path)
        return read_small(dirfd, name, path, keep)

    monkeypatch.setattr("filesync.disk.scanning.reading.read_small", spy)
    scanned(root, Selector((Pick("docs"),)))
    scanned(root, Selector((Pick("src"),)))
    assert read == []


@pytest.mark.parametrize(
    ("pick", "found"),
    [
        (Pick("inside/to-notes"), ["inside", "inside/to-notes", "notes"]),
        (Pick("out/main.c"), ["out", "src", "src/main.c"]),
        (Pick("src/../notes"), ["notes"]),
        (Pick("o*", wildcard=True), ["out", "src", "src/main.c"]),
        (Pick("inside/*", wildcard=True), ["inside", "inside/to-notes", "notes"]),
    ],
)
def test_a_link_on_the_way_leads_where_no_step_names_anything(
    root: Path, pick: Pick, found: list[str]
) -> None:
    (root / "inside").mkdir()
    (root / "inside" / "to-notes").symlink_to("../notes")
    (root / "out").symlink_to("src")
    assert paths(scanned(root, Selector((pick,)))) == found


def test_all_is_owned_by_root(root: Path) -> None:
    if os.geteuid() == 0:
        for path in (root, *root.rglob("*")):
            os.chown(path, 1234, 1234, follow_symlinks=False)
    manifest = scanned(root).manifest
    owners = {(manifest.root.uid, manifest.root.gid)}
    for _, entry in manifest.walk():
        node = manifest.directory(entry.tree) if isinstance(entry, Subdirectory) else entry
        owners.add((node.uid, node.gid))
    assert owners == {(0, 0)}


def test_dockerignore_leaves_out_what_it_matches(root: Path) -> None:
    (root / ".dockerignore").write_text("# comment\nsrc\n!src/main.c\nnotes\n.dockerignore\n")
    assert paths(scanned(root)) == ["link", "src", "src/main.c"]


def test_dockerignore_beside_the_dockerfile_wins(root: Path) -> None:
    (root / ".dockerignore").write_text("src\n")
    (root / "Dockerfile.dockerignore").write_text("notes\n*ignore\n")
    assert paths(scanned(root)) == ["link", "src", "src/main.c"]


def test_each_context_has_a_dockerignore_of_its_own(root: Path) -> None:
    (root / ".dockerignore").write_text("src\n.dockerignore\n")
    (root / "Dockerfile.dockerignore").write_text("*\n")
    assert paths(scanned(root, name="other")) == ["Dockerfile.dockerignore", "link", "notes"]


def test_an_image_leaves_out_nothing(root: Path) -> None:
    (root / ".dockerignore").write_text("src\n")
    image = scan_contexts({"base": root}, {"base": ALL}, None, layouts={"base"})["base"]
    assert "src/main.c" in paths(image)


def test_missing_path_is_one_clear_sentence(root: Path) -> None:
    with pytest.raises(UsageError) as missing:
        scanned(root, Selector((Pick("src/none"),)))
    assert str(missing.value) == f"'src/none' is not in the context {root}"


def test_a_circle_of_links_is_one_clear_sentence(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    with pytest.raises(NotInContext) as circle:
        scanned(root, Selector((Pick("one"),)))
    assert circle.value.path == "one"
    sentence = f"'one': too many links on the way, or a circle of them, in the context {root}"
    assert str(circle.value) == sentence


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("src/main.h", "'src/main.h' is not in the context {root} (did you mean main.c?)"),
        ("/Src/main.c", "'Src/main.c' is not in the context {root} (did you mean src?)"),
        ("src/main.c/x", "'src/main.c/x' is not in the context {root}"),
        ("notes", "'notes' is in {root}, but its .dockerignore leaves it out"),
        ("deep/er/f", "'deep/er/f' is in {root}, but its .dockerignore leaves it out"),
        ("link", "'link' is not in the context {root}; .dockerignore may leave it out"),
        ("far/away", "'far/away' is not in the context {root}"),
    ],
)
def test_missing_path_says_what_was_meant_or_who_leaves_it_out(
    root: Path, path: str, sentence: str
) -> None:
    (root / ".dockerignore").write_text("notes\ndeep\n")
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/er/f").touch()
    with pytest.raises(UsageError) as missing:
        scanned(root, Selector((Pick(path),)))
    assert str(missing.value) == sentence.format(root=root)


def test_bad_pattern_names_its_file_and_line(root: Path) -> None:
    (root / ".dockerignore").write_text("good\n[bad\n")
    with pytest.raises(UsageError, match=r"\.dockerignore:2.*not a pattern"):
        scanned(root)


def test_dockerignore_that_is_not_text_is_one_sentence(root: Path) -> None:
    (root / ".dockerignore").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"\.dockerignore: "):
        scanned(root)


def test_missing_directory_is_one_sentence(root: Path) -> None:
    with pytest.raises(StoreError, match="none"):
        scanned(root / "none")


def test_change_of_a_file_is_seen_though_the_scan_remembers(root: Path) -> None:
    before = scanned(root).manifest.content
    assert scanned(root).manifest.content == before
    (root / "notes").write_text("TEXT")
    assert scanned(root).manifest.content != before
