"""A result has one identity wherever it goes: each symptom that this prevents, and what others see."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import BuildRun, Cluster
from tests.integration.registries import (
    BIG,
    RealRegistry,
    content_of,
    plain,
    push,
    skopeo,
    start,
    umoci,
)

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root", "docker-registry", "skopeo", "umoci")

TEXT = (
    "FROM scratch AS one\nCOPY big /big\nCOPY Dockerfile /etc/\n"
    "FROM one AS two\nCOPY Dockerfile /two\n"
)
KEY = "containerimage.digest"


@pytest.fixture
def shared(registry_cluster: Cluster, context: ContextMaker) -> tuple[Cluster, Path]:
    """A cluster in which w1 has built ``one`` and w2 has pulled it as layers, to build on it."""
    root = context(TEXT, big=BIG)
    built = registry_cluster.build(
        root, "--place", "one=name=w1", "--place", "two=name=w2", "--target", "two"
    )
    modes = [use["mode"] for step in steps(built) for use in step["inputs"]]
    assert "layers" in modes
    return registry_cluster, root


def steps(built: BuildRun) -> list[dict[str, list[dict[str, object]]]]:
    found: list[dict[str, list[dict[str, object]]]] = built.metadata["filesync"]["steps"]
    return found


def stored(registry: RealRegistry) -> set[str]:
    """Return the digests of all blobs that a registry has on its disk."""
    blobs = registry.root / "storage/docker/registry/v2/blobs/sha256"
    return {path.parent.name for path in blobs.glob("*/*/data")}


def raw(registry: RealRegistry, name: str) -> dict[str, list[dict[str, object]]]:
    where = f"docker://{registry.host}/{name}"
    found: dict[str, list[dict[str, object]]] = json.loads(
        skopeo("inspect", "--tls-verify=false", "--raw", where)
    )
    return found


def without_the_builder(cluster: Cluster, root: Path, *arguments: str) -> BuildRun:
    """Build ``one`` where only the worker that pulled it is left."""
    cluster.stop_one("w1")
    built = cluster.build(root, "--target", "one", *arguments)
    assert built.totals["steps_run"] == 0
    return built


# --- the symptoms ------------------------------------------------------------------------------


def test_a_push_from_another_worker_leaves_no_second_copy_of_a_blob(
    shared: tuple[Cluster, Path], registry: RealRegistry
) -> None:
    cluster, root = shared
    tag = ("-t", f"{registry.host}/app:1", "--push", "--target", "one")
    first = cluster.build(root, *tag)
    before = stored(registry)
    assert len(before) == 4, "two layers, a configuration and a manifest"
    second = without_the_builder(cluster, root, "-t", f"{registry.host}/app:2", "--push")
    assert second.metadata[KEY] == first.metadata[KEY]
    assert stored(registry) == before
    assert second.totals["bytes_pushed"] == 0


def test_a_cache_from_another_worker_holds_no_second_copy_of_a_blob(
    shared: tuple[Cluster, Path], tmp_path: Path
) -> None:
    cluster, root = shared
    cache = tmp_path / "cache"
    to = ("--cache-to", f"type=local,dest={cache},mode=max")
    cluster.build(root, "--target", "one", *to)
    index = (cache / "index.json").read_text()
    before = sorted(path.name for path in (cache / "blobs/sha256").iterdir())
    without_the_builder(cluster, root, *to)
    assert (cache / "index.json").read_text() == index
    assert sorted(path.name for path in (cache / "blobs/sha256").iterdir()) == before


def test_a_result_that_moved_is_no_miss_in_the_next_run(
    shared: tuple[Cluster, Path], registry: RealRegistry
) -> None:
    cluster, root = shared
    built = without_the_builder(cluster, root)
    assert built.totals["bytes_moved"] == 0
    # Nor is it one for a manager that knows of nothing but what that worker says.
    cluster.kill("manager")
    cluster.start_manager()
    cluster.names.remove("w1")
    cluster.wait_for_workers()
    again = cluster.build(root, "--target", "two")
    assert again.totals["steps_run"] == again.totals["bytes_moved"] == 0


def test_what_was_pushed_and_pulled_again_is_the_same_layer_to_build_on(
    shared: tuple[Cluster, Path], registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    cluster, root = shared
    cluster.build(root, "--target", "one", "-t", f"{registry.host}/one:1", "--push")
    layers = raw(registry, "one:1")["layers"]
    before = stored(registry)
    root = context(f"FROM {registry.host}/one:1\nCOPY Dockerfile /three\n")
    with start(tmp_path, plain(registry), name="other", workers=1) as other:
        other.build(root, "-t", f"{registry.host}/three:1", "--push")
    assert raw(registry, "three:1")["layers"][:2] == layers
    assert len(stored(registry) - before) == 3, "one layer, a configuration, a manifest"


# --- what others see ---------------------------------------------------------------------------


def test_both_workers_push_and_export_one_image_that_skopeo_and_umoci_see_as_we_do(
    shared: tuple[Cluster, Path], registry: RealRegistry, tmp_path: Path
) -> None:
    cluster, root = shared
    digests: set[object] = set()
    for name in ("first", "second"):
        layout = tmp_path / name
        pushed = ("-t", f"{registry.host}/{name}:1", "--push")
        outputs = (*pushed, "-o", f"type=oci,tar=false,dest={layout}")
        if name == "first":
            built = cluster.build(root, "--target", "one", *outputs)
        else:
            built = without_the_builder(cluster, root, *outputs)
        where = f"docker://{registry.host}/{name}:1"
        inspected = json.loads(skopeo("inspect", "--tls-verify=false", where))
        index = json.loads((layout / "index.json").read_text())
        digests |= {inspected["Digest"], built.metadata[KEY], index["manifests"][0]["digest"]}
        copy, bundle = tmp_path / f"{name}-copy", tmp_path / f"{name}-bundle"
        skopeo("copy", "--src-tls-verify=false", where, f"oci:{copy}:1")
        umoci(tmp_path, "unpack", "--image", f"{copy}:1", str(bundle))
        ours = built.metadata["filesync"]["content"]
        assert f"blake3:{content_of(bundle / 'rootfs').hex()}" == ours
    assert len(digests) == 1


@pytest.mark.parametrize("options", [(), ("--format=v2s2",)], ids=["oci", "schema 2"])
def test_what_skopeo_and_umoci_made_is_built_upon(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    push(image, registry, "base:1", *options)
    root = context(f"FROM {registry.host}/base:1\nCOPY Dockerfile /added\n")
    built = registry_cluster.build(root, "-t", f"{registry.host}/app:1", "--push")
    theirs = [layer["digest"] for layer in raw(registry, "base:1")["layers"]]
    ours = [layer["digest"] for layer in raw(registry, "app:1")["layers"]]
    assert ours[: len(theirs)] == theirs
    where = f"docker://{registry.host}/app:1"
    skopeo("copy", "--src-tls-verify=false", where, f"oci:{tmp_path / 'copy'}:1")
    umoci(tmp_path, "unpack", "--image", f"{tmp_path / 'copy'}:1", str(tmp_path / "bundle"))
    content = content_of(tmp_path / "bundle/rootfs").hex()
    assert built.metadata["filesync"]["content"] == f"blake3:{content}"


# --- who carries the bytes ---------------------------------------------------------------------


def listening(pid: int) -> int:
    """Return how many TCP sockets a process listens on."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return sum(row[3] == "0A" and row[9] in own for row in rows)


