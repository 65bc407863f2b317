"""Moving a result of 1.5 GB in 20,000 files from worker to worker as layers.

``python -m bench.layers --help``. In each round one result is brought from w1 to three other workers:
*made* has the layer's blob made before, as the registry's way has; *cold* makes it first; *near* has
nine tenths of the contents already, elsewhere. The same blob then goes through docker-registry by
skopeo, and the same tree through ``tar | zstd``. Ours is the time of the step on the target, from its
being placed to its result; of the registry's way, push, pull and unpacking are counted, each alone, and
neither the start of the registry nor making the layout. Bytes are what crossed the loopback of a network
namespace that holds nothing else, both ways, TCP and the control plane included. Every result is
compared with what was put in. Ratios are of one round, and of those the median counts.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.inside import parse_inside
from bench.layer_ways import by_pipe, by_registry, layers_of
from bench.link import loopback_bytes
from bench.processes import Cluster
from bench.results import plot, save
from bench.trees import write_tree
from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from worker.blobs import BlobStore
from worker.layers import make_layer

WAYS: Final = ("cold", "made", "near")
LIMITS: Final = {"time_made": 0.5, "bytes_made": 1.0, "bytes_near": 0.12}
DOCKERFILE: Final = """\
FROM scratch AS big
COPY --from=big-files . /
FROM scratch AS known
COPY --from=known-files . /elsewhere
""" + "".join(f"FROM big AS {way}\nCOPY --from=small marker /marker-{way}\n" for way in WAYS)
CONTEXTS: Final = {"big-files": "big", "known-files": "known", "small": "small"}
"""Each of its own, for what a build reads of a context goes to the worker that reads any of it."""
PLACES: Final = {"big": "w1", "cold": "w2", "made": "w3", "known": "w4", "near": "w4"}


def measure(root: Path, context: Path, *, with_umoci: bool) -> dict[str, Any]:
    """Return the seconds and bytes of all ways, in one round."""
    found: dict[str, Any] = {}
    layout = root / "layout"
    with Cluster(root / "cluster", workers=4) as cluster:
        build(cluster, context, "big")
        for way in WAYS:
            if way == "near":
                build(cluster, context, "known")
            found[way] = move(cluster, context, way, root / "out")
            retire(cluster, PLACES[way])
            if way == "cold":
                # Its blob is made now. Who takes it out goes through this loopback too.
                out = f"type=oci,tar=false,compression=zstd,dest={layout}"
                build(cluster, context, "big", "-o", out)
        if with_umoci:
            out = f"type=oci,tar=false,compression=gzip,dest={root / 'gzip'}"
            build(cluster, context, "big", "-o", out)
    shutil.rmtree(root / "cluster")
    (layer,) = layers_of(layout)
    found["blob_bytes"] = (layout / "blobs/sha256" / layer).stat().st_size
    found["make"] = {"seconds": make(context / "big", root / "blobs")}
    others = {"registry": layout} | ({"registry_umoci": root / "gzip"} if with_umoci else {})
    for name, image in others.items():
        parts = by_registry(image, root, root / "out", umoci=name != "registry")
        compare(context / "big", root / "out")
        found[name] = {
            "seconds": sum(part.seconds for part in parts.values()),
            "wire_bytes": sum(part.wire_bytes for part in parts.values()),
            "parts_s": {part: round(took.seconds, 3) for part, took in parts.items()},
        }
        shutil.rmtree(image)
    took = by_pipe(context / "big", root / "out")
    compare(context / "big", root / "out")
    found["tar_zstd"] = {"seconds": took.seconds, "wire_bytes": took.wire_bytes}
    return found


def build(cluster: Cluster, context: Path, target: str, *options: str) -> dict[str, Any]:
    """Build a stage; return what is told of the step that needs another worker's layers, if any."""
    places = [
        word for stage, on in PLACES.items() for word in ("--place", f"{stage}=name={on}")
    ]
    named = [
        word
        for name, where in CONTEXTS.items()
        for word in ("--build-context", f"{name}={context / where}")
    ]
    empty = context / "empty"
    words = ("--file", str(context / "Dockerfile"), "--target", target)
    built = cluster.build(empty, *words, *places, *named, *options)
    steps = built.metadata["filesync"]["steps"]
    moved = [step for step in steps if any(use["mode"] == "layers" for use in step["inputs"])]
    return moved[0] if moved else {}


def move(cluster: Cluster, context: Path, way: str, out: Path) -> dict[str, Any]:
    """Bring the result to where ``way`` runs; return what it took, once that is compared."""
    before = loopback_bytes()
    step = build(cluster, context, way)
    wire_bytes = loopback_bytes() - before
    build(cluster, context, way, "-o", f"type=local,dest={out}")
    (out / f"marker-{way}").unlink()
    shutil.copystat(context / "big", out)
    compare(context / "big", out)
    (use,) = step["inputs"][:1]
    return {
        "seconds": step["seconds"],
        "wire_bytes": wire_bytes,
        "data_bytes": use["bytes_moved"],
        "transfer_s": use["seconds"],
    }


