"""Caches in a layout on disk, as others write them too, and as nobody should."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from filesync.errors import FilesyncError, StoreError, UsageError
from solver.client.caches.local import (
    CANNOT_READ,
    check_sent,
    copy_known,
    read_cache,
    write_cache,
)
from solver.client.caches.options import (
    CacheSource,
    CacheTo,
    InlineCache,
    RegistrySource,
    parse_cache_from,
    parse_cache_to,
)
from solver.wire import CacheFrom, CacheMade, CacheMode, CachePush
from tests.unit.solver.fakes import digest
from worker.wire.caches import CACHE_TYPE
from worker.wire.images import TOC_DIGEST, Compression
from worker.wire.orders import Layer

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DIFF_ID = f"sha256:{'d' * 64}"
BLOB = b"a layer's bytes"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def name_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def put(layout: Path, data: bytes) -> str:
    path = layout / "blobs" / "sha256" / sha256(data).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name_of(data)


def config_for(blob: str) -> bytes:
    record = {"layers": [{"layer": 0}], "digest": f"sha256:{'e' * 64}", "later": True}
    return json.dumps({"layers": [{"blob": blob, "parent": -1}], "records": [record]}).encode()


def foreign(layout: Path, *, form: str = "image", **change: object) -> CacheSource:
    """Write a cache as another tool does, with what it need not say; ``change`` its layer."""
    layer: dict[str, Any] = {
        "mediaType": GZIP,
        "digest": put(layout, BLOB),
        "size": len(BLOB),
        "annotations": {"containerd.io/uncompressed": DIFF_ID, "buildkit/createdat": "now"},
    } | change
    config = {"mediaType": CACHE_TYPE, "digest": put(layout, config_for(name_of(BLOB)))}
    manifest: dict[str, Any] = {"schemaVersion": 2, "later": [None]}
    if form == "image":
        manifest |= {"config": config, "layers": [layer]}
    else:
        manifest |= {"manifests": [layer, config]}
    index = [
        {"digest": "sha256:other", "annotations": {REF: "other"}},
        {"digest": put(layout, json.dumps(manifest).encode()), "annotations": {REF: "latest"}},
    ]
    (layout / "index.json").write_text(json.dumps({"manifests": index}))
    return CacheSource(layout)


REF = "org.opencontainers.image.ref.name"


@pytest.mark.parametrize("form", ["image", "index"])
def test_both_forms_of_a_foreign_cache_are_read(tmp_path: Path, form: str) -> None:
    cache, blobs = read_cache(foreign(tmp_path / "cache", form=form))
    assert cache.layers == (Layer(GZIP, name_of(BLOB), len(BLOB), DIFF_ID, imported=True),)
    assert cache.tree == blobs.manifest.tree
    assert blobs.root == tmp_path / "cache" / "blobs" / "sha256"


@pytest.mark.parametrize("size", [0, 1 << 60, -7, "much"])
def test_a_size_that_a_cache_tells_is_not_believed(tmp_path: Path, size: object) -> None:
    cache, _ = read_cache(foreign(tmp_path / "cache", size=size))
    assert cache.layers[0].size == len(BLOB)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": f"sha256:{'f' * 64}"},
        {"digest": "sha256:../../index.json"},
        {"digest": "sha512:ab"},
        {"annotations": None},
        {"annotations": {"containerd.io/uncompressed": "../x"}},
    ],
)
def test_a_layer_of_which_too_little_is_known_is_left_out(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    cache, _ = read_cache(foreign(tmp_path / "cache", **change))
    assert cache.layers == ()


def test_what_is_no_cache_says_why(tmp_path: Path) -> None:
    source = foreign(tmp_path / "cache")

    def refused(source: CacheSource, why: str) -> None:
        with pytest.raises(FilesyncError, match=why) as caught:
            read_cache(source)
        assert isinstance(caught.value, CANNOT_READ)

    refused(CacheSource(tmp_path / "none"), "no cache there")
    refused(CacheSource(source.src, tag="v2"), "but other, latest")
    refused(CacheSource(source.src, tag="other"), "without a sha256 digest")
    refused(CacheSource(source.src, name_of(BLOB)), "is no manifest")
    refused(CacheSource(source.src, name_of(b"not there")), "No such file")
    image = put(source.src, b'{"config":{"mediaType":"image"},"layers":[]}')
    refused(CacheSource(source.src, image), "no cache config")
    (source.src / "blobs/sha256" / sha256(BLOB).hexdigest()).write_bytes(b"changed")
    refused(CacheSource(source.src, name_of(BLOB)), "is damaged")


@pytest.mark.parametrize("image", [True, False])
def test_what_is_written_is_read_again_beside_other_tags(tmp_path: Path, image: bool) -> None:
    layout = tmp_path / "cache"
    mine = Layer(GZIP, put(layout, BLOB), len(BLOB), DIFF_ID)
    seekable = ((TOC_DIGEST, DIFF_ID),)
    base = Layer(GZIP, put(layout, b"base"), 4, DIFF_ID, imported=True, annotations=seekable)
    made = CacheMade(config_for(mine.digest), (mine, base), ())
    first = write_cache(made, CacheTo(layout, CacheMode.MAX, image, "one"))
    assert write_cache(made, CacheTo(layout, CacheMode.MAX, image, "two")) == first
    before = (layout / "index.json").read_bytes()
    assert write_cache(made, CacheTo(layout, CacheMode.MAX, image, "two")) == first
    assert (layout / "index.json").read_bytes() == before
    for source in (CacheSource(layout, tag="one"), CacheSource(layout, first, "none")):
        cache, _ = read_cache(source)
        assert cache.config == made.config
        assert cache.layers == made.layers


def test_layers_that_a_cache_lacks_are_copied_out_of_those_that_have_them(
    tmp_path: Path,
) -> None:
    one, two, new = (tmp_path / name for name in ("one", "two", "new"))
    layers = tuple(
        Layer(GZIP, put(layout, data), len(data), DIFF_ID)
        for layout, data in ((one, b"first"), (two, b"second"), (new, b"here"))
    )
    blobs, *sources = (layout / "blobs" / "sha256" for layout in (new, one, two))
    made = CacheMade(b"", layers, ())
    copy_known(made, blobs, sources)
    found = {path.read_bytes(): f"sha256:{path.name}" for path in blobs.iterdir()}
    assert found == {data: name_of(data) for data in (b"first", b"second", b"here")}
    with pytest.raises(StoreError, match="is gone from the cache that had it"):
        copy_known(CacheMade(b"", (Layer(GZIP, DIFF_ID, 1, DIFF_ID),), ()), blobs, sources)


def test_a_damaged_layer_of_a_cache_is_not_copied_into_another(tmp_path: Path) -> None:
    source, blobs = tmp_path / "one" / "blobs" / "sha256", tmp_path / "new"
    layer = Layer(GZIP, put(tmp_path / "one", BLOB), len(BLOB), DIFF_ID)
    (source / layer.digest.removeprefix("sha256:")).write_bytes(BLOB[:-1] + b"?")
    blobs.mkdir()
    with pytest.raises(StoreError, match="is damaged"):
        copy_known(CacheMade(b"", (layer,), ()), blobs, [source])
    assert list(blobs.iterdir()) == []


def test_caches_too_large_for_one_message_are_refused() -> None:
    cache = CacheFrom(b" " * (7 << 20), (), digest("tree"))
    check_sent([cache])
    with pytest.raises(UsageError, match="fewer --cache-from"):
        check_sent([cache, cache])


def test_options_mean_what_buildkit_means_by_them(tmp_path: Path) -> None:
    cache = tmp_path / "c"
    plain = parse_cache_to(f"type=local,dest={cache}")
    assert plain == CacheTo(cache, CacheMode.MIN, image=True, tag="latest")
    full = parse_cache_to(f"type=local,dest={cache},mode=max,image-manifest=false,tag=v1")
    assert full == CacheTo(cache, CacheMode.MAX, image=False, tag="v1")
    one = f"sha256:{'1' * 64}"
    assert parse_cache_from(f"type=local,src={cache},digest={one}") == CacheSource(cache, one)
    for wrong in ("sha256:../../x", one[:-1], f"{one}/x", one.upper()):
        with pytest.raises(UsageError, match="a digest is sha256: and 64 hex digits"):
            parse_cache_from(f"type=local,src={cache},digest={wrong}")
    for text in (f"type=local,dest={tmp_path}/no/c", "type=local,dest=/etc/hostname"):
        with pytest.raises(UsageError, match="not a directory"):
            parse_cache_to(text)


def test_a_cache_in_a_registry_is_asked_for_in_buildkits_words() -> None:
    name = "registry.example/team/app:cache"
    assert parse_cache_to(name) == CachePush(name)
    assert parse_cache_to(f"type=registry,ref={name}") == CachePush(name)
    options = (
        "mode=max,image-manifest=false,oci-mediatypes=false,compression=gzip,"
        "compression-level=9,force-compression=true,ignore-error=true"
    )
    assert parse_cache_to(f"type=registry,ref={name},{options}") == CachePush(
        name, CacheMode.MAX, False, False, Compression.GZIP, 9, True
    )
    assert parse_cache_to("type=inline,mode=min") == InlineCache()
    assert parse_cache_from("user/app") == RegistrySource("docker.io/user/app:latest")
    assert parse_cache_from(f"type=registry,ref={name}") == RegistrySource(name)
    pinned = f"registry.example/app@sha256:{'1' * 64}"
    assert parse_cache_from(pinned) == RegistrySource(pinned)
