import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.registry import BadRegistry, NotInRegistry, Platform, parse_manifest
from worker.registry.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_LAYERS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    candidates,
    choose,
    diff_ids_of,
)
from worker.wire.images import layer_type

DIGEST = "sha256:" + "a" * 64
GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": DIGEST,
    "size": 2,
}
LAYER = {"mediaType": GZIP, "digest": DIGEST, "size": 7}
IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": CONFIG,
    "layers": [LAYER],
}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def parse(value: object, content_type: str = "") -> ImageManifest | Index:
    return parse_manifest(json.dumps(value).encode(), content_type=content_type)


def test_an_image_has_a_configuration_and_layers() -> None:
    found = parse(IMAGE, f"{OCI_MANIFEST}; charset=utf-8")
    assert isinstance(found, ImageManifest)
    assert found.layers == (Descriptor(GZIP, DIGEST, 7),)


def test_dockers_schema_2_is_understood() -> None:
    config = CONFIG | {"mediaType": "application/vnd.docker.container.image.v1+json"}
    value = IMAGE | {"mediaType": DOCKER_MANIFEST, "config": config}
    assert isinstance(parse(value, DOCKER_MANIFEST), ImageManifest)
    assert isinstance(parse(INDEX | {"mediaType": DOCKER_LIST}, DOCKER_LIST), Index)


def test_an_image_may_have_no_layers_whichever_way_that_is_said() -> None:
    for text in ("[]", "null"):
        data = json.dumps(IMAGE | {"layers": 0}).replace('"layers": 0', f'"layers": {text}')
        found = parse_manifest(data.encode())
        assert isinstance(found, ImageManifest)
        assert found.layers == ()
    for config in (b"{}", b'{"rootfs":{"diff_ids":null}}', b'{"rootfs":{"diff_ids":[]}}'):
        assert diff_ids_of(config) == []


@pytest.mark.parametrize(
    ("said", "called"),
    [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "tar+zstd"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "tar+gzip"),
        (GZIP, "tar+gzip"),
    ],
)
def test_a_layer_that_was_not_to_be_passed_on_is_one_like_any_other(
    said: str, called: str
) -> None:
    assert isinstance(parse(IMAGE | {"layers": [LAYER | {"mediaType": said}]}), ImageManifest)
    assert layer_type(said) == f"application/vnd.oci.image.layer.v1.{called}"


@pytest.mark.parametrize(
    ("value", "content_type", "says"),
    [
        (IMAGE | {"manifests": []}, "", "an index and an image at once"),
        (INDEX | {"mediaType": OCI_MANIFEST}, "", "an index and an image at once"),
        (IMAGE | {"mediaType": OCI_INDEX}, "", "without a configuration and layers"),
        (IMAGE, DOCKER_MANIFEST, "calls itself"),
        (INDEX, OCI_MANIFEST, "calls itself"),
        (IMAGE | {"schemaVersion": 1}, "", "schema 1"),
        (IMAGE, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (IMAGE | {"config": CONFIG | {"mediaType": "application/x"}}, "", "an artifact"),
        (IMAGE | {"layers": [LAYER | {"mediaType": "application/x"}]}, "", "unknown type"),
        (IMAGE | {"layers": [LAYER | {"digest": "sha256:../../x"}]}, "", "no image manifest"),
        (IMAGE | {"layers": [LAYER | {"digest": DIGEST + "\n"}]}, "", "no image manifest"),
        (IMAGE | {"layers": [LAYER | {"size": -1}]}, "", "no image manifest"),
        (IMAGE | {"layers": [LAYER] * (MAX_LAYERS + 1)}, "", "no image manifest"),
        ({"schemaVersion": 2}, "", "without a configuration"),
        ([], "", "no image manifest"),
    ],
)
def test_what_is_no_image_manifest_is_refused(
    value: object, content_type: str, says: str
) -> None:
    with pytest.raises(BadRegistry, match=says):
        parse(value, content_type)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(BadRegistry):
        parse_manifest(data)


def test_json_that_is_nested_too_deep_is_refused() -> None:
    with pytest.raises(BadRegistry):
        parse_manifest(b'{"schemaVersion":2,"x":' + b"[" * 100_000)


def index(*platforms: str) -> Index:
    found = []
    for number, text in enumerate(platforms):
        os, architecture, *variant = text.split("/")
        platform = Platform(os, architecture, *variant)
        found.append(Descriptor(OCI_MANIFEST, f"sha256:{number:064x}", 1, platform))
    return Index(tuple(found))


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        (("linux/arm64", "linux/amd64"), Platform("linux", "amd64"), 1),
        (("linux/amd64/v3", "linux/amd64"), Platform("linux", "amd64"), 1),
        (("linux/amd64", "linux/amd64/v2"), Platform("linux", "amd64", "v2"), 1),
        (("linux/arm/v6", "linux/arm/v7"), Platform("linux", "arm"), 1),
        (("linux/arm/v5", "linux/arm/v6"), Platform("linux", "arm", "v7"), 1),
        (("linux/arm64",), Platform("linux", "arm64", "v8"), 0),
        (("unknown/unknown", "linux/amd64"), Platform("linux", "amd64"), 1),
        (("linux/amd64", "linux/amd64"), Platform("linux", "amd64"), 0),
    ],
)
def test_the_image_of_the_nearest_platform_is_chosen(
    there: tuple[str, ...], wanted: Platform, chosen: int
) -> None:
    assert choose(index(*there), wanted).digest == f"sha256:{chosen:064x}"


@pytest.mark.parametrize("variant", ["v\u00b2", "v" + "9" * 5000, "v", "v8a", "x7", "\u0663"])
def test_a_variant_that_nobody_knows_is_not_run_and_hides_no_other(variant: str) -> None:
    wanted = Platform("linux", "arm64", "v8")
    there = index(f"linux/arm64/{variant}", "linux/arm64")
    assert [one.digest for one in candidates(there, wanted)] == [f"sha256:{1:064x}"]
    assert list(candidates(there, Platform("linux", "arm64", "odd"))) == []


@pytest.mark.parametrize(
    "strange",
    [
        {"digest": "sha512:" + "a" * 128},
        {"digest": "sha256:../../x"},
        {"size": "1"},
        {"platform": {"os": "linux", "architecture": "arm64", "variant": None}},
    ],
)
def test_a_strange_entry_of_an_index_spoils_no_other(strange: dict[str, object]) -> None:
    good = {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 1}
    good |= {"platform": {"os": "linux", "architecture": "amd64"}}
    found = parse(INDEX | {"manifests": [good | strange, good]})
    assert isinstance(found, Index)
    assert [one.digest for one in found.manifests] == [DIGEST]


def test_an_index_without_the_platform_says_what_there_is() -> None:
    there = index("linux/arm/v8", "linux/amd64", "unknown/unknown")
    with pytest.raises(
        NotInRegistry, match="for linux/arm64, but for linux/amd64, linux/arm/v8"
    ):
        choose(there, Platform("linux", "arm64"))
