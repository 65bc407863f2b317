"""How do time and memory grow with the tree? ``python -m bench.growth --help``.

Trees of 1,000 to 1,000,000 small files are given to a ``filesync serve``, and taken from one, by
``filesync sync``; each time by new processes, into nothing. Every size has its turn in every round; each
result is compared with its source by ``rsync -nc``. The time per file is what a sync takes longer than
that of a tree of one file in the same round, so that it does not have the start of two programs in
it. Time of all cores together (CPU) is counted as well: others on the machine disturb it less.

All sizes take some ten minutes, and 12 GB of tmpfs.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Final

from bench.results import plot, save
from bench.sync import FILESYNC, compare
from bench.trees import write_small_files

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES: Final = (1_000, 10_000)
REPEATS_FILES: Final = 10_000
"""A size is run so often in a round that it comes to this many files, up to MAX_REPEATS times."""
MAX_REPEATS: Final = 5
LIMIT_BYTES: Final = 250_000_000
LIMIT_GROWTH: Final = 1.2
WAYS: Final = ("give", "take")


@dataclass(frozen=True, slots=True)
class Run:
    """One sync: wall time, CPU time of both sides, the most memory of each."""

    seconds: float
    cpu_seconds: float
    client_bytes: int
    server_bytes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of one size, one way."""

    seconds: float
    us_per_file: float
    cpu_us_per_file: float
    client_bytes: int
    server_bytes: int


class Server:
    """A ``filesync serve`` of ``root`` on a free port, which is told to stop at the block's end."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        words = [*FILESYNC, "serve", str(root), "--listen", "tcp://127.0.0.1:0"]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, env=env)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        if not self.url:
            raise SystemExit("the server did not start")

    def stop(self) -> tuple[float, int]:
        """Stop it; return its CPU seconds and the most memory that it had."""
        self._process.send_signal(signal.SIGTERM)
        return _usage(self._process)


def _usage(process: "subprocess.Popen[bytes]") -> tuple[float, int]:
    """Wait for the end; return CPU seconds and the most memory in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed: {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def run(source: Path, target: Path, way: str, env: dict[str, str]) -> Run:
    """Sync once, by new processes and with nothing known, and compare."""
    shutil.rmtree(Path(env["XDG_CACHE_HOME"]), ignore_errors=True)
    server = Server(source.parent, env)
    here, there = f"{source}/", f"{server.url}/{target.name}"
    if way == "take":
        here, there = f"{server.url}/{source.name}/", str(target)
    started = time.monotonic()
    client = subprocess.Popen([*FILESYNC, "sync", "--delete", here, there], env=env)
    client_cpu, client_bytes = _usage(client)
    seconds = time.monotonic() - started
    server_cpu, server_bytes = server.stop()
    compare(source, target)
    shutil.rmtree(target)
    return Run(seconds, client_cpu + server_cpu, client_bytes, server_bytes)


def measure(
    root: Path, sizes: Sequence[int], rounds: int, *, at_most: int
) -> dict[str, dict[int, list[Run]]]:
    """Return the runs of every size, ``at_most`` a round, each way; one file is a size, too."""
    env = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
    env["PYTHONPYCACHEPREFIX"] = str(root / "compiled")
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    runs: dict[str, dict[int, list[Run]]] = {way: {} for way in WAYS}
    for files in (1, *sizes):
        write_small_files(root / str(files), files)
    for number, files, way in product(range(rounds), (1, *sizes), WAYS):
        repeats = max(1, min(at_most, REPEATS_FILES // files))
        some = [run(root / str(files), root / "target", way, env) for _ in range(repeats)]
        runs[way].setdefault(files, []).extend(some)
        print(f"round {number} {way} {files:,} files: {some[-1].seconds:.2f} s", flush=True)
    return runs


def figures(runs: dict[int, list[Run]]) -> dict[int, Figures]:
    """Return medians by size; of time, what is more than for one file."""
    start_s, start_cpu_s = _seconds(runs[1])
    found: dict[int, Figures] = {}
    for files, some in runs.items():
        if files > 1:
            seconds, cpu_s = _seconds(some)
            found[files] = Figures(
                round(seconds, 3),
                round((seconds - start_s) / files * 1e6, 2),
                round((cpu_s - start_cpu_s) / files * 1e6, 2),
                int(statistics.median(one.client_bytes for one in some)),
                int(statistics.median(one.server_bytes for one in some)),
            )
    return found


def _seconds(runs: Sequence[Run]) -> tuple[float, float]:
    seconds = statistics.median(one.seconds for one in runs)
    return seconds, statistics.median(one.cpu_seconds for one in runs)


def report(way: str, found: dict[int, Figures]) -> None:
    """Print a line for each size, and what is to be held against the limits."""
    for files, one in found.items():
        mb = [round(value / 1e6) for value in (one.client_bytes, one.server_bytes)]
        print(
            f"{way} {files:>9,} files  {one.seconds:8.3f} s  {one.us_per_file:6.1f} us a file  "
            f"{one.cpu_us_per_file:6.1f} us CPU a file  client {mb[0]} MB  server {mb[1]} MB"
        )
    per_file = [one.us_per_file for one in found.values()]
    growth = per_file[-1] / statistics.median(per_file)
    peak = max(max(one.client_bytes, one.server_bytes) for one in found.values())
    print(
        f"{way}: time per file of the largest to the median {growth:.2f} "
        f"(limit {LIMIT_GROWTH}) {_verdict(growth, LIMIT_GROWTH)}; "
        f"memory {peak / 1e6:.0f} MB (limit {LIMIT_BYTES / 1e6:.0f}) {_verdict(peak, LIMIT_BYTES)}"
    )


def _verdict(value: float, limit: float) -> str:
    return "ok" if value <= limit else "MISS"


def _draw(found: dict[str, dict[int, Figures]]) -> None:
    groups = []
    for way, sizes in found.items():
        times = [
            (f"{n:,} files", f.us_per_file, f"{f.us_per_file:.1f} us") for n, f in sizes.items()
        ]
        groups.append((f"{way}: time per file", times))
        for side in ("client", "server"):
            values = {n: getattr(f, f"{side}_bytes") / 1e6 for n, f in sizes.items()}
            bars = [(f"{n:,} files", mb, f"{mb:.0f} MB") for n, mb in values.items()]
            groups.append((f"{way}: memory of the {side}", bars))
    plot("growth", groups)


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    many = "only this many, 2 at least; repeatable"
    parser.add_argument("--files", type=int, action="append", help=many)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=MAX_REPEATS, help="of a size, at most")
    parser.add_argument("--quick", action="store_true", help="up to 10,000 files, one round")
    parser.add_argument("--where", default="/dev/shm", help="a directory on tmpfs")
    options = parser.parse_args(words)
    sizes = sorted(set(options.files or (QUICK_SIZES if options.quick else SIZES)))
    if sizes[0] < 2:
        parser.error("--files is 2 at least: one file is what all sizes are held against")
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory(prefix="bench-growth-", dir=options.where) as directory:
        runs = measure(Path(directory), sizes, rounds, at_most=options.repeats)
    found = {way: figures(some) for way, some in runs.items()}
    for way, some in found.items():
        report(way, some)
    saved = {w: {str(n): asdict(f) for n, f in some.items()} for w, some in found.items()}
    save("growth", {"rounds": rounds, **saved})
    _draw(found)


if __name__ == "__main__":
    main(sys.argv[1:])
