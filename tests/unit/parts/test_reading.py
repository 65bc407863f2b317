"""Paths of an image out of a registry that does wrong: retries, clear errors, nothing half-kept."""

import asyncio
import gzip
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from filesync.errors import StoreError
from filesync.manifest import MemoryNodes
from filesync.trees.select import Pick, Selector
from tests.unit.registry.faulty import (
    CONFIG_TYPE,
    MANIFEST_TYPE,
    Fault,
    FaultyRegistry,
)
from worker.blobs import BlobStore
from worker.layers import BadLayer
from worker.layers.estargz import EstargzWriter
from worker.layers.member import DIRECTORY, END, FILE, LINK, SYMLINK, Member, encode, padding
from worker.parts.errors import NotInParts
from worker.parts.reading_http import ImageReader
from worker.parts.spool import Spool
from worker.parts.streaming import through_pipe
from worker.registry import BadRegistry, Host, Registries, RegistryUnavailable
from worker.registry.client_http import SILENT_S, RegistryClient
from worker.registry.images_http import Pulls
from worker.registry.repository_http import places
from worker.wire.images import Reference

BIG = random.Random(5).randbytes(9_000_000)
Parts = Sequence[tuple[Member, bytes]]

TOP: Parts = [
    (Member(b"etc/", DIRECTORY, 0o755), b""),
    (Member(b"etc/name", FILE, 0o644, size=4), b"name"),
    (Member(b"etc/.wh.gone", FILE), b""),
]
BOTTOM: Parts = [
    (Member(b"big", FILE, 0o600, size=len(BIG)), BIG),
    (Member(b"etc/", DIRECTORY, 0o700), b""),
    (Member(b"etc/gone", FILE, 0o644, size=4), b"gone"),
    (Member(b"etc/old", FILE, 0o644, size=3), b"old"),
    (Member(b"etc/same", LINK, link=b"etc/old"), b""),
    (Member(b"link", SYMLINK, 0o777, link=b"etc/old"), b""),
]


def tar(parts: Parts) -> bytes:
    out = bytearray()
    for member, data in parts:
        out += encode(member) + data + bytes(padding(member.size))
    return bytes(out) + END


def gzipped(parts: Parts) -> tuple[bytes, dict[str, str]]:
    return gzip.compress(tar(parts), 1, mtime=0), {}


def seekable(parts: Parts) -> tuple[bytes, dict[str, str]]:
    writer = EstargzWriter(1)
    blob = b"".join(writer.blocks((member, [data]) for member, data in parts))
    return blob, dict(writer.annotations)


Form = Callable[[Parts], tuple[bytes, dict[str, str]]]
FORMS = pytest.mark.parametrize("form", [gzipped, seekable])


class Image:
    """An image in a faulty registry, its bottom layer first, and a worker's half of reading it."""

    def __init__(self, registry: FaultyRegistry, root: Path) -> None:
        self.registry = registry
        self.blobs = BlobStore(root / "blobs")
        self.spool = root / "spool"
        self.mirrors: tuple[str, ...] = ()
        self.came = self.expected = 0
        self.layers: list[str] = []
        self.digest = ""
        self.silent_s = SILENT_S

    def add(self, form: Form, *layers: Parts) -> None:
        described = []
        for blob, annotations in map(form, layers):
            kind = "application/vnd.oci.image.layer.v1.tar+gzip"
            added = self.registry.add_blob(blob)
            described.append({"mediaType": kind, **added, "annotations": annotations})
        value = {
            "schemaVersion": 2,
            "config": {"mediaType": CONFIG_TYPE, **self.registry.add_blob(b"{}")},
            "layers": described,
        }
        self.layers = [str(one["digest"]) for one in described]
        self.digest = self.registry.add_manifest("1", value, MANIFEST_TYPE)

    def path(self, number: int) -> str:
        """Return where a layer is asked for, for ``faults``."""
        return f"app/blobs/{self.layers[number]}"

    def read(self, *paths: str) -> dict[str, bytes]:
        """Return the contents of the files that are found, by path."""
        return asyncio.run(
            self._read(Selector(tuple(Pick(path, wildcard=True) for path in paths)))
        )

    async def _read(self, selector: Selector) -> dict[str, bytes]:
        self.came = self.expected = 0
        self.spool.mkdir()
        spool = Spool(self.spool)
        host = Host(http=True, mirrors=self.mirrors)
        hosts = {self.registry.host: host, **{one: Host(http=True) for one in self.mirrors}}
        async with RegistryClient(Registries(hosts), silent_s=self.silent_s) as client:
            image = Reference(self.registry.host, "app", "", self.digest)
            where = places(client, image)
            manifest = await Pulls(self.blobs).manifest(where, image)
            reader = ImageReader(
                where, manifest, self.blobs, spool, expect=self._expect, on_bytes=self._count
            )
            found = await reader.read(selector)
        contents, tree = spool.contents(found.files())
        leaves = {
            path.decode(): found.leaves[entry.digest]
            for path, entry in found.manifest.walk()
            if hasattr(entry, "digest")
        }
        assert found.proved(contents, MemoryNodes()).summary.entries > 0 or not leaves
        return {
            path: (tree.root / f"{leaf.layer}-{leaf.number}").read_bytes()
            if leaf.member.size
            else b""
            for path, leaf in leaves.items()
        }

    def _count(self, size: int) -> None:
        self.came += size

    def _expect(self, size: int) -> None:
        self.expected += size


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.registry.retry.FIRST_WAIT_S", 0.001)


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as running:
        yield running


