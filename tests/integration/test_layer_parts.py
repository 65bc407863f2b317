"""What leaves a worker of a result whose layers came to it as parts is what leaves its builder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.integration.registries import RealRegistry
from tests.integration.test_cache import blob, index_of
from tests.integration.test_layer_moves import (
    CONTENTS,
    DOCKERFILE,
    FOREIGN,
    FOREIGN_PLACES,
    PLACES,
    WHOLE,
    files,
    foreign_image,
    layers_of,
    use_of,
)
from tests.integration.test_registry_cache import blob as blob_in
from tests.integration.test_registry_cache import described, manifest_of

ContextMaker = Callable[..., Path]
pytestmark = pytest.mark.needs("root", "docker-registry")


def blob_bytes(cluster: Cluster, worker: str) -> int:
    """Return how much a worker has in blobs; a skeleton is one, and small."""
    found = (cluster.root / worker / "blobs/blobs/sha256").iterdir()
    return sum(path.stat().st_size for path in found)


@pytest.fixture
def root(context: ContextMaker) -> Path:
    return context(DOCKERFILE, **files(60))


def come_as_parts(cluster: Cluster, root: Path) -> None:
    """Have w2 hold what w1 has built, without a blob, and w1 gone."""
    cluster.build(root, *PLACES, "--target", "near")
    built = cluster.build(root, *PLACES)
    assert 0 < use_of(built, "COPY marker")["bytes_moved"] < 0.05 * WHOLE
    assert blob_bytes(cluster, "w2") < 0.05 * WHOLE
    cluster.stop_one("w1")


@pytest.mark.parametrize("compression", ["zstd", "gzip", "estargz"])
def test_a_push_from_there_is_the_image_that_its_builder_pushed(
    registry_cluster: Cluster, registry: RealRegistry, root: Path, compression: str
) -> None:
    def push(name: str) -> str:
        output = f"type=registry,name={registry.host}/{name},compression={compression}"
        built = registry_cluster.build(root, *PLACES, "--target", "big", "-o", output)
        digest: str = built.metadata["containerimage.digest"]
        return digest

    first = push("builder:1")
    come_as_parts(registry_cluster, root)
    assert push("copy:1") == first
    digest, manifest = manifest_of(registry, "copy:1")
    assert digest == first
    (layer,) = manifest["layers"]
    assert len(blob_in(registry, "copy", layer["digest"])) == layer["size"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_cache_to_a_registry_from_there_is_the_one_of_its_builder(
    registry_cluster: Cluster, registry: RealRegistry, root: Path, mode: str
) -> None:
    def cache(name: str) -> None:
        to = f"type=registry,ref={registry.host}/{name},mode={mode}"
        registry_cluster.build(root, *PLACES, "--target", "big", "--cache-to", to)

    cache("builder:1")
    come_as_parts(registry_cluster, root)
    cache("copy:1")
    digest, manifest = manifest_of(registry, "copy:1")
    assert manifest_of(registry, "builder:1") == (digest, manifest)
    for layer in described(manifest)[1]:
        assert len(blob_in(registry, "copy", layer["digest"])) == layer["size"]


def test_a_cache_in_a_layout_from_there_is_the_one_of_its_builder(
    registry_cluster: Cluster, root: Path, tmp_path: Path
) -> None:
    def cache(name: str) -> Path:
        to = f"type=local,dest={tmp_path / name},mode=max"
        registry_cluster.build(root, *PLACES, "--target", "big", "--cache-to", to)
        return tmp_path / name

    builder = cache("builder")
    come_as_parts(registry_cluster, root)
    copy = cache("copy")
    assert index_of(copy) == index_of(builder)
    (layer,) = layers_of(copy)
    assert len(blob(copy, layer["digest"])) == layer["size"]


def test_an_image_with_its_cache_in_it_from_there_is_the_one_of_its_builder(
    registry_cluster: Cluster, registry: RealRegistry, root: Path
) -> None:
    def push(name: str) -> str:
        push_it = ("-t", f"{registry.host}/{name}", "--push", "--cache-to", "type=inline")
        built = registry_cluster.build(root, *PLACES, "--target", "big", *push_it)
        digest: str = built.metadata["containerimage.digest"]
        return digest

    first = push("builder:1")
    come_as_parts(registry_cluster, root)
    assert push("copy:1") == first
    _, manifest = manifest_of(registry, "copy:1")
    config = json.loads(blob_in(registry, "copy", manifest["config"]["digest"]))
    assert "moby.buildkit.cache.v0" in config


# --- where only the very blob will do --------------------------------------------------------------


@pytest.fixture
def foreign(registry_cluster: Cluster, context: ContextMaker, tmp_path: Path) -> list[str]:
    """Options of a build whose target w2 holds, on a layer that w1 alone has the blob of."""
    foreign_image(tmp_path / "image", {f"d/f{n}": data for n, data in enumerate(CONTENTS)})
    layout = f"foreign=oci-layout://{tmp_path / 'image'}"
    options = ["--build-context", layout, *FOREIGN_PLACES]
    root = context(FOREIGN, **files(60))
    registry_cluster.build(root, *options, "--target", "near")
    registry_cluster.build(root, *options, "--target", "one")
    built = registry_cluster.build(root, *options)
    assert 0 < use_of(built, "COPY marker")["bytes_moved"] < 0.05 * WHOLE
    assert blob_bytes(registry_cluster, "w2") < 0.05 * WHOLE
    return options


def pushed_and_cached(registry: RealRegistry, cache: Path, name: str) -> list[str]:
    """Return options to push to ``name``, and to have caches in a registry and in ``cache``."""
    return [
        *("-o", f"type=registry,name={registry.host}/{name},compression=zstd"),
        *("--cache-to", f"type=registry,ref={registry.host}/{name}-cache"),
        *("--cache-to", f"type=local,dest={cache}"),
    ]


def test_a_blob_that_cannot_be_made_again_is_fetched_for_a_push_and_for_caches(
    registry_cluster: Cluster, registry: RealRegistry, foreign: list[str], tmp_path: Path
) -> None:
    (theirs,) = layers_of(tmp_path / "image")
    options = pushed_and_cached(registry, tmp_path / "cache", "app:1")
    registry_cluster.build(tmp_path / "context", *foreign, *options)
    for name in ("app:1", "app:1-cache"):
        _, manifest = manifest_of(registry, name)
        layers = described(manifest)[1]
        assert theirs["digest"] in [layer["digest"] for layer in layers]
        for layer in layers:
            assert len(blob_in(registry, "app", layer["digest"])) == layer["size"]
    cached = layers_of(tmp_path / "cache")
    assert theirs["digest"] in [layer["digest"] for layer in cached]
    for layer in cached:
        assert len(blob(tmp_path / "cache", layer["digest"])) == layer["size"]


@pytest.mark.parametrize("kind", ["image", "cache in a registry", "cache in a layout"])
def test_each_of_them_fetches_it_by_itself(
    registry_cluster: Cluster,
    registry: RealRegistry,
    foreign: list[str],
    tmp_path: Path,
    kind: str,
) -> None:
    (theirs,) = layers_of(tmp_path / "image")
    options = pushed_and_cached(registry, tmp_path / "cache", "app:1")
    at = 2 * ["image", "cache in a registry", "cache in a layout"].index(kind)
    registry_cluster.build(tmp_path / "context", *foreign, *options[at : at + 2])
    held = registry_cluster.root / "w2/blobs/blobs/sha256"
    assert (held / theirs["digest"].removeprefix("sha256:")).stat().st_size == theirs["size"]


def test_where_nobody_has_it_any_more_the_image_is_brought_again(
    registry_cluster: Cluster, registry: RealRegistry, foreign: list[str], tmp_path: Path
) -> None:
    (theirs,) = layers_of(tmp_path / "image")
    registry_cluster.stop_one("w1")
    push_it = pushed_and_cached(registry, tmp_path / "cache", "app:1")[:2]
    context = tmp_path / "context"
    built = registry_cluster.build(context, *foreign[:2], *push_it)
    assert built.step("COPY marker")["cached"]
    assert blob_in(registry, "app", theirs["digest"])
