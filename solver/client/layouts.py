"""OCI image layouts that a user gives as named contexts."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from filesync.errors import UsageError
from solver.dockerfile import BaseImage
from worker.wire.images import CONFIG_TYPES
from worker.wire.platforms import Platform, nearest, steps_to

SCHEME: Final = "oci-layout://"
MAX_JSON_BYTES: Final = 4 << 20
MAX_LOOKS: Final = 100
"""Manifests that are read to find the image of an index that does not say for what they are."""
REF_NAME: Final = "org.opencontainers.image.ref.name"
_NO_PLATFORM: Final = frozenset({"", "unknown/unknown"})
"""What attestations and other companions of images are said to be for."""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)


class Layout(msgspec.Struct, frozen=True):
    """A layout on this machine and which of its images is meant.

    Attributes:
        tag: name in the layout's index, or empty for ``latest``, or else the only image.
        digest: ``sha256:…`` of a manifest or index, or empty.
    """

    path: Path
    tag: str = ""
    digest: str = ""


def parse_layout(text: str) -> Layout:
    """Return the layout that ``oci-layout://PATH[:TAG][@DIGEST]`` names.

    Raises:
        UsageError: there is no layout at PATH.
    """
    rest = text.removeprefix(SCHEME)
    rest, _, digest = rest.partition("@")
    path, tag = rest, ""
    if not Path(path).is_dir() and ":" in Path(path).name:
        path, _, tag = rest.rpartition(":")
    if not (Path(path) / "index.json").is_file():
        raise UsageError(f"{path}: no OCI image layout there (it would have an index.json)")
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{text}: a digest is sha256: and 64 hex digits")
    return Layout(Path(path).resolve(), tag, digest)


class Layouts:
    """The images behind named contexts, for the Dockerfile front end."""

    def __init__(self, layouts: Mapping[str, Layout], platform: Platform) -> None:
        self._layouts = layouts
        self._platform = platform

    def image(self, name: str) -> BaseImage | None:
        """Return the image behind the context ``name``, None where it is no layout.

        Raises:
            UsageError: the layout does not hold what was asked of it.
        """
        layout = self._layouts.get(name)
        if layout is None:
            return None
        found = self._found(layout)
        layers = [_digest(layout, layer) for layer in _objects(found.manifest, "layers")]
        paths = tuple(map(_blob_path, (found.digest, found.config, *layers)))
        config = _read_blob(layout, found.config)
        return BaseImage(name, found.digest, config, paths, layer_count=len(layers))

    def _found(self, layout: Layout) -> "_Image":
        entries = [{"digest": layout.digest}] if layout.digest else _named(layout)
        if len(entries) == 1:
            # What is named by itself is meant, whatever it is for.
            digest = _digest(layout, entries[0])
            manifest = _read_blob(layout, digest)
            if not _is_index(manifest):
                return _image(layout, digest, manifest)
            entries = _objects(manifest, "manifests")
        return self._look(layout, entries)

    def _look(self, layout: Layout, entries: list[dict[str, Any]]) -> "_Image":
        """Return the image for the platform, out of an index and the indexes in it."""
        wanted = self._platform
        there: set[str] = set()
        todo = _nearest_last(entries, wanted, there)
        for _ in range(MAX_LOOKS):
            if not todo:
                raise UsageError(
                    f"{layout.path}: no image for {wanted}; there is"
                    f" {', '.join(sorted(there - _NO_PLATFORM)) or 'none'}"
                )
            entry = todo.pop()
            digest = _digest(layout, entry)
            manifest = _read_blob(layout, digest)
            if _is_index(manifest):
                todo += _nearest_last(_objects(manifest, "manifests"), wanted, there)
                continue
            if _platform(entry) is None:
                built_for = _platform_of(layout, manifest)
                there.add(str(built_for))
                if steps_to(built_for, wanted) is None:
                    continue
            return _image(layout, digest, manifest)
        raise UsageError(f"{layout.path}: more than {MAX_LOOKS} manifests to find an image in")


class _Image(NamedTuple):
    """An image of a layout, by the digests of its manifest and its configuration."""

    digest: str
    manifest: dict[str, Any]
    config: str


def _image(layout: Layout, digest: str, manifest: dict[str, Any]) -> _Image:
    kind = _media_type(manifest.get("config"))
    if kind and kind not in CONFIG_TYPES:
        raise UsageError(f"{layout.path}: {digest} is not an image, but an artifact: {kind}")
    return _Image(digest, manifest, _digest(layout, manifest.get("config")))


def _is_index(manifest: Mapping[str, Any]) -> bool:
    return _media_type(manifest) in _INDEXES or "manifests" in manifest


def _media_type(value: object) -> str:
    said = value.get("mediaType") if isinstance(value, dict) else None
    return said if isinstance(said, str) else ""


def _nearest_last(
    entries: list[dict[str, Any]], wanted: Platform, there: set[str]
) -> list[dict[str, Any]]:
    """Return what of an index may be for a platform; note in ``there`` for what all is."""
    offered = [(_platform(entry), entry) for entry in entries]
    there |= {str(platform) for platform, _ in offered if platform is not None}
    return list(nearest(offered, wanted))[::-1]


def _platform(entry: Mapping[str, Any]) -> Platform | None:
    said = entry.get("platform")
    return None if said is None else _read_platform(said)


def _platform_of(layout: Layout, manifest: dict[str, Any]) -> Platform:
    """Return for what an image is by its configuration; what is no image is for nothing."""
    kind = _media_type(manifest.get("config"))
    if kind and kind not in CONFIG_TYPES:
        return Platform()
    return _read_platform(_read_blob(layout, _digest(layout, manifest.get("config"))))


def _read_platform(said: object) -> Platform:
    try:
        return msgspec.convert(said, Platform)
    except msgspec.ValidationError:
        return Platform()


def _named(layout: Layout) -> list[dict[str, Any]]:
    """Return what is meant in the layout's own index: one image, or one for several platforms.

    Raises:
        UsageError: it is not clear.
    """
    descriptors = _objects(_read_json(layout.path / "index.json"), "manifests")
    meant = [one for one in descriptors if _name(one) == (layout.tag or "latest")]
    if not meant and not layout.tag:
        meant = descriptors
    if len(meant) == 1 or (meant and all(map(_platform, meant))):
        return meant
    wanted = f"no image named {layout.tag!r}" if layout.tag else "more than one image, or none"
    names = ", ".join(filter(None, map(_name, descriptors)))
    raise UsageError(
        f"{layout.path}: {wanted} in index.json; say which: {SCHEME}{layout.path}:TAG"
        f" (there is {names or 'no name'})"
    )


def _objects(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list ``key``; what is none is left out."""
    found = value.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _name(descriptor: Mapping[str, Any]) -> str:
    annotations = descriptor.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _digest(layout: Layout, descriptor: object) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    # The digest becomes a path: nothing but hex may follow the algorithm.
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UsageError(f"{layout.path}: a descriptor without a sha256 digest")
    return digest


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _read_blob(layout: Layout, digest: str) -> dict[str, Any]:
    return _read_json(layout.path / _blob_path(digest), digest)


def _read_json(path: Path, digest: str = "") -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"{path}: no file there; the layout is not whole")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        value = json.loads(data) if len(data) <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError) as exc:
        raise UsageError(f"{path}: not readable as JSON: {exc}") from exc
    if digest and digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
        raise UsageError(f"{path}: the layout is damaged: these bytes do not have that digest")
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not a JSON object of a sane size")
    return value
