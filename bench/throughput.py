"""How fast does one large file move, and how much of that is the machine's limit?

``python -m bench.throughput --help``. In each round, between two processes over loopback TCP:

* ``zeromq``: a PUSH socket sends frames of 1 MiB from memory, a PULL socket counts them;
* ``floor``: the same, but what is sent is read from a file, and what comes is hashed and written to
  one: no less can be done for a file that is verified;
* ``filesync``: the data plane pulls the file, of which both sides have the manifest.

What was written is compared with ``cmp``.
"""

import argparse
import asyncio
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import zmq
from blake3 import blake3

from bench.giver import Giver
from bench.results import plot, save, spread
from filesync.disk.updating.update import TreeUpdate
from filesync.manifest import Manifest, MemoryNodes
from filesync.sync.remote.nodes import fetch_nodes
from filesync.transfer.plane_zmq import DataPlane

MIB: Final = 1 << 20
QUEUED: Final = 6
"""Frames in either socket's queue, as in the data plane."""
LIMIT: Final = 0.5
"""Of the bare sockets' rate."""
STOP_S: Final = 60.0


def push(address: str, path: Path | None, count: int) -> None:
    """Send ``count`` frames to ``address``, of zeros or of the file."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.sndhwm = QUEUED
        sender.connect(address)
        zeros = bytes(MIB)
        fd = os.open(path, os.O_RDONLY) if path is not None else -1
        for number in range(count):
            frame = zeros if path is None else os.pread(fd, MIB, number * MIB)
            sender.send(frame, copy=False)


def drain(count: int, source: Path | None, target: Path | None) -> float:
    """Have another process send frames; return the seconds from the first to the last."""
    with zmq.Context() as context, context.socket(zmq.PULL) as receiver:
        receiver.rcvhwm = QUEUED
        receiver.bind("tcp://127.0.0.1:0")
        address = receiver.getsockopt_string(zmq.LAST_ENDPOINT)
        words = [sys.executable, "-m", "bench.throughput", "--push", address]
        words += ["--mib", str(count), *(["--file", str(source)] if source else [])]
        with subprocess.Popen(words) as sender:
            if target is None:
                seconds = _count(receiver, count)
            else:
                seconds = _write(receiver, count, target)
            if sender.wait(STOP_S):
                raise SystemExit("the sender failed")
    return seconds


def _count(receiver: "zmq.Socket[bytes]", count: int) -> float:
    receiver.recv(copy=False)
    started = time.perf_counter()
    for _ in range(count - 1):
        receiver.recv(copy=False)
    return time.perf_counter() - started


def _write(receiver: "zmq.Socket[bytes]", count: int, target: Path) -> float:
    hasher = blake3()
    started = 0.0
    with target.open("wb", buffering=0) as file:
        for _ in range(count):
            frame = receiver.recv(copy=False)
            started = started or time.perf_counter()
            hasher.update(frame.buffer)
            file.write(frame.buffer)
    hasher.digest()
    return time.perf_counter() - started


async def pull(giver: Giver, target: Path) -> float:
    """Pull all that the giver has; return the seconds that the pull took."""
    nodes = MemoryNodes()
    async with DataPlane() as plane:
        assert giver.replica.address is not None
        channel = await plane.connect(giver.replica.address)
        await fetch_nodes(channel, giver.replica.token, giver.tree, nodes)
        update = TreeUpdate(target, basis=None, target=Manifest(giver.tree, nodes))
        stats = await plane.pull(update, [giver.replica], tree=giver.tree)
    return stats.seconds


def measure(root: Path, mib: int, rounds: int) -> dict[str, list[float]]:
    """Return the MB/s of each way in each round."""
    source, target = root / "src", root / "dst"
    source.mkdir()
    rng = random.Random(7)
    with (source / "file").open("wb") as file:
        for _ in range(mib):
            file.write(rng.randbytes(MIB))
    found: dict[str, list[float]] = {"zeromq": [], "floor": [], "filesync": []}
    with Giver(source) as giver:
        ways: dict[str, Callable[[], float]] = {
            "zeromq": lambda: drain(mib, None, None),
            "floor": lambda: drain(mib, source / "file", target / "file"),
            "filesync": lambda: asyncio.run(pull(giver, target)),
        }
        for _ in range(rounds):
            for name, way in ways.items():
                shutil.rmtree(target, ignore_errors=True)
                if name == "floor":
                    target.mkdir()
                found[name].append(round(mib * MIB / 1e6 / way(), 1))
                if name != "zeromq":
                    words = ["cmp", str(source / "file"), str(target / "file")]
                    subprocess.run(words, check=True)
    return found


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="128 MiB")
    parser.add_argument("--where", default="/dev/shm", help="a directory on tmpfs")
    parser.add_argument("--push", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.push:
        push(options.push, options.file, options.mib)
        return
    mib = 128 if options.quick else options.mib
    with tempfile.TemporaryDirectory(
        prefix="bench-throughput-", dir=options.where
    ) as directory:
        runs = measure(Path(directory), mib, options.rounds)
    report(mib, runs)


def report(mib: int, runs: dict[str, list[float]]) -> None:
    """Print, save and draw what came of it."""
    medians = {name: statistics.median(rates) for name, rates in runs.items()}
    ratio = medians["filesync"] / medians["zeromq"]
    of_floor = medians["filesync"] / medians["floor"]
    verdict = "ok" if ratio >= LIMIT else "MISS"
    rates = "  ".join(f"{name} {rate:.0f} MB/s" for name, rate in medians.items())
    print(
        f"throughput: {ratio:.2f} of bare ZeroMQ (limit {LIMIT}) {verdict}; {of_floor:.2f} of"
    )
    print(f"what reading, hashing and writing leave of it; {rates}", flush=True)
    saved: dict[str, Any] = {name: spread(rates) for name, rates in runs.items()}
    save("throughput", {"mib": mib, "ratio": round(ratio, 3), "mb_per_s": saved})
    bars = [(name, rate, f"{rate:.0f} MB/s") for name, rate in medians.items()]
    plot("throughput", [(f"{mib} MiB in one file, over loopback", bars)])


if __name__ == "__main__":
    main(sys.argv[1:])
