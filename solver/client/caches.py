"""The options --cache-to and --cache-from, and caches as OCI image layouts on this machine."""

import csv
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from filesync.disk.scanning.scan import scan
from filesync.disk.scanning.statcache import StatCache
from filesync.errors import PeerError, StoreError, UsageError
from filesync.manifest import File, Manifest, MemoryNodes
from filesync.manifest.owner import owned_by
from solver.cacheconfig import MAX_CONFIG_BYTES, MAX_ITEMS, MEDIA_TYPE, BadCacheConfig, decode
from solver.client.contexts import Context, cache_path
from solver.wire import CacheFrom, CacheMade, CacheMode
from worker.wire.images import seekable_annotations
from worker.wire.orders import Layer

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
REF_NAME: Final = "org.opencontainers.image.ref.name"
DIFF_ID: Final = "containerd.io/uncompressed"
MADE: Final = "filesync/made"
"""Marks a layer that a build made: only such a layer is ever compressed otherwise."""
MAX_MANIFEST_BYTES: Final = 32 << 20
MAX_INDEX_BYTES: Final = 4 << 20
MAX_SENT_BYTES: Final = 12 << 20
"""Bound on all caches of a build together: they go to the manager in one message."""
_LAYER_BYTES: Final = 260
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_TO: Final = ("type", "dest", "mode", "image-manifest", "oci-mediatypes", "tag")
_FROM: Final = ("type", "src", "digest", "tag")


@dataclass(frozen=True, slots=True)
class CacheTo:
    """One ``--cache-to``.

    Attributes:
        image: write an image manifest, not an index.
        tag: what the layout's index calls it.
    """

    dest: Path
    mode: CacheMode = CacheMode.MIN
    image: bool = True
    tag: str = "latest"


@dataclass(frozen=True, slots=True)
class CacheSource:
    """One ``--cache-from``; ``digest``, if there is one, decides whatever ``tag`` says."""

    src: Path
    digest: str = ""
    tag: str = "latest"


def parse_cache_to(text: str) -> CacheTo:
    """Return what ``type=local,dest=DIR[,mode=min|max]`` asks for.

    Raises:
        UsageError: it cannot be understood, or is of a kind that is not there yet.
    """
    option = f"--cache-to {text}"
    fields = _fields(option, text, _TO)
    if not fields.get("dest"):
        raise UsageError(f"{option}: say where to: dest=DIR")
    mode = fields.get("mode", "min")
    if mode not in tuple(CacheMode):
        raise UsageError(f"{option}: the mode is one of {', '.join(CacheMode)}")
    image = fields.get("image-manifest", "true")
    if image not in ("true", "false") or fields.get("oci-mediatypes", "true") != "true":
        raise UsageError(f"{option}: image-manifest is true or false, oci-mediatypes is true")
    dest = Path(fields["dest"]).absolute()
    if not dest.parent.is_dir() or (dest.exists() and not dest.is_dir()):
        raise UsageError(f"{option}: {dest} is not a directory, and none can be made there")
    return CacheTo(dest, CacheMode(mode), image == "true", fields.get("tag") or "latest")


def parse_cache_from(text: str) -> CacheSource:
    """Return what ``type=local,src=DIR[,tag=TAG][,digest=sha256:…]`` names.

    Raises:
        UsageError: it cannot be understood, or is of a kind that is not there yet.
    """
    option = f"--cache-from {text}"
    fields = _fields(option, text, _FROM)
    if not fields.get("src"):
        raise UsageError(f"{option}: say from where: src=DIR")
    digest = fields.get("digest", "")
    if digest and not _SHA256.match(digest):
        raise UsageError(f"{option}: a digest is sha256: and 64 hex digits")
    return CacheSource(Path(fields["src"]).absolute(), digest, fields.get("tag") or "latest")


def _fields(option: str, text: str, known: Sequence[str]) -> dict[str, str]:
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        raise UsageError(f"{option}: {exc}") from exc
    fields = dict(part.partition("=")[::2] for part in parts)
    kind = fields.get("type", "")
    if kind in ("registry", "inline"):
        raise UsageError(f"{option}: type={kind} is not supported yet; use type=local")
    if kind != "local":
        raise UsageError(f"{option}: the type is local: type=local,…")
    for key in fields:
        if key not in known:
            raise UsageError(f"{option}: {key!r} is none of {', '.join(known)}")
    return fields


# --- writing ----------------------------------------------------------------------------------


