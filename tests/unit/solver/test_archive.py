"""The tar around an image layout, and the manifest that makes it docker's."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from filesync.errors import UsageError
from solver.client.outputs.archive import add_docker_manifest, docker_name, pack_layout

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def test_packed_layout_depends_on_its_files_alone(tmp_path: Path) -> None:
    for name, stamp, mode in (("one", 1, 0o600), ("two", 2, 0o664)):
        (tmp_path / name / "blobs").mkdir(parents=True)
        for path in (tmp_path / name / "index.json", tmp_path / name / "blobs" / "x"):
            path.write_text(path.name)
            path.chmod(mode)
            os.utime(path, (stamp, stamp))
        (tmp_path / name / "blobs").chmod(mode | 0o110)
        pack_layout(tmp_path / name, tmp_path / f"{name}.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames() == ["blobs", "blobs/x", "index.json"]


def test_pack_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / "index.json").write_text("{}")
    (tmp_path / "out.tar").mkdir()
    with pytest.raises(OSError, match=r"out\.tar"):
        pack_layout(tmp_path / "layout", tmp_path / "out.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "out.tar"]


@pytest.mark.parametrize("names", [(), ("docker.io/library/app:1", "b.io/app:latest")])
def test_dockers_manifest_names_the_layouts_own_blobs(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    blobs = tmp_path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    manifest = {"config": {"digest": B}, "layers": [{"digest": C}, {"digest": B}]}
    (blobs / A.removeprefix("sha256:")).write_text(json.dumps(manifest))
    called = [{"annotations": {"io.containerd.image.name": name}} for name in names] or [{}]
    index = {"manifests": [{"digest": A} | one for one in called]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    add_docker_manifest(tmp_path)
    b, c = (f"blobs/{digest.replace(':', '/')}" for digest in (B, C))
    tags = ["app:1", "b.io/app:latest"] if names else []
    assert json.loads((tmp_path / "manifest.json").read_text()) == [
        {"Config": b, "RepoTags": tags, "Layers": [c, b]}
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("docker.io/library/a:1", "a:1"),
        ("docker.io/team/a:1", "team/a:1"),
        ("quay.io/library/a:1", "quay.io/library/a:1"),
        ("a", "a:latest"),
    ],
)
def test_docker_takes_its_own_host_for_granted(name: str, shown: str) -> None:
    assert docker_name(name) == shown
    with pytest.raises(UsageError):
        docker_name(f"{name} ")
