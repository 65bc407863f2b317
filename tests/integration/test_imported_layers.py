"""Layers of strangers in a worker's store: one tree however trees are kept, or a refusal."""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from filesync.manifest import File
from tests.unit.layers.test_layer_apply import Part, directory, file, link, tar
from worker.layers import BadLayer
from worker.layers.member import FILE, Member
from worker.moving import chains
from worker.store import Store
from worker.wire.images import Layer

pytestmark = pytest.mark.needs("root")

TAR = "application/vnd.oci.image.layer.v1.tar"
LOWER = (directory(b"d"), file(b"a"), link(b"d/b", b"a"), link(b"e", b"a"), file(b"alone"))


def gone(path: bytes) -> Part:
    return Member(path, FILE), b""


def applied(
    state: Path, snapshotter: str, layers: Sequence[Sequence[Part]]
) -> tuple[bytes, list[list[bytes]]]:
    """Return the digest of the tree that ``layers`` give, and its groups of hard links."""
    state.mkdir()
    chain = []
    for parts in layers:
        data = tar(parts)
        name = hashlib.sha256(data).hexdigest()
        (state / name).write_bytes(data)
        chain.append(Layer(TAR, f"sha256:{name}", len(data), f"sha256:{name}", True))
    with closing(Store.open(state, snapshotter=snapshotter)) as store:
        info = chains.import_layers(store, chain, state, ())
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
