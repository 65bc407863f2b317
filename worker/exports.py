"""Results made ready to be taken: one tar, or an OCI image layout."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec

from filesync.digest import Digest
from filesync.disk.scanning.scan import scan
from filesync.errors import LocalError
from filesync.manifest import Manifest
from filesync.trees.retime import with_times
from worker.history import fitting
from worker.layers import LayerForm, tar_blocks
from worker.moving import chains
from worker.store import Store
from worker.wire import orders
from worker.wire.caches import dump
from worker.wire.images import PushImage
from worker.wire.orders import ExportForm, Layer

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
REF_NAME: Final = "org.opencontainers.image.ref.name"


class Exported(msgspec.Struct, frozen=True):
    """A directory to be taken from this worker; closing ``stack`` lets go of it."""

    manifest: Manifest
    root: Path
    stack: contextlib.ExitStack
    image_manifest: tuple[str, int] | None = None
    image_config: str | None = None


class Image(msgspec.Struct, frozen=True):
    """An image; ``config`` and ``manifest`` are the bytes that their digests are of."""

    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes


def export(store: Store, order: orders.Export) -> Exported:
    """Make ``order.ref`` into the form asked for. Blocks.

    Raises:
        RefMissing: the ref is not here.
    """
    with contextlib.ExitStack() as stack:
        root = store.make_work("export")
        stack.callback(store.drop_work, root)
        match order.form:
            case ExportForm.TAR:
                with store.view(order.ref) as tree, (root / "tree.tar").open("wb") as file:
                    dated = timed(store, tree.manifest, order)
                    file.writelines(tar_blocks(None, dated, tree.root))
                scanned = scan(root, store.nodes)
                return Exported(Manifest(scanned.tree, store.nodes), root, stack.pop_all())
            case ExportForm.OCI:
                manifest, config, hints = write_layout(store, order, root)
                scanned = scan(root, store.nodes, hints=hints)
                layout = Manifest(scanned.tree, store.nodes)
                return Exported(layout, root, stack.pop_all(), manifest, config)
            case ExportForm.TREE:
                raise LocalError("a tree is offered as it stands")
            case _:
                assert_never(order.form)


def timed(store: Store, tree: Manifest, order: orders.Export) -> Manifest:
    """Return a tree with the time that an order wants all of it to have, if it wants one."""
    if order.time_s is None:
        return tree
    return with_times(tree, store.nodes, mtime_ns=order.time_s * 1_000_000_000)


def write_layout(
    store: Store, order: orders.Export, root: Path
) -> tuple[tuple[str, int], str, dict[bytes, tuple[int, Digest]]]:
    """Write the image of a ref as an OCI layout below ``root``.

    The layer blobs are hard links into this worker's own store. Returns the manifest's digest
    and size, the configuration's digest, and what is known of the blobs' contents.
    """
    directory = root / "blobs" / "sha256"
    directory.mkdir(parents=True)
    hints: dict[bytes, tuple[int, Digest]] = {}
    with contextlib.ExitStack() as holds:
        image = assemble(store, order, holds)
        for layer in image.layers:
            name = layer.digest.removeprefix("sha256:")
            with contextlib.suppress(FileExistsError):
                os.link(store.blobs.path(layer.digest), directory / name, follow_symlinks=False)
            blob = store.blobs.find(layer.digest)
            if blob is not None:
                hints[f"blobs/sha256/{name}".encode()] = (blob.size, blob.blake3)
    for data in (image.config, image.manifest):
        (directory / sha256(data).removeprefix("sha256:")).write_bytes(data)
    manifest = (sha256(image.manifest), len(image.manifest))
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    index = image_index(
        *manifest, order.name, image.config, annotations=order.descriptor_annotations
    )
    (root / "index.json").write_bytes(dump(index))
    return manifest, sha256(image.config), hints


def assemble(
    store: Store, order: orders.Export | PushImage, holds: contextlib.ExitStack
) -> Image:
    """Return the image that an order is about; its layers stay in the store while ``holds`` is open.

    Blocks.

    It is the same wherever it goes, and whichever worker that holds the ref makes it.

    Raises:
        RefMissing: the ref is not here.
    """
    form = LayerForm(order.compression, order.level, order.newest_s)
    refs = [held.info.ref for held in store.refs.chain(order.ref)]
    layers = chains.make_layers(store, refs, form, holds)
    return image_of(layers, order.config, order.annotations)


def image_of(layers: Sequence[Layer], config: bytes, annotations: Mapping[str, str]) -> Image:
    """Return the image of ``layers``, lowest first; ``config`` is without its ``rootfs``."""
    full = dump(image_config(config, layers))
    manifest = image_manifest(sha256(full), len(full), layers, annotations=annotations)
    return Image(tuple(layers), full, dump(manifest))


def image_config(config: bytes, layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the image configuration with the root filesystem of ``layers``, which its history fits."""
    value: dict[str, Any] = json.loads(config)
    if history := value.get("history"):
        value["history"] = fitting(history, layers)
    value["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    return value


def image_manifest(
    config: str,
    config_bytes: int,
    layers: Sequence[Layer],
    *,
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    """Return the OCI image manifest."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config, "size": config_bytes},
        "layers": [_described(layer) for layer in layers],
    }
    return manifest | {"annotations": dict(annotations)} if annotations else manifest


def _described(layer: Layer) -> dict[str, Any]:
    value = {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
    return value | ({"annotations": dict(layer.annotations)} if layer.annotations else {})


def image_index(
    manifest: str, size: int, name: str, config: bytes, *, annotations: Mapping[str, str]
) -> dict[str, Any]:
    """Return the layout's index: one image, called by each of the names in ``name``."""
    value = json.loads(config)
    image: dict[str, Any] = {"mediaType": MANIFEST_TYPE, "digest": manifest, "size": size}
    platform = {key: value[key] for key in ("architecture", "os", "variant") if value.get(key)}
    if platform:
        image["platform"] = platform
    told = [{**annotations, **_called(one)} for one in name.split(",") if one]
    images = [
        image | {"annotations": one} if one else image for one in told or [dict(annotations)]
    ]
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": images}


def _called(name: str) -> dict[str, str]:
    tag = name.rpartition("/")[2].partition(":")[2] or "latest"
    return {"io.containerd.image.name": name, REF_NAME: tag}


def sha256(data: bytes) -> str:
    """Return the digest by which OCI names ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
