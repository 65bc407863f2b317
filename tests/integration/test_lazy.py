"""An image that nobody reads is not brought to a worker: it is pushed on, or its result is known."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.processes import BuildRun, Cluster
from tests.integration.registries import (
    BIG,
    RealRegistry,
    content_of,
    layer_bytes,
    plain,
    push,
    skopeo,
    start,
    tar_of,
    unpacked,
)
from tests.unit.registry.faulty import Fault, FaultyRegistry, sha256

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root", "docker-registry", "skopeo", "umoci")

CHANGED = "FROM {host}/team/base:1\nENV ADDED=yes\nLABEL a=b\n"


def layers_of(layout: Path) -> list[str]:
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs/sha256" / digest).read_text())
    return [layer["digest"] for layer in manifest["layers"]]


def blob_reads(registry: RealRegistry, layout: Path) -> int:
    """Return how often a layer of the image was read."""
    return sum(registry.requests("GET ", f"/blobs/{digest}") for digest in layers_of(layout))


def held_bytes(cluster: Cluster) -> int:
    """Return what blobs, beginnings of blobs and snapshots the workers have."""
    files = [
        path
        for name in cluster.names
        for part in ("blobs/blobs", "blobs/partial", "blobs/ingest", "snapshots/trees", "work")
        for path in (cluster.root / name / part).rglob("*")
        if path.is_file()
    ]
    return sum(path.stat().st_size for path in files)


def config_of(registry: RealRegistry, name: str) -> dict[str, dict[str, object]]:
    where = f"docker://{registry.host}/{name}"
    found = skopeo("inspect", "--tls-verify=false", "--config", where)
    value: dict[str, dict[str, object]] = json.loads(found)
    return value


def is_through(built: BuildRun) -> bool:
    """Whether it passed neither the manager nor the client."""
    totals = built.totals
    through = totals["manager_bytes_received"] + totals["manager_bytes_sent"]
    return bool(
        through + totals["client_bytes_received"] + totals["client_bytes_sent"] < 50_000
    )


def test_an_image_pushed_on_in_its_registry_moves_no_layer_at_all(
    registry_cluster: Cluster, registry: RealRegistry, image: Path, context: ContextMaker
) -> None:
    push(image, registry, "team/base:1")
    before = blob_reads(registry, image)
    root = context(CHANGED.format(host=registry.host))
    built = registry_cluster.build(root, "-t", f"{registry.host}/team/app:1", "--push")
    assert blob_reads(registry, image) == before
    assert built.totals["layers_mounted"] == 3
    assert built.totals["bytes_pushed"] < 3_000
    assert "3 layers mounted" in built.stderr
    assert held_bytes(registry_cluster) < 10_000
    assert "ADDED=yes" in str(config_of(registry, "team/app:1")["config"]["Env"])


def test_an_image_pushed_to_another_registry_goes_through_a_worker_and_stays_nowhere(
    registry: RealRegistry, image: Path, context: ContextMaker, tmp_path: Path
) -> None:
    push(image, registry, "team/base:1")
    with (
        RealRegistry(tmp_path / "other") as other,
        start(tmp_path, plain(registry) + plain(other)) as cluster,
    ):
        root = context(CHANGED.format(host=registry.host))
        built = cluster.build(root, "-t", f"{other.host}/app:1", "--push")
        assert len(BIG) < built.totals["bytes_pushed"] < layer_bytes(image) + 3_000
        assert built.totals["bytes_moved"] == 0
        assert held_bytes(cluster) < 10_000
        assert is_through(built)
        where = f"docker://{other.host}/app:1"
        skopeo("copy", "--src-tls-verify=false", where, f"oci:{tmp_path / 'copy'}:1")
    assert layers_of(tmp_path / "copy") == layers_of(image)
    found = content_of(unpacked(tmp_path / "copy", tmp_path / "got"))
    assert found == content_of(unpacked(image, tmp_path / "made"))


def test_what_is_pushed_on_is_what_would_be_pushed_after_a_pull(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "team/base:1", "--format=v2s2")
    root = context(CHANGED.format(host=registry.host))
    options = f"type=registry,name={registry.host}/app:1,annotation.a=b"
    lazy = registry_cluster.build(root, "-o", options)
    export = f"type=oci,tar=false,dest={tmp_path / 'out'},annotation.a=b"
    pulled = registry_cluster.build(root, "-o", options, "-o", export)
    assert pulled.totals["bytes_moved"] > len(BIG)
    assert lazy.totals["bytes_moved"] == 0
    key = "containerimage.digest"
    assert lazy.metadata[key] == pulled.metadata[key]
    # Once a worker holds it, it pushes what it holds.
    again = registry_cluster.build(root, "-o", options)
    assert again.metadata[key] == lazy.metadata[key]
    assert again.metadata["filesync"]["content"] == pulled.metadata["filesync"]["content"]


def test_an_image_whose_steps_are_all_cached_is_not_pulled(
    registry_cluster: Cluster,
    registry: RealRegistry,
    image: Path,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    push(image, registry, "base:1")
    root = context(f"FROM {registry.host}/base:1\nCOPY Dockerfile /added\n")
    cache = tmp_path / "cache"
    first = registry_cluster.build(root, "--cache-to", f"type=local,dest={cache},mode=max")
    before = blob_reads(registry, image)
    assert before >= 3
    assert registry_cluster.build(root).totals["steps_run"] == 0
    with start(tmp_path, plain(registry), name="empty") as empty:
        out = ("-o", f"type=local,dest={tmp_path / 'out'}")
        built = empty.build(root, "--cache-from", f"type=local,src={cache}", *out)
    assert built.totals["steps_run"] == 0
    assert blob_reads(registry, image) == before
    assert built.metadata["filesync"]["content"] == first.metadata["filesync"]["content"]
    assert BIG in [path.read_bytes() for path in (tmp_path / "out").rglob("big")]


def test_a_worker_killed_while_it_pushes_an_image_on_is_replaced_by_another(
    registry: RealRegistry, context: ContextMaker, tmp_path: Path
) -> None:
    with FaultyRegistry() as source:
        layer = tar_of("big", BIG)
        blob = f"app/blobs/{sha256(layer)}"
        rootfs = {"type": "layers", "diff_ids": [sha256(layer)]}
        config = {"os": "linux", "architecture": "amd64", "rootfs": rootfs}
        source.add_image("1", layer, config=json.dumps(config).encode())
        source.faults[blob] = [Fault(cut=1_000_000, stall=True)]
        plain_source = f'[registry."{source.host}"]\nhttp = true\n'
        root = context(f"FROM {source.host}/app:1\n")
        with start(tmp_path, plain(registry) + plain_source) as cluster:
            push_it = ("-t", f"{registry.host}/app:1", "--push")
            with ThreadPoolExecutor(1) as pool:
                building = pool.submit(cluster.build, root, *push_it)
                while not source.asked(blob):
                    time.sleep(0.02)
                cluster.kill("w1")
                built = building.result()
        assert "from w2" in built.stderr
    where = f"docker://{registry.host}/app:1"
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", where))
    assert inspected["Digest"] == built.metadata["containerimage.digest"]
    assert inspected["Layers"] == [sha256(layer)]
