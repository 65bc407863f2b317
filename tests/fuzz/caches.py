"""Build caches of others: their manifests, their configs, and what is made of them."""

import base64
import json
import random
from typing import Final

from filesync.digest import digest_of
from solver.caches.config import CacheConfig, canonical, decode, encode
from solver.caches.graph import CachedStep, CacheMatch, config_of
from solver.caches.merge import in_image, joined, merged
from solver.graph import Graph, Vertex
from tests.fuzz import mutation
from tests.fuzz.mutation import Mutate
from worker.wire.caches import (
    INLINE,
    BadCacheConfig,
    cache_manifest,
    parse_cache_manifest,
    parse_inline,
)
from worker.wire.ops import Copy, ExecOp, FileOp, ImageOp
from worker.wire.orders import Layer

CONFIG: Final = b"c"
MANIFEST: Final = b"m"
IN_IMAGE: Final = b"i"


def _layer(number: int) -> Layer:
    digest = f"sha256:{number:064x}"
    return Layer("application/vnd.oci.image.layer.v1.tar+gzip", digest, 5, digest)


LAYERS: Final = tuple(map(_layer, range(3)))
BY_DIGEST: Final = {layer.digest: layer for layer in LAYERS}
BLOBS: Final = [(layer.media_type, layer.digest, layer.size) for layer in LAYERS]
IMAGE: Final = [(layer.diff_id, layer.digest) for layer in LAYERS]
CONTENT: Final = digest_of(b"what a step reads")
OPS: Final = (
    ImageOp(LAYERS[0].digest, "registry.example/base"),
    ExecOp(("make",)),
    FileOp((Copy(0, "/out", "/"),), scratch=True),
)
GRAPH: Final = Graph((Vertex(OPS[0]), Vertex(OPS[1], (0,)), Vertex(OPS[2], (1,))), 2)


def fuzz(data: bytes) -> None:
    """Take ``data`` as what its first byte says, and use it as a build does."""
    kind, data = data[:1], data[1:]
    try:
        if kind == CONFIG:
            _use(decode(data))
        elif kind == MANIFEST:
            found = parse_cache_manifest(data)
            if found is not None:
                written = cache_manifest(b"{}", found.layers, image=True)
                assert parse_cache_manifest(written) is not None
        elif kind == IN_IMAGE:
            inline = parse_inline(data, BLOBS)
            if inline is not None:
                _use(decode(inline[0]))
    except BadCacheConfig:
        pass


def _use(config: CacheConfig) -> None:
    match = CacheMatch(config, BY_DIGEST, GRAPH)
    for position in range(len(GRAPH.vertices)):
        found = match.by_definition(position)
        found += match.by_content(position, (CONTENT,) * bool(position))
        assert all(layer in LAYERS for chain in found for layer in chain)
    kept, places = match.kept()
    once = canonical(joined(merged([(kept, places), (kept, range(len(kept.records)))])))
    assert canonical(once) == once
    assert decode(encode(once)) == once
    in_image(config, BY_DIGEST, IMAGE)


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something in its JSON changed."""
    kind, data = data[:1], data[1:]
    if kind == IN_IMAGE and rng.random() < 0.7:
        try:
            image = json.loads(data)
            records = base64.b64decode(image[INLINE], validate=True)
        except (ValueError, LookupError, TypeError, RecursionError):
            return kind + mutate(data)
        changed = mutation.mutated(records, rng, mutate, json=True)
        image[INLINE] = base64.b64encode(changed).decode()
        return kind + json.dumps(image).encode()
    return kind + mutation.mutated(data, rng, mutate, json=True)


def seeds() -> list[bytes]:
    """Return a config of three steps, what holds it together, and an image that has it."""
    chain = tuple(layer.digest for layer in LAYERS)
    steps = (
        CachedStep(OPS[0]),
        CachedStep(OPS[1], (0,), (CONTENT,), chain[:2], 7.9),
        CachedStep(OPS[2], (1,), (CONTENT,), chain, 8),
    )
    config = encode(config_of(steps))
    value = json.loads(config)
    chained = dict(
        value["records"][-1], chains=[{"layers": [0, 1]}, {"layers": [2]}], layers=[]
    )
    more = json.dumps(value | {"records": [*value["records"], chained]}).encode()
    records = base64.b64encode(json.dumps(value["records"]).encode()).decode()
    image = {"rootfs": {"diff_ids": [layer.diff_id for layer in LAYERS]}, INLINE: records}
    manifests = [
        cache_manifest(config, LAYERS, image=image, oci=oci)
        for image, oci in ((True, True), (False, True), (False, False))
    ]
    return [
        CONFIG + config,
        CONFIG + more,
        *(MANIFEST + manifest for manifest in manifests),
        IN_IMAGE + json.dumps(image).encode(),
    ]