def write_cache(made: CacheMade, to: CacheTo) -> str:
    """Add a cache, whose layers are there, to the layout at ``to.dest``; return its digest.

    The index is written last, so that what it names is there whole.

    Raises:
        StoreError: it cannot be written.
    """
    config = {"mediaType": MEDIA_TYPE} | _stored(made.config)
    layers = [_descriptor(layer) for layer in made.layers]
    kind = MANIFEST_TYPE if to.image else INDEX_TYPE
    manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": kind}
    if to.image:
        manifest |= {"config": config, "layers": layers}
    else:
        manifest |= {"manifests": [*layers, config]}
    data = _dump(manifest)
    try:
        for blob in (made.config, data):
            _replace(_blob(to.dest, _stored(blob)["digest"]), blob)
        _replace(to.dest / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        entry = {"mediaType": kind} | _stored(data) | {"annotations": {REF_NAME: to.tag}}
        others = [one for one in _entries(to.dest) if _tag(one) != to.tag]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*others, entry]}
        _replace(to.dest / "index.json", _dump(index))
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


def _descriptor(layer: Layer) -> dict[str, Any]:
    annotations = {**dict(layer.annotations), DIFF_ID: layer.diff_id}
    if not layer.imported:
        annotations[MADE] = "true"
    bare = {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
    return bare | {"annotations": annotations}


def _stored(data: bytes) -> dict[str, Any]:
    return {"digest": f"sha256:{sha256(data).hexdigest()}", "size": len(data)}


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


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


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob by its digest; whatever size it is said to have is not even read."""

    digest: Annotated[str, msgspec.Meta(max_length=255)] = ""
    media_type: Annotated[str, msgspec.Meta(max_length=255)] = ""
    annotations: dict[str, str] | None = None


class _Manifest(msgspec.Struct, frozen=True):
    config: _Descriptor | None = None
    layers: Annotated[tuple[_Descriptor, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()
    manifests: Annotated[tuple[_Descriptor, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()


_manifest_decoder: Final = msgspec.json.Decoder(_Manifest)


def read_cache(source: CacheSource) -> tuple[CacheFrom, Context]:
    """Return a cache on this machine, and the directory of its blobs to be served. Blocks.

    Blobs that are not there are left out: a result that needs one is not in the cache.

    Raises:
        PeerError, StoreError: there is none, or it cannot be read; a build goes on without.
    """
    digest = source.digest or _find(source)
    data = _read_blob(source.src, digest, MAX_MANIFEST_BYTES)
    try:
        manifest = _manifest_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise BadCacheConfig(f"{digest} is no manifest: {exc}") from exc
    described = (*manifest.layers, *manifest.manifests)
    configs = [one for one in (manifest.config, *manifest.manifests) if one is not None]
    config = next((one for one in configs if one.media_type == MEDIA_TYPE), None)
    if config is None:
        raise BadCacheConfig(f"{digest} has no cache config: it is an image, or something else")
    text = _read_blob(source.src, config.digest, MAX_CONFIG_BYTES)
    decode(text)
    blobs = _scan(source.src / "blobs" / "sha256")
    layers = tuple(_layers(described, blobs.manifest))
    return CacheFrom(text, layers, blobs.manifest.tree), blobs


def check_sent(caches: Sequence[CacheFrom]) -> None:
    """Refuse caches that are too large together.

    Raises:
        UsageError: they are.
    """
    size = sum(len(one.config) + _LAYER_BYTES * len(one.layers) for one in caches)
    if size > MAX_SENT_BYTES:
        raise UsageError(
            f"the caches' configs are {size} bytes together, more than the {MAX_SENT_BYTES}"
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
    with StatCache(cache_path(blobs)) as cache:
        scanned = scan(blobs, nodes, cache=cache)
    return Context(owned_by(Manifest(scanned.tree, nodes), nodes, 0, 0), blobs)


def _layers(described: Sequence[_Descriptor], blobs: Manifest) -> list[Layer]:
    top = blobs.directory(blobs.tree).entries
    sizes = {one.name.decode("latin-1"): one.size for one in top if isinstance(one, File)}
    found: dict[str, Layer] = {}
    for one in described:
        annotations = one.annotations or {}
        diff_id = annotations.get(DIFF_ID, "")
        size = sizes.get(one.digest.removeprefix("sha256:"))
        if size is None or not _SHA256.match(one.digest) or not _SHA256.match(diff_id):
            continue
        imported = annotations.get(MADE) != "true"
        found[one.digest] = Layer(
            one.media_type,
            one.digest,
            size,
            diff_id,
            imported,
            seekable_annotations(annotations),
        )
    return list(found.values())


CANNOT_READ: Final = (PeerError, StoreError)
"""What keeps a cache from being used, and not a build from being done."""
