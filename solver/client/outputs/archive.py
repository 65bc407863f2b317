"""Image layouts as one tar: OCI's own, and the archive that ``docker load`` reads."""

import json
import tarfile
from pathlib import Path
from typing import Any, Final

from solver.client.outputs.files import replacing
from worker.wire.images import DOCKER_HOST, parse_reference

NAME: Final = "io.containerd.image.name"


def pack_layout(layout: Path, dest: Path) -> None:
    """Write an image layout as one tar, deterministic, in place of what is at ``dest``."""
    with replacing(dest) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(layout.rglob("*")):
            info = tar.gettarinfo(path, path.relative_to(layout).as_posix())
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            # Whatever umask it was written under, here and on the worker.
            info.mode = 0o755 if info.isdir() else 0o644
            if info.isfile():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)


def add_docker_manifest(layout: Path) -> None:
    """Add to a layout of one image the ``manifest.json`` that makes it a docker archive.

    It is still a layout: who reads both takes the same blobs either way.
    """
    images = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads((layout / _path(images[0])).read_bytes())
    names = [
        image["annotations"][NAME] for image in images if NAME in image.get("annotations", {})
    ]
    entry = {
        "Config": _path(manifest["config"]),
        "RepoTags": [docker_name(name) for name in names],
        "Layers": [_path(layer) for layer in manifest["layers"]],
    }
    (layout / "manifest.json").write_text(json.dumps([entry], separators=(",", ":")))


def docker_name(name: str) -> str:
    """Return a name as docker shows it: without the host and folder that it takes for granted.

    Raises:
        BadReference: docker cannot have an image of that name.
    """
    reference = parse_reference(name)
    if reference.host != DOCKER_HOST:
        return str(reference)
    return str(reference).removeprefix(f"{DOCKER_HOST}/").removeprefix("library/")


def _path(descriptor: dict[str, Any]) -> str:
    algorithm, _, encoded = descriptor["digest"].partition(":")
    return f"blobs/{algorithm}/{encoded}"
