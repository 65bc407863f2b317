import random
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given

from filesync.digest import Digest, digest_of
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Symlink,
    put,
    subdirectory,
    with_entries,
)
from filesync.transfer.send.contents import (
    Contents,
    GrowingContents,
    Listed,
    PlacedContents,
    directories_of,
)
from tests.unit.made import file
from tests.unit.test_overlay import Shape, manifest, shapes


def three_levels() -> Manifest:
    """100 directories of 10 files below each of two directories, and a link beside them."""
    nodes = MemoryNodes()
    tops: list[Entry] = [Symlink(b"link", 0, 0, 0, b"0/0/0")]
    for top in range(2):
        below: list[Entry] = [file(b"here", b"%d" % top)]
        for middle in range(100):
            files = [file(b"%d" % n, b"%d %d %d" % (top, middle, n)) for n in range(10)]
            tree = put(nodes, with_entries(EMPTY_DIRECTORY, files))
            below.append(subdirectory(nodes, b"%d" % middle, tree))
        tree = put(nodes, with_entries(EMPTY_DIRECTORY, below))
        tops.append(subdirectory(nodes, b"%d" % top, tree))
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, tops)), nodes)


def contents_of(manifest: Manifest) -> Contents:
    return Contents(manifest.nodes, directories_of(manifest))


def test_every_content_is_found_where_it_is() -> None:
    contents = contents_of(three_levels())
    for top in range(2):
        place = contents.find(digest_of(b"%d" % top))
        assert place is not None
        assert (place.directory, place.file.name) == (b"%d" % top, b"here")
        for middle in range(100):
            for n in range(10):
                place = contents.find(digest_of(b"%d %d %d" % (top, middle, n)))
                assert place is not None
                assert (place.directory, place.file.name) == (
                    b"%d/%d" % (top, middle),
                    b"%d" % n,
                )


def test_what_is_not_listed_is_not_found_even_if_its_digest_begins_alike() -> None:
    contents = contents_of(three_levels())
    listed = digest_of(b"0 0 0")
    assert contents.find(digest_of(b"another")) is None
    assert contents.find(Digest(listed[:4] + bytes(28))) is None
    assert contents.find(Digest(b"\xff" * 32)) is None


def test_a_content_that_several_files_have_is_found_in_one_of_them() -> None:
    nodes = MemoryNodes()
    files = [file(b"%d" % n, b"same") for n in range(5)]
    contents = contents_of(Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, files)), nodes))
    place = contents.find(digest_of(b"same"))
    assert place is not None
    assert place.file in files


@given(shapes)
def test_whatever_is_found_is_there_and_all_that_is_there_is_found(shape: Shape) -> None:
    tree = manifest(shape)
    contents = Contents(tree.nodes, directories_of(tree))
    for path, entry in tree.walk():
        if isinstance(entry, File):
            place = contents.find(entry.digest)
            assert place is not None
            assert place.file.digest == entry.digest
            assert tree.find(place.directory + b"/" + place.file.name) == place.file
        assert tree.find(path) == entry
    assert contents.find(digest_of(b"another")) is None


def test_of_a_growing_tree_few_directories_are_held_decoded_however_many_are_looked_into() -> (
    None
):
    nodes = MemoryNodes()
    contents = GrowingContents(nodes)
    for number in range(400):
        files = [file(b"%d" % n, b"%d %d" % (number, n)) for n in range(50)]
        directory = with_entries(EMPTY_DIRECTORY, files)
        tree = put(nodes, directory)
        contents.add([Listed(b"%d" % number, tree, directory.entries)])
    tracemalloc.start()
    try:
        for number in range(400):
            assert contents.find(digest_of(b"%d 7" % number)) is not None
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 100 * 50 * 300  # entries, of bytes each


def test_each_of_several_threads_that_search_a_growing_tree_at_once_finds_all_that_is_there() -> (
    None
):
    nodes = MemoryNodes()
    contents = GrowingContents(nodes)
    for number in range(20):
        directory = with_entries(EMPTY_DIRECTORY, [file(b"f", b"%d" % number)])
        contents.add([Listed(b"%d" % number, put(nodes, directory), directory.entries)])

    def missed(seed: int) -> int:
        wanted = random.Random(seed).choices([digest_of(b"%d" % n) for n in range(20)], k=5000)
        return sum(contents.find(digest) is None for digest in wanted)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the threads take turns within one search, too
    try:
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(missed, range(4))) == 0
    finally:
        sys.setswitchinterval(interval_s)


def test_a_file_that_stands_elsewhere_is_known_by_where_it_is_in_what_is_given() -> None:
    wanted = manifest({b"a": {b"f": b"1"}, b"g": b"2"})
    there = manifest({b"x": {b"a": {b"f": b"1"}}, b"y": {b"h": b"2", b"secret": b"3"}})
    contents = PlacedContents(wanted, there)
    for content, where, path in (
        (b"1", (b"x/a", b"f"), b"a/f"),
        (b"2", (b"y", b"h"), b"g"),
    ):
        found = contents.find(digest_of(content))
        assert found is not None
        assert (found.directory, found.file.name) == where
        assert found.path == path
    assert contents.find(digest_of(b"3")) is None