@pytest.fixture
def image(registry: FaultyRegistry, tmp_path: Path) -> Image:
    return Image(registry, tmp_path)


# --- what comes -------------------------------------------------------------------------------


@FORMS
def test_what_is_asked_for_is_read_and_what_is_whited_out_is_not(
    form: Form, image: Image
) -> None:
    image.add(form, BOTTOM, TOP)
    assert image.read("etc") == {"etc/name": b"name", "etc/old": b"old", "etc/same": b"old"}


def test_of_a_plain_layer_nothing_is_kept_but_what_was_asked_for(image: Image) -> None:
    image.add(gzipped, BOTTOM, TOP)
    image.read("etc/*")
    # Both names of a hard link are one content, and what is whited out was never kept.
    assert sorted(path.name for path in image.spool.iterdir()) == ["0-1", "1-3"]


def test_of_a_layer_with_a_table_just_the_chunks_come(image: Image) -> None:
    image.add(seekable, BOTTOM, TOP)
    assert image.read("etc/old") == {"etc/old": b"old"}
    assert image.came < 4000
    assert not any("Range" not in one.headers for one in image.registry.asked("/blobs/"))


def test_layers_below_what_is_found_are_not_asked_for(image: Image) -> None:
    image.add(gzipped, BOTTOM, TOP)
    assert image.read("etc/name", "etc/gone") == {"etc/name": b"name"}
    assert not image.registry.asked(image.layers[0])


def test_a_large_file_comes_in_several_ranges(image: Image) -> None:
    image.add(seekable, BOTTOM)
    assert image.read("big") == {"big": BIG}
    assert len(image.registry.asked("/blobs/")) == 4  # footer, table, two of chunks
    assert image.came <= len(BIG) * 1.01


def test_a_plain_layer_is_read_once_more_where_nobody_could_know(image: Image) -> None:
    late: Parts = [*BOTTOM[1:5], (Member(b"a", SYMLINK, 0o777, link=b"etc/old"), b"")]
    image.add(gzipped, late)
    assert image.read("a") == {"etc/old": b"old"}
    assert len(image.registry.asked("/blobs/")) == 2
    early: Parts = [late[-1], *late[:-1]]
    image.add(gzipped, early)
    image.spool.rename(image.spool.with_name("used"))
    assert image.read("a") == {"etc/old": b"old"}
    assert len(image.registry.asked(image.layers[0])) == 1


def test_a_layer_that_is_here_is_not_asked_for(image: Image) -> None:
    image.add(seekable, BOTTOM)
    image.blobs.ingest([image.registry.blobs[image.layers[0]]])
    assert image.read("etc/old", "big") == {"etc/old": b"old", "big": BIG}
    assert image.came == 0


def test_the_formats_own_files_are_none_of_the_image(image: Image) -> None:
    image.add(seekable, TOP)
    assert image.read("*", ".no*") == {"etc/name": b"name"}
    image.registry.ranges = False
    image.spool.rename(image.spool.with_name("used"))
    assert image.read("*", ".no*") == {"etc/name": b"name"}


def test_an_image_whose_layers_go_through_links_is_not_read_in_parts(image: Image) -> None:
    through: Parts = [(Member(b"link/x", FILE, size=1), b"x")]
    image.add(gzipped, BOTTOM, through)
    with pytest.raises(NotInParts):
        image.read("etc/name")


# --- registries that do wrong -----------------------------------------------------------------


def test_a_plain_layer_that_was_cut_goes_on_where_it_ended(image: Image) -> None:
    image.add(gzipped, BOTTOM)
    image.registry.faults[image.path(0)] = [Fault(cut=3_000_000)]
    assert image.read("big") == {"big": BIG}
    assert [one.headers.get("Range") for one in image.registry.asked("/blobs/")] == [
        None,
        "bytes=3000000-",
    ]


@FORMS
def test_a_registry_without_ranges_gives_the_same(form: Form, image: Image) -> None:
    image.add(form, BOTTOM)
    image.registry.ranges = False
    image.registry.faults[image.path(0)] = [Fault(cut=2_000_000)] if form is gzipped else []
    assert image.read("etc/old", "big") == {"etc/old": b"old", "big": BIG}


