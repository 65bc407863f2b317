"""Images in files, read by the programs that others read them with."""

import json
import os
import stat
import subprocess
import sys
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
    assert built.metadata["image.name"] == "docker.io/library/app:1,b.io/app:latest"
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


def test_a_dockerfile_comes_from_standard_input_and_just_the_image_is_named(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("this is not read", one="1", two="2")
    archive, iidfile = tmp_path / "app.tar", tmp_path / "iid"
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager, "-q"]
    into = ["--iidfile", str(iidfile), "-t", "app:1", "-o", f"type=oci,dest={archive}"]
    built = subprocess.run(
        [*command, *into, "-f", "-", str(root)],
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
    )
    config = json.loads(skopeo("inspect", "--raw", f"oci-archive:{archive}"))["config"]
    assert built.stdout == config["digest"] + "\n"
    assert built.stderr == ""
    assert iidfile.read_text() == config["digest"]


def test_a_build_says_what_it_writes_and_that_it_has_written_nothing(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, one="1", two="2")
    archive, tree = tmp_path / "app.tar", tmp_path / "tree"
    into = ["-o", f"type=oci,dest={archive}", "-o", str(tree)]
    built = cluster.build(root, "-t", "app:1", *into)
    image_id = built.metadata["containerimage.config.digest"]
    assert built.stderr.splitlines()[-4:] == [
        f"exporting image to {archive}",
        f"exporting files to {tree}",
        f"wrote {archive}: docker.io/library/app:1, ID {image_id}",
        f"wrote {tree}",
    ]
    nothing = cluster.build(root, "-t", "app:1").stderr.splitlines()[-1]
    assert nothing.startswith("warning: nothing was written, as no -o or --push says where to")
    assert "nothing" not in cluster.build(root, "-o", "type=cacheonly").stderr


def test_the_directory_that_a_result_goes_to_stays_as_open_as_it_was(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, one="1", two="2")
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o1770)
    (there / "mine").touch()
    for _ in range(2):
        cluster.build(root, "-o", str(there))
        assert stat.S_IMODE(there.stat().st_mode) == 0o1770
    assert "mine" in os.listdir(there)
    assert len(os.listdir(there)) > 1


def layout_of(
    cluster: Cluster, root: Path, layout: Path, *arguments: str, spec: str = ""
) -> dict[str, dict[str, object]]:
    """Build into a layout and return what it holds of the image: manifest and config."""
    output = f"type=oci,tar=false,dest={layout},name=a:1{spec}"
    built = cluster.build(root, "-o", output, *arguments).metadata
    digests = {
        "manifest": built["containerimage.digest"],
        "config": built["containerimage.config.digest"],
    }
    return {
        what: json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
        for what, digest in digests.items()
    }


def test_labels_and_annotations_are_in_the_image_and_not_in_its_layers(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, one="1", two="2")
    plain = layout_of(cluster, root, tmp_path / "plain")
    told = layout_of(
        cluster,
        root,
        tmp_path / "told",
        *("--label", "of=command", "--label", "empty"),
        spec=",annotation.org.opencontainers.image.title=A title,annotation-manifest.b=c",
    )
    assert told["manifest"]["annotations"] == {
        "org.opencontainers.image.title": "A title",
        "b": "c",
    }
    assert "annotations" not in plain["manifest"]
    assert told["manifest"]["layers"] == plain["manifest"]["layers"]
    taken = json.loads(skopeo("inspect", f"oci:{tmp_path / 'told'}:1"))
    assert taken["Labels"] == {"of": "command", "empty": ""}
    skopeo("copy", f"oci:{tmp_path / 'told'}:1", f"dir:{tmp_path / 'again'}")
    again = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert again["annotations"] == told["manifest"]["annotations"]


