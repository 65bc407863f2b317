"""What does it take to copy 40 MB out of an image of 1.5 GB that is in a registry?

The image is pushed to docker-registry twice: as eStargz and as plain gzip. One step of a build
copies a directory of five large files, another one file in fifty of 20,000. Each is done by a
cluster that has never seen the image, and verified against what was put in. Bytes are those that the
registry says it has sent; beside them stands what the chunks that are needed take compressed.
For comparison skopeo takes the whole image, which is what others do first.
"""

import json
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.partial import compare, options_of, write_needed
from bench.processes import Cluster
from bench.registry import Registry
from bench.results import plot, save, spread
from bench.trees import write_tree
from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from worker.blobs import BlobStore
from worker.exports import image_config, image_manifest, sha256
from worker.layers import LayerForm, limits_of, make_layer
from worker.layers.estargz import FOOTER_BYTES, toc_member, toc_offset
from worker.layers.toc import read_toc
from worker.wire.images import Compression
from worker.wire.orders import Layer

LEVEL: Final = 1
FORMS: Final = {
    "estargz": LayerForm(Compression.ESTARGZ, LEVEL),
    "gzip": LayerForm(Compression.GZIP, LEVEL),
}
ASKED: Final = {"together": "/need/", "scattered": "/big/*/*0[07]"}
"""What is copied: the large files, or one in fifty of the others."""


def main() -> None:
    """Measure, verify and save."""
    options = options_of(__doc__)
    with tempfile.TemporaryDirectory(prefix="filesync-bench-", dir=options.where) as name:
        root = Path(name)
        tree = root / "tree"
        write_tree(tree / "big", files=options.files, total=options.bytes, seed=1)
        write_needed(tree / "need", options.needed_bytes)
        with Registry(root / "registry") as registry:
            images = {form: push(root, tree, registry, form) for form in FORMS}
            runs = {
                f"{form}_{what}": [
                    measure(root, tree, registry, form, what) for _ in range(options.repeats)
                ]
                for form in FORMS
                for what in ASKED
            }
            whole = [skopeo(root, registry) for _ in range(options.repeats)]
    figures = {
        "question": __doc__.splitlines()[0],
        "files": options.files,
        "image_bytes": {form: image["bytes"] for form, image in images.items()},
        "chunk_bytes": images["estargz"]["chunk_bytes"],
        "runs": {name: summary(run) for name, run in runs.items()},
        "skopeo_whole": summary(whole),
    }
    figures["over_chunks"] = {
        what: round(runs[f"estargz_{what}"][-1]["bytes"] / size, 4)
        for what, size in images["estargz"]["chunk_bytes"].items()
    }
    save("importing", figures)
    draw(figures)


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the spread of the seconds, and what else the last run says."""
    return {**runs[-1], "seconds": spread([run["seconds"] for run in runs])}


# --- the image ----------------------------------------------------------------------------------


def push(root: Path, tree: Path, registry: Registry, form: str) -> dict[str, Any]:
    """Push the image in one form; say how large it is, and the chunks that are asked for."""
    nodes = MemoryNodes()
    manifest = Manifest(scan(tree, nodes).tree, nodes)
    layout = root / "layout"
    blobs = BlobStore(layout)
    layer = make_layer(None, manifest, tree, blobs, FORMS[form])
    write_index(layout, blobs, layer)
    where = f"docker://{registry.host}/{form}:1"
    run(
        "skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{layout}", where
    )
    found: dict[str, Any] = {"bytes": layer.size}
    if form == "estargz":
        sizes = dict(chunk_sizes(blobs.path(layer.digest)))
        found["chunk_bytes"] = {
            what: sum(sizes[path.encode()] for path in asked_for(tree, pattern))
            for what, pattern in ASKED.items()
        }
    shutil.rmtree(layout)
    return found


def write_index(layout: Path, blobs: BlobStore, layer: Layer) -> None:
    """Make the store an image of one layer."""

    def add(value: object) -> tuple[str, int]:
        data = json.dumps(value).encode()
        blobs.ingest([data])
        return sha256(data), len(data)

    config = add(image_config(b'{"architecture":"amd64","os":"linux"}', [layer]))
    image, size = add(image_manifest(*config, [layer], annotations={}))
    media_type = "application/vnd.oci.image.manifest.v1+json"
    entry = {"mediaType": media_type, "digest": image, "size": size}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def chunk_sizes(blob: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each file of an eStargz blob with what its chunks take, compressed."""
    size = blob.stat().st_size
    with blob.open("rb") as file:
        file.seek(size - FOOTER_BYTES)
        begin = toc_offset(file.read())
        if begin is None:
            raise SystemExit("no eStargz layer was made")
        file.seek(begin)
        toc = toc_member(file.read(size - FOOTER_BYTES - begin))
        for member, chunks in read_toc(toc or b"", end=begin, limits=limits_of(size)):
            total = 0
            for chunk in chunks or ():
                file.seek(chunk.begin)
                packed = file.read(chunk.end - chunk.begin)
                unzip = zlib.decompressobj(wbits=31)
                unzip.decompress(packed)
                total += len(packed) - len(unzip.unused_data)
            yield member.path, total