def carried(built: BuildRun) -> tuple[int, int]:
    """Return the bytes that passed the manager, and those that the client's data plane carried."""
    totals = built.totals
    manager = totals["manager_bytes_received"] + totals["manager_bytes_sent"]
    return manager, totals["client_bytes_received"] + totals["client_bytes_sent"]


def test_neither_manager_nor_client_carries_a_blob_in_pull_push_and_pushing_on(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "base:1")
    host = registry.host
    small = context(f"FROM {host}/base:1 AS base\nFROM base\nCOPY --from=base /etc/name /n\n")
    pulled = registry_cluster.build(small, "--target", "base")
    assert pulled.totals["bytes_moved"] > len(BIG)
    pushed = registry_cluster.build(small, "-t", f"{host}/app:1", "--push")
    zstd = f"type=registry,name={host}/zstd:1,compression=zstd"
    for built in (pulled, pushed, registry_cluster.build(small, "-o", zstd)):
        manager, client = carried(built)
        assert client == 0
        assert manager < 50_000
    # It has the one socket of the control plane: there is none for data to come to.
    assert listening(registry_cluster.processes["manager"].pid) == 1
    assert listening(registry_cluster.processes["w1"].pid) == 1


def test_what_the_client_sends_and_takes_is_what_its_counter_says(
    registry_cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY big /big\n", big=BIG)
    sent = registry_cluster.build(root)
    assert sent.totals["client_bytes_sent"] >= len(BIG)
    assert sent.totals["client_bytes_received"] == 0
    taken = registry_cluster.build(root, "-o", f"type=local,dest={tmp_path / 'out'}")
    assert taken.totals["client_bytes_received"] >= len(BIG)
    assert taken.totals["client_bytes_sent"] == 0
