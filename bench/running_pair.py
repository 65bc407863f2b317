"""Two living processes that hold the same tree: what does it cost to find that out?

``python -m bench.running_pair --help``. As between two workers, both sides have the tree's manifest and
the files. The taker asks the giver over a connection that stands for the digest of its tree, brings
the directory nodes that it lacks, and pulls what differs. Nothing does; the cost must not grow with
the tree. The first such sync of each size, which does move everything, is verified by ``diff -r``.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.giver import ASK_TREE, Giver
from bench.results import plot, save, spread
from bench.trees import write_small_files
from filesync.digest import Digest
from filesync.disk.updating.update import TreeUpdate
from filesync.manifest import Manifest, MemoryNodes
from filesync.sync.remote.nodes import fetch_nodes
from filesync.transfer.connection.calls_zmq import call
from filesync.transfer.plane_zmq import DataPlane

SIZES: Final = (1_000, 40_000, 400_000)
QUICK_SIZES: Final = (1_000, 10_000)
LIMIT_MS: Final = 10.0


class Taker:
    """A process's tree at ``root``, what it knows of it, and a connection to who has a newer one."""

    def __init__(self, plane: DataPlane, giver: Giver, root: Path) -> None:
        self._plane = plane
        self._giver = giver
        self._root = root
        self._nodes = MemoryNodes()
        self._has: Manifest | None = None

    async def sync(self) -> int:
        """Make the root hold what the giver has; return how many files came."""
        replica = self._giver.replica
        assert replica.address is not None
        channel = await self._plane.connect(replica.address)
        body, _ = await call(channel, ASK_TREE)
        tree = Digest(bytes(body))
        await fetch_nodes(channel, replica.token, tree, self._nodes)
        target = Manifest(tree, self._nodes)
        update = TreeUpdate(self._root, basis=self._has, target=target)
        stats = await self._plane.pull(update, [replica], tree=tree)
        self._has = target
        return stats.files


async def measure(giver: Giver, source: Path, target: Path, repeats: int) -> list[float]:
    """Return the milliseconds of each sync that found nothing to do."""
    taken: list[float] = []
    async with DataPlane() as plane:
        taker = Taker(plane, giver, target)
        if not await taker.sync():
            raise SystemExit("the first sync moved nothing")
        compare(source, target)
        for _ in range(repeats):
            started = time.perf_counter()
            files = await taker.sync()
            taken.append((time.perf_counter() - started) * 1000)
            if files:
                raise SystemExit("files moved though nothing had changed")
            await asyncio.sleep(0.01)
    return taken


def compare(source: Path, target: Path) -> None:
    """Compare two trees byte by byte."""
    words = ["diff", "-r", "--no-dereference", str(source), str(target)]
    if subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"{target} is not what {source} is")


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.running_pair", description=__doc__)
    parser.add_argument("--files", type=int, action="append", help="only this many; repeatable")
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--quick", action="store_true", help="smaller trees")
    parser.add_argument("--where", default="/dev/shm", help="a directory on tmpfs")
    options = parser.parse_args(words)
    found: dict[str, dict[str, float]] = {}
    for files in options.files or (QUICK_SIZES if options.quick else SIZES):
        with tempfile.TemporaryDirectory(prefix="bench-pair-", dir=options.where) as directory:
            source = Path(directory) / "src"
            write_small_files(source, files)
            with Giver(source) as giver:
                taken = asyncio.run(
                    measure(giver, source, Path(directory) / "dst", options.repeats)
                )
        found[str(files)] = spread(taken)
        median = found[str(files)]["median"]
        verdict = "ok" if median < LIMIT_MS else "MISS"
        print(
            f"{files:>9,} files  {median:6.2f} ms (limit {LIMIT_MS:.0f}) {verdict}", flush=True
        )
    save("running_pair", {"limit_ms": LIMIT_MS, "milliseconds": found})
    bars = [
        (f"{int(n):,} files", v["median"], f"{v['median']:.2f} ms") for n, v in found.items()
    ]
    bars.append(("limit", LIMIT_MS, f"{LIMIT_MS:.0f} ms"))
    plot("running_pair", [("nothing to do, in a running pair of processes", bars)])


if __name__ == "__main__":
    main(sys.argv[1:])