def asked_for(tree: Path, pattern: str) -> list[str]:
    """Return the files that a step copies, by their paths in the image."""
    found = (
        (tree / pattern.strip("/")).rglob("*") if "*" not in pattern else tree.glob(pattern[1:])
    )
    return sorted(str(path.relative_to(tree)) for path in found if path.is_file())


# --- the ways -----------------------------------------------------------------------------------


def measure(
    root: Path, tree: Path, registry: Registry, form: str, what: str
) -> dict[str, float]:
    """Have a new cluster copy what is asked for out of the image; return the figures."""
    context, out, state = root / "context", root / "out", root / "cluster"
    context.mkdir(exist_ok=True)
    image = f"{registry.host}/{form}:1"
    text = f"FROM scratch\nCOPY --from={image} {ASKED[what]} /got/\n"
    (context / "Dockerfile").write_text(text)
    registries = root / "registries.toml"
    registries.write_text(f'[registry."{registry.host}"]\nhttp = true\n')
    with Cluster(
        state, workers=1, arguments={"w1": ("--registries", str(registries))}
    ) as cluster:
        before = registry.blob_bytes_sent()
        built = cluster.build(context, "-o", f"type=local,dest={out}")
        sent = registry.blob_bytes_sent() - before
        peak = cluster.peak_bytes("w1")
    expected = root / "expected"
    expected.mkdir()
    for name in asked_for(tree, ASKED[what]):
        shutil.copy(tree / name, expected / Path(name).name)
    compare(out / "got", expected)
    step = built.step(f"FROM {image}")
    stored = sum(
        path.stat().st_size for path in (state / "w1/blobs").rglob("*") if path.is_file()
    )
    for path in (out, expected, state):
        shutil.rmtree(path)
    seconds = float(step["seconds"])
    return {"seconds": seconds, "bytes": sent, "stored_bytes": stored, "peak_w1_bytes": peak}


def skopeo(root: Path, registry: Registry) -> dict[str, float]:
    """Take the whole image as others do: its blobs onto the disk, nothing unpacked yet."""
    before, began = registry.blob_bytes_sent(), time.monotonic()
    where, layout = f"docker://{registry.host}/gzip:1", root / "whole"
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "--src-tls-verify=false",
        where,
        f"oci:{layout}:1",
    )
    seconds = time.monotonic() - began
    shutil.rmtree(layout)
    return {"seconds": seconds, "bytes": registry.blob_bytes_sent() - before}


def run(*command: str) -> None:
    """Run a program that says nothing if all is well."""
    subprocess.run(command, check=True, capture_output=True)


def draw(figures: dict[str, Any]) -> None:
    """Plot bytes and times of all ways."""
    ways = {**figures["runs"], "skopeo, whole": figures["skopeo_whole"]}
    bytes_bars = [
        (name, way["bytes"], f"{way['bytes'] / 1e6:.1f} MB") for name, way in ways.items()
    ]
    bytes_bars += [
        (f"chunks {what}", size, f"{size / 1e6:.1f} MB")
        for what, size in figures["chunk_bytes"].items()
    ]
    seconds = [
        (name, way["seconds"]["median"], f"{way['seconds']['median']:.2f} s")
        for name, way in ways.items()
    ]
    plot("importing", [("Bytes from the registry", bytes_bars), ("Seconds", seconds)])


if __name__ == "__main__":
    main()