def test_what_an_index_says_of_an_image_may_be_annotated_too(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY Dockerfile /\n")
    layout = tmp_path / "layout"
    spec = "annotation-manifest-descriptor.a=b,source-date-epoch=86400,name=x:1"
    built = cluster.build(root, "-o", f"type=oci,tar=false,dest={layout},{spec}").metadata
    (image,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert image["annotations"]["a"] == "b"
    assert image["annotations"]["org.opencontainers.image.ref.name"] == "1"
    assert built["containerimage.descriptor"] == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image["digest"],
        "size": image["size"],
        "annotations": {"a": "b", "org.opencontainers.image.created": "1970-01-02T00:00:00Z"},
    }
    refused = cluster.build(
        root, "-o", f"type=oci,dest={tmp_path}/x,annotation-index.a=b", check=False
    )
    assert refused.status == 2
    assert "has no index of its own that could be annotated" in refused.stderr


def test_each_output_may_have_a_time_of_its_own_and_trees_have_it_throughout(
    cluster: Cluster, context: ContextMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = context(TEXT, one="1", two="2")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000")
    image = layout_of(cluster, root, tmp_path / "own", spec=",source-date-epoch=86400")
    assert image["config"]["created"] == "1970-01-02T00:00:00Z"
    tree, tar = tmp_path / "tree", tmp_path / "tree.tar"
    outputs = (f"type=local,dest={tree}", f"type=tar,dest={tar},source-date-epoch=2000")
    cluster.build(root, *(word for output in outputs for word in ("-o", output)))
    assert {path.stat().st_mtime for path in (tree, *tree.rglob("*"))} == {1000}
    with tarfile.open(tar) as packed:
        assert {member.mtime for member in packed} == {2000}
    assert (tree / "data" / "one").read_text() == "1"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    cluster.build(root, "-o", f"type=local,dest={tree}")
    assert (tree / "data" / "one").stat().st_mtime == (root / "one").stat().st_mtime


def test_source_date_epoch_is_when_the_image_says_it_was_made(
    cluster: Cluster,
    context: ContextMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = context(TEXT, one="1", two="2")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    by_environment = layout_of(cluster, root, tmp_path / "environment")
    by_argument = layout_of(
        cluster, root, tmp_path / "argument", "--build-arg", "SOURCE_DATE_EPOCH=86400"
    )
    nothing = layout_of(
        cluster, root, tmp_path / "nothing", "--build-arg", "SOURCE_DATE_EPOCH="
    )
    assert created(by_environment["config"]) == {"2001-09-09T01:46:40Z"}
    assert created(by_argument["config"]) == {"1970-01-02T00:00:00Z"}
    assert created(nothing["config"]) == {None}
    assert by_environment["manifest"]["layers"] == nothing["manifest"]["layers"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    refused = cluster.build(root, check=False)
    assert "SOURCE_DATE_EPOCH=yesterday: give whole seconds since 1970" in refused.stderr


def created(config: dict[str, object]) -> set[object]:
    """Return all times in a configuration; None stands for one that is not there."""
    history = config["history"]
    assert isinstance(history, list)
    return {config.get("created"), *(entry.get("created") for entry in history)}


def test_what_is_copied_anew_makes_the_same_layer(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    text = "FROM scratch\nCOPY src/f /\nCOPY src /new\nWORKDIR /app\nCOPY src .\n"
    root = context(text, src__f="f")
    layers: list[list[object]] = []
    for name in ("first", "second"):
        made = layout_of(cluster, root, tmp_path / name, "--no-cache")["manifest"]["layers"]
        assert isinstance(made, list)
        # What WORKDIR makes has the time at which it is made.
        layers.append([layer["digest"] for layer in made if layer is not made[2]])
    assert layers[0] == layers[1]


def test_rewritten_times_make_one_image_of_files_that_differ_in_newer_times_alone(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, one="1" * 100_000, two="2")
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=1000000", "--no-cache")
    os.utime(root / "two", (5000, 5000))
    manifests = []
    for stamp in (1_500_000, 2_000_000):
        os.utime(root / "one", (stamp, stamp))
        layout = tmp_path / f"layout-{stamp}"
        image = layout_of(cluster, root, layout, *epoch, spec=",rewrite-timestamp=true")
        manifests.append(image["manifest"])
    assert manifests[0] == manifests[1]
    tree = unpacked(tmp_path / "layout-2000000", tmp_path / "bundle")
    assert (tree / "data" / "one").read_text() == "1" * 100_000
    times = {path.name: path.stat().st_mtime for path in tree.rglob("*")}
    assert times == {"data": 1_000_000, "one": 1_000_000, "two": 5000}
    as_is = layout_of(cluster, root, tmp_path / "as-is", *epoch)
    assert as_is["manifest"] != manifests[0]


def test_two_workers_rewrite_times_alike_and_leave_a_base_images_layers_as_they_are(
    clusters: Callable[..., Cluster], context: ContextMaker, tmp_path: Path
) -> None:
    cluster, elsewhere = clusters("here"), clusters("elsewhere", workers=1)
    base, layout = tmp_path / "base", tmp_path / "layout"
    layout_of(elsewhere, context("FROM scratch\nCOPY Dockerfile /base\n"), base)
    text = "FROM base AS make\nCOPY one /one\nFROM make AS take\nCOPY one /more\n"
    root = context(text, one="1")
    under = ("--build-context", f"base=oci-layout://{base}:1")
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=1000000")
    images = []
    for place in ("w1", "w2"):
        where = ("--place", f"make=name={place}", "--place", f"take=name={place}")
        images.append(
            layout_of(
                cluster,
                root,
                layout,
                *(*under, *epoch, *where, "--no-cache"),
                spec=",rewrite-timestamp=true,compression=zstd",
            )
        )
    assert images[0] == images[1]
    below = json.loads((base / "index.json").read_text())["manifests"][0]["digest"]
    manifest = json.loads((base / "blobs" / below.replace(":", "/")).read_text())
    layers = images[0]["manifest"]["layers"]
    assert isinstance(layers, list)
    assert layers[0]["digest"] == manifest["layers"][0]["digest"]
    assert len(layers) == 3