def retire(cluster: Cluster, name: str) -> None:
    """Stop a worker and forget what it had: the next one is to have one source, as the others."""
    process = cluster.processes.pop(name)
    process.terminate()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    shutil.rmtree(cluster.root / name)


def make(source: Path, where: Path) -> float:
    """Return the seconds that it takes to make a layer's blob of the same tree."""
    nodes = MemoryNodes()
    tree = Manifest(scan(source, nodes).tree, nodes)
    blobs = BlobStore(where)
    began = time.monotonic()
    layer = make_layer(None, tree, source, blobs)
    seconds = time.monotonic() - began
    shutil.rmtree(where)
    if not layer.size:
        raise SystemExit("made nothing")
    return seconds


def compare(source: Path, result: Path) -> None:
    """Fail unless the two hold the same; then remove the result."""
    words = ["rsync", "-rlci", "--dry-run", "--delete", f"{source}/", f"{result}/"]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    if found:
        raise SystemExit(f"{result} is not what was put in:\n{found[:1000]}")
    shutil.rmtree(result)


def ratios_of(run: dict[str, Any]) -> dict[str, float]:
    """Return what is judged, of one round."""
    registry, blob = run["registry"], run["blob_bytes"]
    made_there = run["make"]["seconds"] + registry["seconds"]
    return {
        "time_made": run["made"]["seconds"] / registry["seconds"],
        "time_cold": run["cold"]["seconds"] / made_there,
        "time_near": run["near"]["seconds"] / registry["seconds"],
        "time_cold_over_tar_zstd": run["cold"]["seconds"] / run["tar_zstd"]["seconds"],
        "bytes_made": run["made"]["wire_bytes"] / registry["wire_bytes"],
        "bytes_made_over_blob": run["made"]["wire_bytes"] / blob,
        "bytes_near": run["near"]["wire_bytes"] / blob,
    }


def prepare(context: Path, files: int, total: int) -> None:
    """Write the context: the tree, nine tenths of it under other names, a marker."""
    write_tree(context / "big", files=files, total=total, seed=1)
    known = context / "known"
    known.mkdir()
    names = sorted(path for path in (context / "big").rglob("*") if path.is_file())
    for number, path in enumerate(names):
        # Every other file is text: of both kinds the same share is new.
        if number % 20 not in (0, 11):
            os.link(path, known / f"k{number}")
    (context / "empty").mkdir()
    (context / "small").mkdir()
    (context / "small" / "marker").write_text("marker")
    (context / "Dockerfile").write_text(DOCKERFILE)


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=1_500_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-umoci", action="store_true", help="leave out gzip and umoci")
    options = parse_inside(parser, words)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-layers-", dir=options.where) as directory:
        context = Path(directory) / "context"
        prepare(context, options.files, options.bytes)
        for number in range(options.rounds):
            root = Path(directory) / f"round-{number}"
            root.mkdir()
            runs.append(measure(root, context, with_umoci=not options.no_umoci and not number))
            print({k: round(v, 4) for k, v in ratios_of(runs[-1]).items()}, flush=True)
            shutil.rmtree(root)
    report(runs, {"files": options.files, "bytes": options.bytes, "rounds": options.rounds})


def report(runs: list[dict[str, Any]], sizes: dict[str, int]) -> None:
    """Save the figures, draw them, and say what is met."""
    every = [ratios_of(run) for run in runs]
    ratios = {
        name: round(statistics.median(one[name] for one in every), 4) for name in every[0]
    }
    verdicts = {
        name: "ok" if ratios[name] <= limit else "MISS" for name, limit in LIMITS.items()
    }
    told = {"ratios": ratios, "limits": LIMITS, "verdicts": verdicts, "runs": runs}
    save("layers", {"question": (__doc__ or "").splitlines()[0], **sizes, **told})
    last = runs[-1]
    ways = [name for name in ("made", "cold", "near", "registry", "tar_zstd") if name in last]
    seconds = [(name, last[name]["seconds"], f"{last[name]['seconds']:.2f} s") for name in ways]
    sent = [
        (name, last[name]["wire_bytes"], f"{last[name]['wire_bytes'] / 1e6:.1f} MB")
        for name in ways
    ]
    limits = [
        bar
        for name, limit in LIMITS.items()
        for bar in ((name, ratios[name], f"{ratios[name]:.3f}"), ("limit", limit, f"{limit}"))
    ]
    plot(
        "layers",
        [("Seconds", seconds), ("Bytes on the wire", sent), ("Ratios and limits", limits)],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
