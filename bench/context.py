"""What does it take to send a build context of 20,000 files: new, unchanged, 1 % changed?

The yardstick is a build whose one step copies the whole context. Bytes are those on the data plane
and those that passed the manager.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from bench.processes import BuildRun, Cluster
from bench.results import plot, save
from bench.trees import write_tree


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=1_500_000_000)
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="filesync-bench-", dir=options.directory) as name:
        root = Path(name)
        context = root / "context"
        write_tree(context / "files", files=options.files, total=options.bytes, seed=3)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY files /files\n")
        with Cluster(root / "cluster", workers=1) as cluster:
            first = timed(cluster, context)
            unchanged = timed(cluster, context)
            changed_bytes = change(context / "files", options.files // 100)
            changed = timed(cluster, context)
    rows = {"new": first, "unchanged": unchanged, "changed": changed}
    save(
        "context",
        {
            "question": __doc__.splitlines()[0],
            "files": options.files,
            "bytes": options.bytes,
            "changed_bytes": changed_bytes,
            **rows,
        },
    )
    plot(
        "context",
        [
            (
                "Seconds for the whole build command",
                [(key, row["seconds"], f"{row['seconds']:.2f} s") for key, row in rows.items()],
            ),
            (
                "Bytes on the wire",
                [
                    (key, row["wire_bytes"], f"{row['wire_bytes'] / 1e6:.3f} MB")
                    for key, row in rows.items()
                ],
            ),
        ],
    )


def timed(cluster: Cluster, context: Path) -> dict[str, float]:
    """Build; return seconds of the whole command, of the context's sync, and bytes."""
    began_s = time.monotonic()
    run = cluster.build(context)
    seconds = time.monotonic() - began_s
    return {"seconds": round(seconds, 3), "sync_s": sync_seconds(run), **wire(run)}


def sync_seconds(run: BuildRun) -> float:
    """Return how long the context's own step took; 0 when nothing had to move."""
    steps = [s for s in run.metadata["filesync"]["steps"] if "load build context" in s["name"]]
    return float(steps[0]["seconds"]) if steps else 0.0


def wire(run: BuildRun) -> dict[str, float]:
    """Return the bytes on both planes."""
    totals = run.totals
    manager = totals["manager_bytes_received"] + totals["manager_bytes_sent"]
    return {"wire_bytes": totals["bytes_moved"] + manager, "data_bytes": totals["bytes_moved"]}


def change(root: Path, count: int) -> int:
    """Give ``count`` files new content of the same size; return their bytes."""
    rng = random.Random(4)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    total = 0
    for path in rng.sample(paths, count):
        size = path.stat().st_size
        path.write_bytes(rng.randbytes(size))
        total += size
    return total


if __name__ == "__main__":
    main()
