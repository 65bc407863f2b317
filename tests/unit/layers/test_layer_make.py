import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest
import zstandard

from filesync.disk.scanning.scan import scan
from filesync.errors import StoreError
from filesync.manifest import Manifest, MemoryNodes
from worker.blobs import BlobStore
from worker.layers import (
    MEDIA_TYPES,
    LayerForm,
    apply_layer,
    make_layer,
    recompress,
    tar_size,
)
from worker.layers.make import tar_blocks
from worker.wire.images import Compression
from worker.wire.orders import Layer

NODES = MemoryNodes()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Return the roots of a tree and of one that came of it."""
    old, new = tmp_path / "old", tmp_path / "new"
    for root in (old, new):
        (root / "d/sub").mkdir(parents=True)
        for name in ("f", "d/a", "d/sub/x"):
            (root / name).write_text(name)
            os.utime(root / name, (5, 5))
        os.link(root / "f", root / "d/f2")
    (old / "d/gone").mkdir()
    (old / "to-dir").write_text("a file")
    (old / "to-file").mkdir()
    (new / "to-dir").mkdir()
    (new / "to-dir/in").write_text("in")
    (new / "to-file").write_text("large " * 600_000)
    (new / "d/a").write_text("changed")
    (new / "d/link").symlink_to("/f")
    (new / ("n" * 150)).touch()
    return old, new


def manifest(root: Path) -> Manifest:
    return Manifest(scan(root, NODES).tree, NODES)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD, Compression.NONE])
def test_a_layer_is_a_blob_with_all_that_oci_says_of_it(
    trees: tuple[Path, Path], blobs: BlobStore, compression: Compression
) -> None:
    old, new = map(manifest, trees)
    layer = make_layer(old, new, trees[1], blobs, LayerForm(compression))
    data = blobs.path(layer.digest).read_bytes()
    assert layer.media_type == MEDIA_TYPES[compression]
    assert (layer.size, layer.digest) == (
        len(data),
        f"sha256:{hashlib.sha256(data).hexdigest()}",
    )
    if compression is Compression.GZIP:
        data = gzip.decompress(data)
    elif compression is Compression.ZSTD:
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert layer.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert len(data) == tar_size(old, new)
    assert make_layer(old, new, trees[1], blobs, LayerForm(compression)) == layer


@pytest.mark.parametrize("name", ["d/a", "to-file"], ids=["small", "large"])
@pytest.mark.parametrize("change", ["other", "shorter", "longer", "gone", "link", "fifo"])
def test_a_tree_that_is_not_its_manifests_gives_no_layer(
    trees: tuple[Path, Path], blobs: BlobStore, name: str, change: str
) -> None:
    new = manifest(trees[1])
    path = trees[1] / name
    data = path.read_bytes()
    path.unlink()
    match change:
        case "other":
            path.write_bytes(data[:-1] + b"?")
        case "shorter":
            path.write_bytes(data[:-1])
        case "longer":
            path.write_bytes(data + b"?")
        case "link":
            path.symlink_to("d/f2")
        case "fifo":
            os.mkfifo(path)
        case _:
            assert change == "gone"
    with pytest.raises(StoreError, match=name):
        make_layer(None, new, trees[1], blobs)
    assert blobs.list() == []
    assert os.listdir(blobs.directory / "ingest") == []


@pytest.mark.needs("umoci", "root")
@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.NONE])
def test_umoci_unpacks_our_layers_to_the_same_tree(
    trees: tuple[Path, Path], blobs: BlobStore, tmp_path: Path, compression: Compression
) -> None:
    old, new = map(manifest, trees)
    layers = [
        make_layer(None, old, trees[0], blobs, LayerForm(compression)),
        make_layer(old, new, trees[1], blobs, LayerForm(compression)),
    ]
    write_image(blobs, layers)
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{blobs.directory}:test", tmp_path / "out"],
        check=True,
        capture_output=True,
    )
    # umoci gives the root the time at which it finished; it is not part of the content.
    assert manifest(tmp_path / "out").content == new.content


@pytest.mark.needs("umoci", "root")
def test_we_apply_the_layers_that_umoci_makes(trees: tuple[Path, Path], tmp_path: Path) -> None:
    image = tmp_path / "image"

    def umoci(*words: str | Path) -> None:
        subprocess.run(["umoci", *words], check=True, capture_output=True)

    umoci("init", "--layout", image)
    umoci("new", "--image", f"{image}:test")
    umoci("insert", "--image", f"{image}:test", trees[1], "/tree")
    umoci("insert", "--image", f"{image}:test", "--whiteout", "/tree/d/sub")
    store = BlobStore(image)
    (tmp_path / "out").mkdir()
    index = json.loads((image / "index.json").read_bytes())
    (descriptor,) = index["manifests"]
    for layer in json.loads(store.path(descriptor["digest"]).read_bytes())["layers"]:
        with store.open(layer["digest"]) as blob:
            apply_layer(blob, tmp_path / "out")
    assert not (tmp_path / "out/tree/d/sub").exists()
    assert (tmp_path / "out/tree/to-file").read_text() == "large " * 600_000
    assert (tmp_path / "out/tree/f").stat().st_nlink == 2


def write_image(blobs: BlobStore, layers: list[Layer]) -> None:
    """Make the store an image of ``layers``, called ``test``."""

    def add(value: object, kind: str) -> dict[str, object]:
        blob = blobs.ingest(io.BytesIO(json.dumps(value).encode()))
        media_type = f"application/vnd.oci.image.{kind}.v1+json"
        return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}

    rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    config = add({"architecture": "amd64", "os": "linux", "rootfs": rootfs}, "config")
    descriptors = [
        {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
        for layer in layers
    ]
    image = add({"schemaVersion": 2, "config": config, "layers": descriptors}, "manifest")
    image["annotations"] = {"org.opencontainers.image.ref.name": "test"}
    index = {"schemaVersion": 2, "manifests": [image]}
    (blobs.directory / "index.json").write_text(json.dumps(index))


def test_a_newest_time_changes_times_that_are_newer_and_nothing_else(
    trees: tuple[Path, Path], blobs: BlobStore
) -> None:
    new = manifest(trees[1])
    as_is, rewritten = (
        tar_members(blobs, make_layer(None, new, trees[1], blobs, form))
        for form in (
            LayerForm(Compression.NONE),
            LayerForm(Compression.NONE, newest_s=1000),
        )
    )
    assert {mtime for _, mtime in rewritten} == {5, 1000}
    assert rewritten == [(said, min(mtime, 1000)) for said, mtime in as_is]


def tar_members(blobs: BlobStore, layer: Layer) -> list[tuple[object, float]]:
    """Return all that a tar says of each member, and its time."""
    found: list[tuple[object, float]] = []
    with tarfile.open(blobs.path(layer.digest)) as tar:
        for one in tar:
            file = tar.extractfile(one) if one.isreg() else None
            data = b"" if file is None else file.read()
            owner = (one.uid, one.gid)
            said = (one.name, one.type, one.mode, owner, one.linkname, data)
            found.append((said, one.mtime))
    return found


def test_a_tar_comes_in_pieces_of_a_mebibyte_though_it_is_of_names_alone(
    tmp_path: Path,
) -> None:
    (tmp_path / "t").mkdir()
    for number in range(3000):
        (tmp_path / "t" / f"{number}").symlink_to("x")
    tree = manifest(tmp_path / "t")
    pieces = [len(piece) for piece in tar_blocks(None, tree, tmp_path / "t")]
    assert sum(pieces) == tar_size(None, tree) > 3 << 20
    assert max(pieces) < 2 << 20


def test_a_blob_that_is_not_the_layer_that_it_should_be_is_not_compressed_anew(
    trees: tuple[Path, Path], blobs: BlobStore
) -> None:
    layer = make_layer(None, manifest(trees[0]), trees[0], blobs)
    wrong = msgspec.structs.replace(layer, diff_id="sha256:" + "0" * 64)
    with pytest.raises(StoreError, match="does not hold the layer"):
        recompress(wrong, blobs, Compression.GZIP)
    assert [blob.digest for blob in blobs.list()] == [layer.digest]


def test_each_form_of_a_layer_has_a_name_of_its_own() -> None:
    forms = [
        LayerForm(compression, level, newest_s)
        for compression in Compression
        for level in (None, 1)
        for newest_s in (None, 1, 2)
    ]
    assert len(set(map(str, forms))) == len(forms)


def test_a_form_whose_tar_is_another_one_says_so() -> None:
    assert LayerForm(Compression.ESTARGZ).is_other_tar
    assert LayerForm(Compression.GZIP, newest_s=0).is_other_tar
    assert not any(
        LayerForm(one, level=1).is_other_tar for one in (Compression.GZIP, Compression.NONE)
    )
