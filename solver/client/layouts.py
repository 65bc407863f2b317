"""OCI image layouts that a user gives as named contexts."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filesync.errors import UsageError
from solver.dockerfile import BaseImage, Platform

SCHEME: Final = "oci-layout://"
MAX_JSON_BYTES: Final = 4 << 20
REF_NAME: Final = "org.opencontainers.image.ref.name"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout on this machine and which of its images is meant.

    Attributes:
        tag: name in the layout's index, or empty for the only image.
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
        digest = layout.digest or _named(layout)
        manifest = _read_blob(layout, digest)
        if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
            digest = self._for_platform(layout, manifest)
            manifest = _read_blob(layout, digest)
        config_digest = _digest(layout, manifest.get("config"))
        layers = [_digest(layout, layer) for layer in _objects(manifest, "layers")]
        paths = tuple(map(_blob_path, (digest, config_digest, *layers)))
        return BaseImage(name, digest, _read_blob(layout, config_digest), paths)

    def _for_platform(self, layout: Layout, index: Mapping[str, Any]) -> str:
        there: list[str] = []
        for descriptor in _objects(index, "manifests"):
            platform = descriptor.get("platform")
            platform = platform if isinstance(platform, dict) else {}
            there.append(f"{platform.get('os')}/{platform.get('architecture')}")
            if there[-1] == f"{self._platform.os}/{self._platform.architecture}":
                return _digest(layout, descriptor)
        raise UsageError(
            f"{layout.path}: no image for {self._platform.os}/{self._platform.architecture};"
            f" there is {', '.join(there) or 'none'}"
        )


def _named(layout: Layout) -> str:
    index = _read_json(layout.path / "index.json")
    descriptors = _objects(index, "manifests")
    names = [_name(descriptor) for descriptor in descriptors]
    if layout.tag and layout.tag in names:
        return _digest(layout, descriptors[names.index(layout.tag)])
    if not layout.tag and len(descriptors) == 1:
        return _digest(layout, descriptors[0])
    wanted = f"no image named {layout.tag!r}" if layout.tag else "more than one image, or none"
    raise UsageError(
        f"{layout.path}: {wanted} in index.json; say which: {SCHEME}{layout.path}:TAG"
        f" (there is {', '.join(filter(None, names)) or 'no name'})"
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
