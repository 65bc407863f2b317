"""A result goes to another worker as its blob or as what it is made of, and stays what it is."""

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.processes import BuildRun, Cluster
from filesync.disk.scanning.scan import scan
from filesync.manifest import MemoryNodes

ContextMaker = Callable[..., Path]
COUNT, SIZE = 60, 50_000
CONTENTS = [random.Random(number).randbytes(SIZE) for number in range(COUNT)]
WHOLE = COUNT * SIZE
PLACES = ("--place", "big=name=w1", "--place", "near=name=w2", "--place", "whole=name=w2")
DOCKERFILE = """\
FROM scratch AS big
COPY data /data
FROM scratch AS near
COPY known /elsewhere
FROM big AS whole
COPY marker /marker
"""
pytestmark = pytest.mark.needs("root")


def files(known: int) -> dict[str, bytes | str]:
    """Return a context whose ``known`` has the first so many files of ``data``, named otherwise."""
    found: dict[str, bytes | str] = {"marker": "m"}
    found |= {f"data__d{n % 7}__f{n}": data for n, data in enumerate(CONTENTS)}
    found |= {f"known__other{n}": data for n, data in enumerate(CONTENTS[:known])}
    return found | {"known__one-more": "x"}


def layers_of(layout: Path) -> list[dict[str, Any]]:
    index = json.loads((layout / "index.json").read_text())
    name = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs/sha256" / name).read_text())
    layers: list[dict[str, Any]] = manifest["layers"]
    return layers


def manifest_of(layout: Path) -> str:
    digest: str = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return digest


def use_of(built: BuildRun, step: str) -> dict[str, Any]:
    (use,) = [one for one in built.step(step)["inputs"] if one["mode"] == "layers"]
    found: dict[str, Any] = use
    return found


def oci(where: Path, compression: str = "zstd") -> str:
    return f"type=oci,tar=false,compression={compression},dest={where}"


def content(root: Path) -> bytes:
    return scan(root, MemoryNodes()).content


