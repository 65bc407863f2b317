"""How long does the diff of two manifests take of which ten directories differ?

``python -m bench.diff --help``. The trees are made in a store as manifests alone, a hundred files in a
directory; the directories are a hundred in each of the root's, or all in the root itself. Counted is
which nodes are read: twice those of the changed directories and of what leads to them, and no other.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Final

from bench.results import plot, save, spread
from bench.trees import PER_DIRECTORY
from filesync.digest import Digest, digest_of
from filesync.manifest import EMPTY_DIRECTORY, File, Manifest, MemoryNodes, Nodes, put
from filesync.manifest.growth import with_entries
from filesync.manifest.store import SqliteNodes, batched
from filesync.manifest.tree import subdirectory
from filesync.trees.diff import diff

CHANGED: Final = 10
LIMIT_MS: Final = 20.0
MTIME_NS: Final = 1_700_000_000_000_000_000
MEMORY: Final = MemoryNodes()


class Reads:
    """A store's nodes, and how many were read."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.count = 0
        self.summary = nodes.summary
        self.write = nodes.write

    def __contains__(self, digest: object) -> bool:
        return digest in self.nodes

    def read(self, digest: Digest) -> bytes:
        """Return a node's bytes."""
        self.count += 1
        return self.nodes.read(digest)


def tree(nodes: Nodes, directories: int, *, changed: set[int], is_flat: bool) -> Digest:
    """Make a tree in which a file of each directory in ``changed`` is another than else."""
    made: list[Digest] = []
    for number in range(directories):
        files = []
        for at in range(PER_DIRECTORY):
            content = b"%d" % (number * PER_DIRECTORY + at)
            if number in changed and at == PER_DIRECTORY // 2:
                content += b" changed"
            name, size = b"f%02d" % at, len(content)
            files.append(File(name, 0o644, 0, 0, MTIME_NS, size, digest_of(content)))
        made.append(put(nodes, with_entries(EMPTY_DIRECTORY, files)))
    if not is_flat:
        made = [
            _above(nodes, made[first : first + PER_DIRECTORY])
            for first in range(0, directories, PER_DIRECTORY)
        ]
    return _above(nodes, made)


def _above(nodes: Nodes, below: Sequence[Digest]) -> Digest:
    entries = [subdirectory(nodes, b"d%06d" % at, one) for at, one in enumerate(below)]
    return put(nodes, with_entries(EMPTY_DIRECTORY, entries))


@contextmanager
def store(kind: str, directory: Path) -> Iterator[Nodes]:
    """Open a store; one on disk has nothing in memory yet."""
    if kind == "memory":
        yield MEMORY
        return
    nodes = SqliteNodes(directory / "nodes.db")
    try:
        yield nodes
    finally:
        nodes.close()


def measure(nodes: Nodes, old: Digest, new: Digest, repeats: int) -> dict[str, Any]:
    """Return milliseconds, and the nodes that were read, of one diff."""
    taken: list[float] = []
    reads = Reads(nodes)
    for _ in range(repeats):
        reads.count = 0
        started = time.perf_counter()
        found = list(diff(Manifest(old, reads), Manifest(new, reads)))
        taken.append((time.perf_counter() - started) * 1000)
        if sum(len(one.changed) for one in found) != CHANGED or reads.count != 2 * len(found):
            raise SystemExit("the diff is not what was changed")
    return {**spread(taken), "first": round(taken[0], 4), "nodes_read": reads.count}


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.diff", description=__doc__)
    parser.add_argument("--directories", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="a tenth of the directories")
    options = parser.parse_args(words)
    count = options.directories // (10 if options.quick else 1)
    touched = {number * count // CHANGED for number in range(CHANGED)}
    found: dict[str, dict[str, Any]] = {}
    for shape, kind in product(("nested", "flat"), ("memory", "sqlite")):
        with tempfile.TemporaryDirectory(prefix="bench-diff-") as directory:
            with store(kind, Path(directory)) as nodes, batched(nodes):
                old, new = (
                    tree(nodes, count, changed=marks, is_flat=shape == "flat")
                    for marks in (set[int](), touched)
                )
            with store(kind, Path(directory)) as nodes:
                one = found[f"{shape}, {kind}"] = measure(nodes, old, new, options.repeats)
        verdict = "ok" if one["median"] < LIMIT_MS else "MISS"
        print(f"{shape}, {kind}: {one} (limit {LIMIT_MS:.0f} ms) {verdict}", flush=True)
    save("diff", {"entries": count * PER_DIRECTORY, "changed": CHANGED, "diffs": found})
    bars = [(name, one["median"], f"{one['median']:.1f} ms") for name, one in found.items()]
    title = f"diff of {count * PER_DIRECTORY:,} entries, {CHANGED} directories changed"
    plot("diff", [(title, [*bars, ("limit", LIMIT_MS, f"{LIMIT_MS:.0f} ms")])])


if __name__ == "__main__":
    main(sys.argv[1:])
