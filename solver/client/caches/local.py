"""Caches as OCI image layouts on this machine."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from filesync.disk.scanning.scan import scan
from filesync.errors import PeerError, StoreError, UsageError
from filesync.manifest import File, Manifest, MemoryNodes
from filesync.manifest.owner import owned_by
from solver.caches.config import decode
from solver.client.caches.options import CacheSource, CacheTo
from solver.client.contexts import Context, open_context_cache
from solver.wire import CacheFrom, CacheMade
from worker.wire.caches import (
    LAYER_BYTES,
    MAX_CACHE_BYTES,
    MAX_FOUND_BYTES,
    OCI_INDEX,
    BadCacheConfig,
    cache_manifest,
    dump,
    manifest_type,
    parse_cache_manifest,
    stored,
)
from worker.wire.orders import Layer

REF_NAME: Final = "org.opencontainers.image.ref.name"
_MAX_LOCAL_MANIFEST_BYTES: Final = 32 << 20
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


# --- writing ----------------------------------------------------------------------------------


def write_cache(made: CacheMade, to: CacheTo) -> str:
    """Add a cache, whose layers are there, to the layout at ``to.dest``; return its digest.

    The index is written last, so that what it names is there whole.

    Raises:
        StoreError: it cannot be written.
    """
    kind = manifest_type(image=to.image)
    data = cache_manifest(made.config, made.layers, image=to.image)
    try:
        for blob in (made.config, data):
            _replace(_blob(to.dest, stored(blob)["digest"]), blob)
        _replace(to.dest / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        entry = {"mediaType": kind} | stored(data) | {"annotations": {REF_NAME: to.tag}}
        others = [one for one in _entries(to.dest) if _tag(one) != to.tag]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*others, entry]}
        _replace(to.dest / "index.json", dump(index))
    except OSError as exc:
        raise StoreError(f"cannot write the cache {to.dest}: {exc.strerror or exc}") from exc
    return str(entry["digest"])


def copy_known(made: CacheMade, blobs: Path, sources: Sequence[Path]) -> None:
    """Copy the layers that ``blobs`` lacks out of the caches that have them. Blocks.

    Raises:
        StoreError: none has it, or its bytes are not what its digest says.
    """
    for layer in made.layers:
        name = layer.digest.removeprefix("sha256:")
        if (blobs / name).exists():
            continue
        source = next((one / name for one in sources if (one / name).is_file()), None)
        if source is None:
            raise StoreError(f"{layer.digest} is gone from the cache that had it")
        part = blobs / f".{name}.part"
        shutil.copyfile(source, part)
        with part.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        if digest != name:
            part.unlink()
            raise StoreError(f"{source} is damaged: remove it, and build again")
        part.replace(blobs / name)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _entries(layout: Path) -> list[dict[str, Any]]:
    """Return what a layout's index has; nothing where there is no index that can be read."""
    try:
        value = json.loads((layout / "index.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    found = value.get("manifests") if isinstance(value, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _tag(entry: Mapping[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(REF_NAME, "")) if isinstance(annotations, dict) else ""


# --- reading ----------------------------------------------------------------------------------


def read_cache(source: CacheSource) -> tuple[CacheFrom, Context]:
    """Return a cache on this machine, and the directory of its blobs to be served. Blocks.

    Blobs that are not there are left out: a result that needs one is not in the cache.

    Raises:
        PeerError, StoreError: there is none, or it cannot be read; a build goes on without.
    """
    digest = source.digest or _find(source)
    data = _read_blob(source.src, digest, _MAX_LOCAL_MANIFEST_BYTES)
    try:
        manifest = parse_cache_manifest(data)
    except BadCacheConfig as exc:
        raise BadCacheConfig(f"{digest} is {exc}") from exc
    if manifest is None:
        raise BadCacheConfig(f"{digest} has no cache config: it is an image, or something else")
    text = _read_blob(source.src, manifest.config, MAX_CACHE_BYTES)
    decode(text)
    blobs = _scan(source.src / "blobs" / "sha256")
    layers = tuple(_here(manifest.layers, blobs.manifest))
    return CacheFrom(text, layers, blobs.manifest.tree), blobs


def check_sent(caches: Sequence[CacheFrom]) -> None:
    """Refuse caches that are too large together.

    Raises:
        UsageError: they are.
    """
    size = sum(len(one.config) + LAYER_BYTES * len(one.layers) for one in caches)
    if size > MAX_FOUND_BYTES:
        raise UsageError(
            f"the caches' configs are {size} bytes together, more than the {MAX_FOUND_BYTES}"
            " that a build takes; give fewer --cache-from"
        )


def _find(source: CacheSource) -> str:
    if not (source.src / "index.json").is_file():
        raise StoreError(f"{source.src}: no cache there (it would have an index.json)")
    entries = _entries(source.src)
    named = [one for one in entries if _tag(one) == source.tag]
    if len(named) != 1:
        there = ", ".join(filter(None, map(_tag, entries))) or "no tag"
        raise BadCacheConfig(f"{source.src} has no cache {source.tag!r}, but {there}")
    return str(named[0].get("digest", ""))


def _read_blob(layout: Path, digest: str, max_bytes: int) -> bytes:
    # The digest becomes a path: nothing but hex may follow the algorithm.
    if not _SHA256.match(digest):
        raise BadCacheConfig(f"{layout}: a descriptor without a sha256 digest")
    try:
        with _blob(layout, digest).open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as exc:
        raise StoreError(f"{layout}: {digest}: {exc.strerror}") from exc
    if len(data) > max_bytes:
        raise BadCacheConfig(f"{layout}: {digest} is larger than {max_bytes} bytes")
    if digest != f"sha256:{sha256(data).hexdigest()}":
        raise BadCacheConfig(f"{layout}: {digest} is damaged: its bytes have another digest")
    return data


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/", 1)


def _scan(blobs: Path) -> Context:
    nodes = MemoryNodes()
    with open_context_cache(blobs) or nullcontext() as cache:
        scanned = scan(blobs, nodes, cache=cache)
    return Context(owned_by(Manifest(scanned.tree, nodes), nodes, 0, 0), blobs)


def _here(layers: Sequence[Layer], blobs: Manifest) -> Iterator[Layer]:
    """Yield the layers whose blobs are there, with their true sizes."""
    top = blobs.directory(blobs.tree).entries
    sizes = {one.name.decode("latin-1"): one.size for one in top if isinstance(one, File)}
    for layer in layers:
        size = sizes.get(layer.digest.removeprefix("sha256:"))
        if size is not None:
            yield msgspec.structs.replace(layer, size=size)


CANNOT_READ: Final = (PeerError, StoreError)
"""What keeps a cache from being used, and not a build from being done."""
