"""What do the parts of a transfer take, and how fast can the whole be for that?

``python -m bench.limits --help``. Each part alone, by one core, in this Python with the libraries that
filesync uses: starting, reading from the page cache, BLAKE3, knowing chunks again by their marks,
signing documents of 100 kB and answering that with deltas, writing a new file, freeing one, and ZeroMQ
over loopback TCP (CPU of both ends); of small files listing, reading, hashing and making. Then, for
cases of ``bench.sync``, what must be done in any case: start, and after that the CPU time of both
sides' work spread evenly over all cores. Nothing that is made of these parts can be faster.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3

from bench.results import plot, save, spread
from bench.small_parts import CASES as SMALL_CASES
from bench.small_parts import SmallParts, timed
from bench.throughput import drain
from filesync.disk.content import read_buffer
from filesync.transfer.coding import chunking, delta

MIB: Final = 1 << 20
CASES: Final[dict[str, tuple[str, ...]]] = {
    "cold": ("read", "hash", "send", "hash", "write"),
    # Both sides read and hash; who sends looks for the chunks it knows, or would send all.
    "edited, inserted, moved": ("read", "hash", "mark", "read", "hash", "write"),
    "appended": ("read", "hash", "read", "hash", "write"),
    # Who gives reads twice, first to find out what has changed.
    "a line edited in each": (
        *("read", "hash", "read", "answer"),
        *("read", "sign", "hash", "write"),
    ),
}
DOCUMENT_BYTES: Final = 100_000
BYTES: Final = {"cold": 1024 * MIB, "a line edited in each": 200 * DOCUMENT_BYTES}
"""What a case moves or goes through, where it is not 256 MiB."""
START: Final = "import asyncio, msgspec, zmq.asyncio, blake3"


class Parts:
    """The parts, for one file of ``mib`` MiB; each method does one, and returns nothing of use."""

    def __init__(self, root: Path, mib: int) -> None:
        self._path, self._new = root / "file", root / "new"
        self._mib = mib
        with self._path.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        self._data = memoryview(self._path.read_bytes())
        self._chunks = list(chunking.cut(self._read, 0, len(self._data)))
        self._signed: list[delta.Pieces] = []
        self._average = delta.piece_bytes(DOCUMENT_BYTES)

    def measure(self) -> dict[str, float]:
        """Return the seconds that each part took."""
        self._new.unlink(missing_ok=True)
        parts = (self.start, self.read, self.hash, self.mark, self.sign, self.answer)
        seconds = {part.__name__: timed(part) for part in (*parts, self.write, self.free)}
        seconds["send"] = max((self._send(5) - self._send(1)) / 4, 0.0)
        return seconds

    def _send(self, times: int) -> float:
        """Return the CPU time of both ends that move it so often, and of starting one of them."""
        return _cpu(lambda: drain(times * self._mib, None, None))

    def start(self) -> None:
        """Start a Python that has what a transfer needs."""
        subprocess.run([sys.executable, "-c", START], check=True)

    def read(self) -> None:
        """Read the file from the page cache."""
        buffer = read_buffer(MIB)
        with self._path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def hash(self) -> None:
        """Hash it, from memory."""
        hasher = blake3()
        for block in self._blocks():
            hasher.update(block)

    def mark(self) -> None:
        """Make the marks of its chunks, by which they are known again."""
        at = 0
        for length, _ in self._chunks:
            chunking.mark_of(self._data[at : at + length], 1)
            at += length

    def sign(self) -> None:
        """Sign it, as so many documents."""
        self._signed = [delta.cut(one, 1, average=self._average) for one in self._documents()]

    def answer(self) -> None:
        """Answer that with deltas, which find that nothing has changed."""
        for one, old in zip(self._documents(), self._signed, strict=True):
            delta.encode(one, old.signatures, 1, average=self._average)

    def write(self) -> None:
        """Write it to a new file."""
        with self._new.open("wb", buffering=0) as file:
            for block in self._blocks():
                file.write(block)

    def free(self) -> None:
        """Remove that file."""
        self._new.unlink()

    def _read(self, offset: int, length: int) -> memoryview:
        return self._data[offset : offset + length]

    def _blocks(self) -> Iterator[memoryview]:
        return self._cut_in(MIB)

    def _documents(self) -> Iterator[memoryview]:
        return self._cut_in(DOCUMENT_BYTES)

    def _cut_in(self, size: int) -> Iterator[memoryview]:
        return (self._data[at : at + size] for at in range(0, len(self._data), size))


def _cpu(part: Callable[[], object]) -> float:
    """Return the CPU time that this process and its children spend on ``part``."""

    def spent() -> float:
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        used = [resource.getrusage(one) for one in who]
        return sum(one.ru_utime + one.ru_stime for one in used)

    before = spent()
    part()
    return spent() - before


def least(parts: dict[str, float], case: Sequence[str], *, factor: float, cores: int) -> float:
    """Return the seconds below which a case cannot be, for a file ``factor`` times as large."""
    return parts["start"] + factor * sum(parts[name] for name in case) / cores


def main(words: Sequence[str]) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--where", default="/dev/shm", help="a directory on tmpfs")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="bench-limits-", dir=options.where) as directory:
        bench, small = Parts(Path(directory), options.mib), SmallParts(Path(directory))
        runs = [bench.measure() | small.measure() for _ in range(options.rounds)]
    report(options.mib, runs, small_bytes=small.bytes)


def report(mib: int, runs: Sequence[dict[str, float]], *, small_bytes: int) -> None:
    """Print, save and draw what came of it."""
    parts = {name: min(run[name] for run in runs) for name in runs[0]}
    cores = os.cpu_count() or 1
    limits = {
        title: least(parts, case, factor=BYTES.get(title, 256 * MIB) / (mib * MIB), cores=cores)
        for title, case in CASES.items()
    }
    parts["send small"] = parts["send"] * small_bytes / (mib * MIB)
    for title, case in SMALL_CASES.items():
        limits[title] = least(parts, case, factor=1.0, cores=cores)
    for title, seconds in limits.items():
        print(f"limits: {title:24} not below {seconds:.2f} s", flush=True)
    save(
        "limits",
        {
            "mib": mib,
            "parts_s": {name: spread([run[name] for run in runs]) for name in runs[0]},
            "least_s": {title: round(seconds, 3) for title, seconds in limits.items()},
        },
    )
    bars = [(name, seconds, f"{1000 * seconds:.0f} ms") for name, seconds in parts.items()]
    plot("limits", [(f"the parts of moving {mib} MiB, or 40,000 small files, one core", bars)])


if __name__ == "__main__":
    main(sys.argv[1:])
