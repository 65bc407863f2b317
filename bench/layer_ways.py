"""Other ways to bring a layer from one machine to another: a registry between them, and a pipe.

Each way is given what it needs on one side and leaves a tree on the other; it says what it took.
"""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.link import loopback_bytes
from bench.registry import Registry
from worker.layers import apply_layer


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of wall time, and bytes received on the loopback."""

    seconds: float
    wire_bytes: int


def measured(work: Callable[[], object]) -> Took:
    """Run ``work`` and say what it took."""
    before, began = loopback_bytes(), time.monotonic()
    work()
    return Took(time.monotonic() - began, loopback_bytes() - before)


def by_registry(layout: Path, root: Path, into: Path, *, umoci: bool) -> dict[str, Took]:
    """Push the image ``layout:x``, pull it to another layout, unpack it ``into`` a directory.

    It is unpacked by umoci, or by this project's own code: Debian's umoci knows no zstd.
    """
    target = root / "pulled"
    with Registry(root / "registry") as registry:
        name = f"docker://{registry.host}/a:x"
        quiet = ["skopeo", "copy", "--quiet"]
        push = [*quiet, "--dest-tls-verify=false", f"oci:{layout}", name]
        pull = [*quiet, "--src-tls-verify=false", name, f"oci:{target}:x"]
        took = {
            "push": measured(lambda: _run(push)),
            "pull": measured(lambda: _run(pull)),
        }
    if umoci:
        unpack = ["umoci", "unpack", "--image", f"{target}:x", str(root / "bundle")]
        took["unpack"] = measured(lambda: _run(unpack))
        (root / "bundle" / "rootfs").rename(into)
        shutil.rmtree(root / "bundle")
    else:
        into.mkdir()
        took["unpack"] = measured(lambda: _apply(target, into))
    shutil.rmtree(target)
    return took


def _apply(layout: Path, into: Path) -> None:
    for digest in layers_of(layout):
        with (layout / "blobs/sha256" / digest).open("rb") as blob:
            apply_layer(blob, into)


def layers_of(layout: Path) -> list[str]:
    """Return the hex digests of the layers of the one image of a layout."""
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = json.loads(
        (blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text()
    )
    return [one["digest"].removeprefix("sha256:") for one in manifest["layers"]]


def by_pipe(source: Path, into: Path) -> Took:
    """Send ``tar | zstd`` through a socket to ``zstd -d | tar``."""
    into.mkdir()
    return measured(lambda: _pipe(source, into))


def _pipe(source: Path, into: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        out = socket.create_connection(server.getsockname())
        there, _ = server.accept()
        taking = subprocess.Popen(
            ["sh", "-c", 'zstd -dc | tar -C "$1" -xpf -', "sh", str(into)], stdin=there.fileno()
        )
        with there, out:
            there.close()
            giving = subprocess.Popen(
                ["sh", "-c", 'tar -C "$1" -cf - . | zstd -3 -T2 -qc', "sh", str(source)],
                stdout=out.fileno(),
            )
        if giving.wait() or taking.wait():
            raise SystemExit("tar or zstd failed")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
