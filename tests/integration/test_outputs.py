"""Images in files, read by the programs that others read them with."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.integration.registries import content_of, skopeo, unpacked

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root", "skopeo", "umoci")

TEXT = "FROM scratch\nCOPY one /data/one\nLABEL of=file\nCOPY two /two\n"


def test_a_docker_archive_is_the_image_of_the_layout_under_its_tags(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, one="1" * 100_000, two="2")
    archive, layout, tree = (tmp_path / name for name in ("app.tar", "layout", "tree"))
    built = cluster.build(
        root,
        *("-t", "app:1", "-t", "b.io/app"),
        *("-o", f"type=docker,dest={archive}"),
        *("-o", f"type=oci,tar=false,dest={layout}"),
        *("-o", f"type=local,dest={tree}"),
    )
    digest = built.metadata["containerimage.config.digest"]
    where = f"docker-archive:{archive}"
    raw = json.loads(skopeo("inspect", "--raw", where))
    assert raw["config"]["digest"] == digest
    ours = (layout / "blobs" / digest.replace(":", "/")).read_text()
    assert skopeo("inspect", "--config", "--raw", where) == ours
    assert skopeo("inspect", "--config", "--raw", f"oci:{layout}:1") == ours
    listed = skopeo("list-tags", where)
    assert json.loads(listed)["Tags"] == ["app:1", "b.io/app:latest"]
    skopeo("copy", f"{where}:app:1", f"oci:{tmp_path / 'again'}:1")
    assert content_of(unpacked(tmp_path / "again", tmp_path / "bundle")) == content_of(tree)
    taken = json.loads(skopeo("inspect", f"oci:{tmp_path / 'again'}:1"))
    assert taken["Labels"] == {"of": "file"}


def test_a_docker_archive_is_the_same_bytes_each_time_and_a_layout_too(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, one="1", two="2")
    archives = [tmp_path / "1.tar", tmp_path / "2.tar"]
    for archive in archives:
        cluster.build(root, "-o", f"type=docker,name=a,dest={archive}")
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(tar.getnames())
    skopeo("inspect", f"oci-archive:{archives[0]}")
