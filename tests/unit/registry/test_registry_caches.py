"""Caches out of registries that do wrong, and out of bytes that nobody vouches for."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.registry.faulty import LAYER_TYPE, MANIFEST_TYPE, Fault, FaultyRegistry, sha256
from worker.blobs import BlobStore
from worker.registry import (
    BadRegistry,
    Host,
    NotInRegistry,
    Platform,
    Registries,
    RegistryDenied,
    RegistryError,
)
from worker.registry.client_http import SILENT_S, RegistryClient
from worker.registry.images_http import Pulls
from worker.wire.caches import (
    CACHE_TYPE,
    DOCKER_LIST,
    INLINE,
    MAX_CACHE_BYTES,
    OCI_INDEX,
    BadCacheConfig,
    CacheFound,
    cache_manifest,
    parse_cache_manifest,
    parse_inline,
)
from worker.wire.images import Layer, Reference

BLOB = b"a layer's bytes" * 1000
DIFF_ID = f"sha256:{'d' * 64}"
CONFIG = b'{"records":[{"digest":"x","later":1}]}'
LAYER = Layer(LAYER_TYPE, sha256(BLOB), len(BLOB), DIFF_ID)
LINUX = Platform("linux", "amd64")
BASIC = Fault(401, {"WWW-Authenticate": "Basic realm=x"})


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.registry.retry.FIRST_WAIT_S", 0.001)


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as running:
        running.add_blob(BLOB)
        running.add_blob(CONFIG)
        data = cache_manifest(CONFIG, [LAYER], image=True)
        running.manifests["cache"] = (data, MANIFEST_TYPE)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def read(
    registry: FaultyRegistry,
    store: BlobStore,
    tag: str = "cache",
    *,
    silent_s: float = SILENT_S,
) -> CacheFound:
    async def ask() -> CacheFound:
        hosts = Registries({registry.host: Host(http=True)})
        async with RegistryClient(hosts, (), silent_s=silent_s) as client:
            name = Reference(registry.host, "app", tag)
            return await Pulls(store).read_cache(client, name, LINUX)

    return asyncio.run(ask())


def pull(registry: FaultyRegistry, store: BlobStore) -> None:
    async def ask() -> None:
        hosts = Registries({registry.host: Host(http=True)})
        async with RegistryClient(hosts) as client:
            place = Reference(registry.host, "app", "latest")
            await Pulls(store).pull_layers(client, place, [LAYER.digest], lambda _: None)

    asyncio.run(ask())


# --- registries -------------------------------------------------------------------------------


def test_a_cache_is_read_and_nothing_of_it_is_kept(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    assert read(registry, store) == CacheFound(CONFIG, (LAYER,))
    assert store.list() == []
    assert registry.asked(LAYER.digest) == []


@pytest.mark.parametrize(
    ("path", "fault", "error"),
    [
        ("app/manifests/cache", Fault(404), NotInRegistry),
        ("app/manifests/cache", BASIC, RegistryDenied),
        ("app/manifests/cache", Fault(403), RegistryDenied),
        ("app/manifests/cache", Fault(body=b"{"), BadCacheConfig),
        ("app/manifests/cache", Fault(body=b"[" * 100_000), BadCacheConfig),
        (f"app/blobs/{sha256(CONFIG)}", Fault(404), NotInRegistry),
        (f"app/blobs/{sha256(CONFIG)}", Fault(body=b'{"records":[]}'), BadRegistry),
        (f"app/blobs/{sha256(CONFIG)}", Fault(body=b" " * (MAX_CACHE_BYTES + 1)), BadRegistry),
    ],
)
def test_a_cache_that_is_not_what_it_should_be_is_an_error_of_its_kind(
    registry: FaultyRegistry,
    store: BlobStore,
    path: str,
    fault: Fault,
    error: type[RegistryError] | type[BadCacheConfig],
) -> None:
    registry.faults[path] = [fault] * 20
    with pytest.raises(error):
        read(registry, store)
    assert store.list() == []


@pytest.mark.parametrize(
    "fault", [Fault(500), Fault(429), Fault(cut=5), Fault(cut=5, stall=True)]
)
def test_a_passing_trouble_is_tried_again(
    registry: FaultyRegistry, store: BlobStore, fault: Fault
) -> None:
    for path in ("app/manifests/cache", f"app/blobs/{sha256(CONFIG)}"):
        registry.faults[path] = [fault]
    silent_s = 0.2 if fault.stall else SILENT_S
    assert read(registry, store, silent_s=silent_s).config == CONFIG


def test_a_layer_comes_whatever_the_manifest_says_of_its_size(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    registry.faults[f"GET app/blobs/{LAYER.digest}"] = [Fault(cut=100)]
    pull(registry, store)
    assert store.path(LAYER.digest).read_bytes() == BLOB
    assert len(registry.asked(LAYER.digest)) == 2
    pull(registry, store)
    assert len(registry.asked(LAYER.digest)) == 2


@pytest.mark.parametrize("length", [0, 7, len(BLOB) + 1])
def test_a_lie_about_a_layers_length_keeps_nothing(
    registry: FaultyRegistry, store: BlobStore, length: int
) -> None:
    registry.faults[f"HEAD app/blobs/{LAYER.digest}"] = [Fault(length=length)] * 20
    with pytest.raises(RegistryError):
        pull(registry, store)
    assert store.list() == []


def test_of_an_index_of_images_the_one_for_this_platform_has_the_cache(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    records = [{"digest": "x", "layers": [{"layer": 0}]}]
    cache = base64.b64encode(json.dumps(records).encode()).decode()
    config = {"os": "linux", "rootfs": {"diff_ids": [DIFF_ID]}, INLINE: cache}
    other = registry.add_image("other", b"another", config=b'{"rootfs":{"diff_ids":[]}}')
    mine = registry.add_image("mine", BLOB, config=json.dumps(config).encode())
    manifests = [
        {
            "mediaType": MANIFEST_TYPE,
            "digest": digest,
            "size": len(registry.manifests[digest][0]),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for digest, architecture in ((other, "arm64"), (mine, "amd64"))
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    registry.add_manifest("many", index, OCI_INDEX)
    found = read(registry, store, "many")
    assert json.loads(found.config)["records"] == records
    assert [one.digest for one in found.layers] == [sha256(BLOB)]
    with pytest.raises(BadCacheConfig, match="no cache in it"):
        read(registry, store, "other")


# --- bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "oci"), [(True, True), (False, True), (False, False)])
def test_each_form_of_manifest_says_what_was_written(image: bool, oci: bool) -> None:
    zstd = "application/vnd.oci.image.layer.v1.tar+zstd"
    layers = (LAYER, Layer(zstd, f"sha256:{'a' * 64}", 5, DIFF_ID, imported=True))
    data = cache_manifest(CONFIG, layers, image=image, oci=oci)
    assert data == cache_manifest(CONFIG, list(layers), image=image, oci=oci)
    assert (DOCKER_LIST.encode() in data, b"docker.image.rootfs" in data) == (
        not oci,
        not oci,
    )
    found = parse_cache_manifest(data)
    assert found is not None
    assert (found.config, found.layers) == (sha256(CONFIG), layers)


NO_DIGESTS = [
    "",
    "sha256:../../../etc/passwd",
    f"{LAYER.digest}/../x",
    f"{LAYER.digest}\n",
    LAYER.digest.upper(),
    f"sha512:{'a' * 128}",
]


@pytest.mark.parametrize("digest", NO_DIGESTS)
def test_a_cache_whose_config_has_a_digest_that_is_none_is_refused(digest: str) -> None:
    config = {"mediaType": CACHE_TYPE, "digest": digest, "size": 1}
    with pytest.raises(BadCacheConfig, match="without a sha256 digest"):
        parse_cache_manifest(json.dumps({"config": config}).encode())


@pytest.mark.parametrize("digest", NO_DIGESTS)
def test_a_layer_of_a_cache_without_proper_digests_is_left_out(digest: str) -> None:
    data = json.loads(cache_manifest(CONFIG, [LAYER], image=True))
    (right,) = data["layers"]
    wrong = right | {"digest": digest}
    unproved = right | {
        "annotations": right["annotations"] | {"containerd.io/uncompressed": digest}
    }
    data["layers"] = [wrong, unproved]
    found = parse_cache_manifest(json.dumps(data).encode())
    assert found is not None
    assert found.layers == ()


@pytest.mark.parametrize("size", ["5", None, -1, 1 << 50, 1 << 70, 1.5, [], {}])
def test_a_size_that_cannot_be_is_none(size: object) -> None:
    data = json.loads(cache_manifest(CONFIG, [LAYER], image=True))
    data["layers"][0]["size"] = size
    found = parse_cache_manifest(json.dumps(data).encode())
    assert found is not None
    assert [one.size for one in found.layers] == [0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda one: (
        st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=9), one, max_size=3)
    ),
    max_leaves=9,
)
MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "config": JSON | st.just({"mediaType": CACHE_TYPE, "digest": sha256(b"")}),
        "layers": JSON | st.lists(JSON, max_size=3),
        "manifests": JSON | st.lists(JSON, max_size=3),
    },
)


@given(st.binary(max_size=200) | MANIFESTS.map(lambda one: json.dumps(one).encode()))
def test_any_manifest_is_a_caches_or_another_or_malformed(data: bytes) -> None:
    try:
        found = parse_cache_manifest(data)
    except BadCacheConfig:
        return
    if found is not None:
        assert all(layer.digest.startswith("sha256:") for layer in found.layers)


def encoded(value: object) -> object:
    return base64.b64encode(json.dumps(value).encode()).decode()


IMAGES = st.fixed_dictionaries(
    {},
    optional={
        "rootfs": JSON | st.just({"diff_ids": [DIFF_ID]}),
        INLINE: JSON | JSON.map(encoded),
    },
)


@given(st.binary(max_size=200) | IMAGES.map(lambda one: json.dumps(one).encode()))
def test_any_configuration_has_a_cache_or_none_or_is_malformed(data: bytes) -> None:
    try:
        found = parse_inline(data, [(LAYER_TYPE, LAYER.digest, 5)])
    except BadCacheConfig:
        return
    if found is not None:
        assert [layer.diff_id for layer in found[1]] == [DIFF_ID]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image["rootfs"].update(diff_ids=[]),
        lambda image: image["rootfs"].update(diff_ids=["sha256:../x"]),
        lambda image: image.update({INLINE: "%%%"}),
        lambda image: image.update({INLINE: base64.b64encode(b"{}").decode()}),
    ],
)
def test_an_inline_cache_that_cannot_be_is_refused(
    change: Callable[[dict[str, Any]], None],
) -> None:
    image: dict[str, Any] = {"rootfs": {"diff_ids": [DIFF_ID]}, INLINE: encoded([])}
    blobs = [(LAYER_TYPE, LAYER.digest, 5)]
    assert parse_inline(json.dumps(image).encode(), blobs) is not None
    change(image)
    with pytest.raises(BadCacheConfig):
        parse_inline(json.dumps(image).encode(), blobs)