def test_what_the_target_has_anywhere_does_not_travel(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(DOCKERFILE, **files(54))
    cluster.build(root, *PLACES, "--target", "big", "-o", oci(tmp_path / "first"))
    cluster.build(root, *PLACES, "--target", "near")
    out = tmp_path / "out"
    built = cluster.build(root, *PLACES, "-o", f"type=local,dest={out}")
    use = use_of(built, "COPY marker")
    assert use["bytes_if_layers"] > WHOLE * 0.95
    assert 0 < use["bytes_moved"] < 0.12 * WHOLE
    assert use["files_moved"] == 6 + 1  # contents, and the skeleton
    assert content(out / "data") == content(root / "data")
    # The very blob was not there, and w2 makes it again, alone, to the byte.
    cluster.stop_one("w1")
    cluster.build(root, *PLACES, "-o", oci(tmp_path / "second"))
    (first,), second = layers_of(tmp_path / "first"), layers_of(tmp_path / "second")
    assert second[0] == first


def test_a_layer_that_is_new_to_its_target_comes_as_its_blob(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(DOCKERFILE, **files(10))
    cluster.build(root, *PLACES, "--target", "near")
    out = tmp_path / "out"
    built = cluster.build(root, *PLACES, "-o", f"type=local,dest={out}")
    use = use_of(built, "COPY marker")
    assert WHOLE < use["bytes_moved"] < WHOLE * 1.03
    assert use["files_moved"] == 1 + 1  # the blob, and the skeleton that it was decided by
    assert content(out / "data") == content(root / "data")


def test_a_replica_of_a_replica_is_the_same_image(
    clusters: Callable[..., Cluster], context: ContextMaker, tmp_path: Path
) -> None:
    cluster = clusters("three", workers=3)
    root = context(
        DOCKERFILE
        + "FROM scratch AS near3\nCOPY known /there\nFROM whole AS last\nCOPY marker /m2\n",
        **files(60),
    )
    places = (*PLACES, "--place", "near3=name=w3", "--place", "last=name=w3")
    cluster.build(root, *places, "--target", "near")
    cluster.build(root, *places, "--target", "near3")
    cluster.build(root, *places, "--target", "whole")
    cluster.stop_one("w1")  # w2 has the skeleton and no blob to give
    built = cluster.build(root, *places, "--target", "last", "-o", oci(tmp_path / "third"))
    use = use_of(built, "COPY marker /m2")
    assert use["from"] == ["w2"]
    assert use["bytes_moved"] < 0.05 * WHOLE
    cluster.stop_one("w3")
    cluster.build(root, *places, "--target", "whole", "-o", oci(tmp_path / "second"))
    assert layers_of(tmp_path / "third")[:2] == layers_of(tmp_path / "second")


def test_several_workers_that_hold_a_result_give_it_together(
    clusters: Callable[..., Cluster], context: ContextMaker, tmp_path: Path
) -> None:
    cluster = clusters("three", workers=3)
    data = random.Random(5).randbytes(40_000_000)
    root = context(
        "FROM scratch AS big\nCOPY data /data\n"
        "FROM big AS two\nCOPY a /a\nFROM big AS three\nCOPY b /b\n",
        data=data,
        a="a",
        b="b",
    )
    places = [f"{stage}=name=w{n}" for n, stage in enumerate(("big", "two", "three"), start=1)]
    options = [word for place in places for word in ("--place", place)]
    cluster.build(root, *options, "--target", "two")
    built = cluster.build(root, *options, "--target", "three", "-o", oci(tmp_path / "out"))
    use = use_of(built, "COPY b")
    assert sorted(use["from"]) == ["w1", "w2"]
    assert len(data) < use["bytes_moved"] < 1.03 * len(data)


# --- images of other tools -------------------------------------------------------------------------


def foreign_image(layout: Path, contents: Mapping[str, bytes]) -> None:
    """Write an image of one layer, compressed by gzip as nobody here would do it again."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer = put(gzip.compress(packed.getvalue(), 1, mtime=1), "layer.v1.tar+gzip")
    rootfs = {
        "type": "layers",
        "diff_ids": [f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"],
    }
    config = {"architecture": os.uname().machine, "os": "linux", "rootfs": rootfs}
    configured = put(json.dumps(config).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "config": configured, "layers": [layer]}
    one = put(json.dumps(manifest).encode(), "manifest.v1+json")
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [one]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


FOREIGN = """\
FROM foreign AS one
FROM scratch AS near
COPY known /elsewhere
FROM one AS two
COPY marker /marker
"""
FOREIGN_PLACES = ("--place", "one=name=w1", "--place", "near=name=w2", "--place", "two=name=w2")


@pytest.fixture
def moved(cluster: Cluster, context: ContextMaker, tmp_path: Path) -> tuple[Path, list[str]]:
    """A foreign layer is on w1 with its blob and on w2 without; the context and build options."""
    named = {f"d/f{number}": data for number, data in enumerate(CONTENTS)}
    foreign_image(tmp_path / "image", named)
    root = context(FOREIGN, **files(60))
    layout = f"foreign=oci-layout://{tmp_path / 'image'}"
    options = ["--build-context", layout, *FOREIGN_PLACES]
    cluster.build(root, *options, "--target", "near")
    cluster.build(root, *options, "--target", "one")
    built = cluster.build(root, *options, "-o", f"type=local,dest={tmp_path / 'out'}")
    use = use_of(built, "COPY marker")
    assert 0 < use["bytes_moved"] < 0.05 * WHOLE
    for number, data in enumerate(CONTENTS):
        assert (tmp_path / f"out/d/f{number}").read_bytes() == data
    return root, options


def test_a_foreign_layer_comes_as_its_parts_and_its_blob_when_an_export_needs_it(
    cluster: Cluster, moved: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, options = moved
    cluster.build(root, *options, "-o", oci(tmp_path / "export"))
    (theirs,) = layers_of(tmp_path / "image")
    assert layers_of(tmp_path / "export")[0] == theirs
    # From now on w2 has the blob too.
    cluster.stop_one("w1")
    cluster.build(root, *options, "-o", oci(tmp_path / "again"))
    assert manifest_of(tmp_path / "again") == manifest_of(tmp_path / "export")


def test_for_a_blob_that_nobody_has_any_more_it_is_said_which_worker_is_to_bring_it(
    cluster: Cluster, moved: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, options = moved
    cluster.stop_one("w1")
    built = cluster.build(root, *options, "-o", oci(tmp_path / "export"), check=False)
    assert built.status != 0
    assert "name=w1; connected are w2" in built.stderr
    cluster.start_worker("w1")
    cluster.wait_for_workers()
    cluster.build(root, *options, "-o", oci(tmp_path / "export"))
    (theirs,) = layers_of(tmp_path / "image")
    assert layers_of(tmp_path / "export")[0] == theirs
