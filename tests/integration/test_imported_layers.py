"""Layers of strangers in a worker's store: one tree however trees are kept, or a refusal."""

import gzip
import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import scan
from filesync.errors import ContentCorrupt
from filesync.manifest import File, Manifest
from tests.unit.layers.test_layer_apply import Part, directory, file, link, tar
from worker.layers import Applied, BadLayer, Groups
from worker.layers.member import END, FILE, Member
from worker.moving import chains, imports
from worker.moving.errors import ImageMalformed
from worker.moving.given import GivenBlobs
from worker.store import Store, TreeView
from worker.wire.images import Layer

pytestmark = pytest.mark.needs("root")

TAR = "application/vnd.oci.image.layer.v1.tar"
LOWER = (directory(b"d"), file(b"a"), link(b"d/b", b"a"), link(b"e", b"a"), file(b"alone"))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def given(store: Store, directory: Path) -> GivenBlobs:
    return GivenBlobs(
        TreeView(Manifest(scan(directory, store.nodes).tree, store.nodes), directory)
    )


def named(directory: Path, data: bytes) -> str:
    """Write a blob as a layout has it; return its digest."""
    (directory / sha256(data).removeprefix("sha256:")).write_bytes(data)
    return sha256(data)


def gone(path: bytes) -> Part:
    return Member(path, FILE), b""


def applied(
    state: Path, snapshotter: str, layers: Sequence[Sequence[Part]]
) -> tuple[bytes, list[list[bytes]]]:
    """Return the digest of the tree that ``layers`` give, and its groups of hard links."""
    state.mkdir()
    (blobs := state / "given").mkdir()
    chain = []
    for parts in layers:
        data = tar(parts)
        digest = named(blobs, data)
        chain.append(Layer(TAR, digest, len(data), digest, True))
    with closing(Store.open(state, snapshotter=snapshotter)) as store:
        info = imports.import_layers(store, chain, given(store, blobs), ())
        groups: dict[bytes, list[bytes]] = {}
        with store.view(info.ref) as tree:
            for path, entry in tree.manifest.walk():
                if isinstance(entry, File) and entry.link:
                    groups.setdefault(entry.link, []).append(path)
        return info.tree, sorted(groups.values())


@pytest.mark.parametrize(
    ("upper", "groups"),
    [
        ((link(b"c", b"a"),), [[b"a", b"c", b"d/b", b"e"]]),
        ((link(b"c", b"d/b"), link(b"d/f", b"e")), [[b"a", b"c", b"d/b", b"d/f", b"e"]]),
        ((file(b"e", b"new"), link(b"c", b"a")), [[b"a", b"c", b"d/b"]]),
        ((link(b"c", b"a"), file(b"e", b"new")), [[b"a", b"c", b"d/b"]]),
        ((gone(b".wh.d"), link(b"c", b"a")), [[b"a", b"c", b"e"]]),
        ((link(b"c", b"a"), gone(b"d/.wh.b"), gone(b".wh.a")), [[b"c", b"e"]]),
        ((link(b"c", b"alone"),), [[b"a", b"d/b", b"e"], [b"alone", b"c"]]),
    ],
)
def test_a_link_to_a_lower_layers_file_leaves_its_other_names_together(
    tmp_path: Path, upper: Sequence[Part], groups: list[list[bytes]]
) -> None:
    overlay = applied(tmp_path / "overlay", "overlay", (LOWER, upper))
    copy = applied(tmp_path / "copy", "copy", (LOWER, upper))
    assert overlay == copy
    assert overlay[1] == groups


@pytest.mark.parametrize("snapshotter", ["overlay", "copy"])
def test_a_refusal_says_which_layer_and_which_member(tmp_path: Path, snapshotter: str) -> None:
    upper = (link(b"c", b"nothing"),)
    digest = hashlib.sha256(tar(upper)).hexdigest()
    with pytest.raises(
        BadLayer, match=f"^layer sha256:{digest}: 'c' cannot be a link to 'nothing'"
    ):
        applied(tmp_path / "state", snapshotter, (LOWER, upper))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_images_of_one_tree_in_other_bytes_keep_each_its_own_layers(
    tmp_path: Path, order: Sequence[int]
) -> None:
    (blobs_at := tmp_path / "given").mkdir()
    plain = tar(LOWER)
    padded = plain + bytes(512)
    blobs = [plain, gzip.compress(plain, mtime=0), padded]
    layers = [
        Layer(TAR, named(blobs_at, blob), len(blob), sha256(tar_bytes), True)
        for blob, tar_bytes in zip(blobs, (plain, plain, padded), strict=True)
    ]
    empty = [
        Layer(TAR, named(blobs_at, data), len(data), sha256(data), True) for data in (b"", END)
    ]
    (state := tmp_path / "state").mkdir()
    with closing(Store.open(state, snapshotter="copy")) as store:
        chains_of = [[layers[at], empty[at % 2]] for at in order]
        infos = [
            imports.import_layers(store, chain, given(store, blobs_at), ())
            for chain in chains_of
        ]
        assert len({info.tree for info in infos}) == 1
        for info, chain in zip(infos, chains_of, strict=True):
            assert [held.info.layer for held in store.refs.chain(info.ref)] == chain


@pytest.mark.parametrize("target", ["{outside}", "../outside", "pipe", "directory", "loop"])
def test_a_blob_that_is_a_link_out_of_what_was_given_is_not_read(
    tmp_path: Path, target: str
) -> None:
    data = tar(LOWER)
    outside = tmp_path / "outside"
    outside.write_bytes(data)
    (blobs := tmp_path / "given").mkdir()
    # What the link means inside is there, so that only following it shows the difference.
    inside = blobs / str(outside)[1:]
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"other")
    (blobs / "outside").write_bytes(b"other")
    os.mkfifo(blobs / "pipe")
    (blobs / "directory").mkdir()
    (blobs / "loop").symlink_to("loop")
    (blobs / sha256(data)[7:]).symlink_to(target.format(outside=outside))
    layer = Layer(TAR, sha256(data), len(data), sha256(data), True)
    (state := tmp_path / "state").mkdir()
    with (
        closing(Store.open(state, snapshotter="copy")) as store,
        pytest.raises((ImageMalformed, ContentCorrupt), match=sha256(data)),
    ):
        imports.import_layers(store, [layer], given(store, blobs), ())


def test_a_blob_may_be_a_link_inside_what_was_given(tmp_path: Path) -> None:
    data = tar(LOWER)
    (blobs := tmp_path / "given").mkdir()
    (blobs / "elsewhere").write_bytes(data)
    (blobs / sha256(data)[7:]).symlink_to("/elsewhere")
    layer = Layer(TAR, sha256(data), len(data), sha256(data), True)
    (state := tmp_path / "state").mkdir()
    with closing(Store.open(state, snapshotter="copy")) as store:
        assert imports.import_layers(store, [layer], given(store, blobs), ()).layer == layer


def test_what_a_worker_cannot_keep_of_a_layer_is_said_by_kind_and_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = Layer(TAR, sha256(b"tar"), 3, sha256(b"tar"), True)

    def unpack(root: Path, groups: Groups) -> Applied:
        return Applied(layer.diff_id, layer.size, {}, {"xattr": 1, "owner": 4})

    with closing(Store.open(tmp_path, snapshotter="copy")) as store:
        chains.apply(store, layer, None, (), unpack, known=None)
    assert f"layer={layer.digest} lacking=owner:4,xattr:1" in caplog.text