def test_a_registry_that_refuses_ranges_gives_the_same(image: Image) -> None:
    image.add(seekable, BOTTOM)
    image.registry.faults[image.path(0)] = [Fault(status=416, body=b"")]
    assert image.read("etc/old", "big") == {"etc/old": b"old", "big": BIG}


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(status=429, headers={"Retry-After": "0"}), Fault(cut=5)]
)
def test_a_range_that_failed_is_asked_for_again(fault: Fault, image: Image) -> None:
    image.add(seekable, BOTTOM)
    # The first two requests are those of the table.
    image.registry.faults[image.path(0)] = [fault]
    assert image.read("big") == {"big": BIG}


def test_a_registry_that_falls_silent_in_a_range_is_given_up_in_the_end(image: Image) -> None:
    image.add(seekable, BOTTOM)
    size = len(image.registry.blobs[image.layers[0]])
    said = {"Content-Range": f"bytes {size - 51}-{size - 1}/{size}"}
    silent = Fault(status=206, headers=said, body=bytes(51), stall=True, cut=0)
    image.registry.faults[image.path(0)] = [silent] * 10
    image.silent_s = 0.2
    with pytest.raises(RegistryUnavailable, match="silent"):
        image.read("big")


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Range": "bytes 0-9/100"}, {"Content-Range": "bytes */9"}]
)
def test_another_range_than_was_asked_for_is_refused(
    headers: dict[str, str], image: Image
) -> None:
    image.add(seekable, BOTTOM)
    image.registry.faults[image.path(0)] = [Fault(status=206, headers=headers, body=b"x" * 51)]
    with pytest.raises(BadRegistry, match="were asked for"):
        image.read("big")


def test_more_bytes_than_were_asked_for_are_refused(image: Image) -> None:
    image.add(seekable, BOTTOM)
    size = len(image.registry.blobs[image.layers[0]])
    said = {"Content-Range": f"bytes {size - 51}-{size - 1}/{size}"}
    image.registry.faults[image.path(0)] = [Fault(status=206, headers=said, body=b"x" * 52)]
    with pytest.raises(BadRegistry, match="more bytes"):
        image.read("big")


@FORMS
def test_a_blob_of_other_bytes_is_refused(form: Form, image: Image) -> None:
    image.add(form, BOTTOM)
    blob = image.registry.blobs[image.layers[0]]
    image.registry.blobs[image.layers[0]] = blob[:5_000_000] + b"!" + blob[5_000_001:]
    with pytest.raises(BadRegistry):
        image.read("big")


@pytest.mark.parametrize("at", [20, 5_000_000])
@FORMS
def test_a_mirror_that_gives_other_bytes_is_left_out(form: Form, at: int, image: Image) -> None:
    image.add(form, BOTTOM)
    with FaultyRegistry() as mirror:
        mirror.blobs, mirror.manifests = dict(image.registry.blobs), image.registry.manifests
        blob = mirror.blobs[image.layers[0]]
        mirror.blobs[image.layers[0]] = blob[:at] + b"!!!" + blob[at + 3 :]
        image.mirrors = (mirror.host,)
        assert image.read("big") == {"big": BIG}
        assert mirror.asked("/blobs/")


def test_a_layer_that_expands_without_end_is_refused(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.layers.apply.FREE_BYTES", 1 << 20)
    zeros = 40 << 20
    image.add(gzipped, [(Member(b"zeros", FILE, size=zeros), bytes(zeros))])
    monkeypatch.setattr("worker.layers.apply.EXPANSION", 10)
    with pytest.raises(BadLayer, match="over the limit"):
        image.read("zeros")


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"n" * 300])
@FORMS
def test_a_layer_with_a_name_that_leads_out_is_refused(
    form: Form, name: bytes, image: Image
) -> None:
    image.add(form, [(Member(name, FILE, size=1), b"x")])
    with pytest.raises(BadLayer):
        image.read("*")


# --- streams ----------------------------------------------------------------------------------


def test_more_streams_at_once_than_there_are_threads_all_come_to_their_end() -> None:
    async def one(number: int) -> int:
        async def give(put: Callable[[memoryview], None]) -> None:
            for _ in range(5):
                await asyncio.to_thread(put, memoryview(bytes(100_000)))

        return await through_pipe(give, lambda stream: number + len(stream.read()))

    async def all_of_them() -> list[int]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        return await asyncio.gather(*map(one, range(10)))

    assert asyncio.run(all_of_them()) == [500_000 + number for number in range(10)]


def test_work_that_fails_says_why_and_what_fails_before_it_comes_first() -> None:
    async def give(put: Callable[[memoryview], None]) -> None:
        await asyncio.to_thread(put, memoryview(bytes(3 << 20)))

    def full(stream: BinaryIO) -> None:
        raise StoreError("the disk is full")

    with pytest.raises(StoreError, match="full"):
        asyncio.run(through_pipe(give, full))

    def no_layer(stream: BinaryIO) -> None:
        raise BadLayer("no layer")

    async def lie(put: Callable[[memoryview], None]) -> None:
        await give(put)
        raise BadRegistry("other bytes")

    with pytest.raises(BadLayer):
        asyncio.run(through_pipe(give, no_layer))
    with pytest.raises(BadRegistry):
        asyncio.run(through_pipe(lie, no_layer))
