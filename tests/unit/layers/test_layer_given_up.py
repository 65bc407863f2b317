"""Layers that take long, and nobody waits for any more."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from filesync.process.wanted import NotWanted, until_given_up
from worker.blobs import BlobStore
from worker.layers import LayerForm, apply_tar, make_layer
from worker.wire.images import Compression


def test_a_layer_that_nobody_wants_is_applied_no_further(tmp_path: Path) -> None:
    def endless() -> Iterator[bytes]:
        number = 0
        while True:
            yield tarfile.TarInfo(f"f{number}").tobuf()
            number += 1
            if number == 10:
                given_up.set()

    with until_given_up() as given_up, pytest.raises(NotWanted):
        apply_tar(endless(), tmp_path)
    assert len(os.listdir(tmp_path)) < 100


@pytest.mark.parametrize("compression", [Compression.ZSTD, Compression.ESTARGZ])
def test_a_layer_that_nobody_wants_is_made_no_further(
    tmp_path: Path, compression: Compression
) -> None:
    root, nodes = tmp_path / "root", MemoryNodes()
    root.mkdir()
    (root / "f").write_bytes(bytes(64 << 20))
    tree = Manifest(scan(root, nodes).tree, nodes)
    blobs = BlobStore(tmp_path / "blobs")
    with until_given_up() as given_up:
        given_up.set()
        with pytest.raises(NotWanted):
            make_layer(None, tree, root, blobs, LayerForm(compression))
    assert list((tmp_path / "blobs/blobs").rglob("sha256/*")) == []
