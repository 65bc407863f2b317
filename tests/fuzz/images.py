"""What registries say of images: manifests, indexes, configurations, and whom they let in."""

import json
import random
from typing import Final

from filesync.errors import UsageError
from tests.fuzz import mutation
from tests.fuzz.mutation import Mutate
from worker.layers.chunked import toc_place
from worker.registry.challenge import parse_challenges, pick_challenge
from worker.registry.errors import BadRegistry, NotInRegistry
from worker.registry.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_LAYERS,
    MAX_MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    choose,
    diff_ids_of,
    parse_manifest,
)
from worker.wire.images import TOC_DIGEST, ZSTD_CHUNKED, parse_reference, seekable_annotations
from worker.wire.platforms import Platform

MANIFEST: Final = b"m"
CONFIG: Final = b"c"
CHALLENGE: Final = b"w"
NAME: Final = b"n"
TOLD: Final = ("", OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, "text/html; a=b")
WANTED: Final = (Platform("linux", "arm", "v7"), Platform("linux", "amd64"))
SHA: Final = "sha256:" + "0" * 64


def fuzz(data: bytes) -> None:
    """Take ``data`` as what its first byte says."""
    kind, data = data[:1], data[1:]
    try:
        if kind == MANIFEST:
            _take_manifest(data)
        elif kind == CONFIG:
            assert all(
                one.startswith("sha256:") and len(one) == 71 for one in diff_ids_of(data)
            )
        elif kind == CHALLENGE:
            header = data.decode("latin-1")
            assert len(parse_challenges(header)) <= len(header)
            pick_challenge(header)
        elif kind == NAME:
            named = parse_reference(data.decode(errors="replace"))
            assert parse_reference(str(named)) == named
    except (BadRegistry, NotInRegistry, UsageError):
        pass


def _take_manifest(data: bytes) -> None:
    told, data = TOLD[data[0] % len(TOLD)] if data else "", data[1:]
    found = parse_manifest(data, content_type=told)
    if isinstance(found, Index):
        assert len(found.manifests) <= MAX_MANIFESTS
        for wanted in WANTED:
            try:
                assert choose(found, wanted) in found.manifests
            except NotInRegistry:
                pass
        return
    assert len(found.layers) <= MAX_LAYERS
    for layer in (found.config, *found.layers):
        assert len(layer.digest) == len(SHA)
        seekable_annotations(layer.annotations)
        for names in ZSTD_CHUNKED:
            toc_place(layer.annotation(names[1]), layer.size)


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something in its JSON, or its text, changed."""
    kind, data = data[:1], data[1:]
    if kind == MANIFEST and data:
        told = data[:1] if rng.random() < 0.7 else bytes((rng.randrange(len(TOLD)),))
        return kind + told + mutation.mutated(data[1:], rng, mutate, json=True)
    if kind == CONFIG:
        return kind + mutation.mutated(data, rng, mutate, json=True)
    return kind + mutate(data)


def seeds() -> list[bytes]:
    """Return an image and an index of each kind, a configuration, challenges and names."""
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": SHA,
        "size": 5,
        "annotations": {
            TOC_DIGEST: SHA,
            ZSTD_CHUNKED[0][0]: SHA,
            ZSTD_CHUNKED[0][1]: "1:2:3:1",
        },
    }
    config = layer | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    platforms = [
        {"os": "linux", "architecture": "arm", "variant": variant}
        for variant in ("v6", "v8", "")
    ]
    platforms.append({"os": "linux", "architecture": "amd64"})
    below = [layer | {"mediaType": OCI_MANIFEST, "platform": one} for one in platforms]
    documents: list[tuple[int, object]] = [
        (
            at,
            {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer, layer]},
        )
        for at, kind in ((0, OCI_MANIFEST), (3, DOCKER_MANIFEST))
    ]
    documents += [
        (at, {"schemaVersion": 2, "mediaType": kind, "manifests": below})
        for at, kind in ((0, OCI_INDEX), (4, DOCKER_LIST))
    ]
    bearer = b'Bearer realm="https://a.example/t",service="s",scope="a\\"b", Basic realm=x'
    return [
        *(MANIFEST + bytes((at,)) + json.dumps(one).encode() for at, one in documents),
        CONFIG + json.dumps({"rootfs": {"type": "layers", "diff_ids": [SHA]}}).encode(),
        CHALLENGE + bearer,
        NAME + b"localhost:5000/a/b-c_d.e:tag",
        NAME + b"alpine@" + SHA.encode(),
    ]
