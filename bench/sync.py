"""``filesync sync`` against rsync, cp and tar, and the least that is possible.

``python -m bench.sync --help``. "floor" is a plain program of the same libraries (``bench.floor``):
where even that misses a limit, the limit cannot be met.

Every round runs all tools one after another on the same change of the same source, each with a
destination of its own; each result is compared with the source by ``rsync -nc``. Bytes are what
crossed the loopback of a network namespace that holds nothing else, both ways, TCP included.
With ``--pull`` the servers have the source; then there is no floor. With ``--link`` all goes over a
link of that rate and delay (``bench.link``), and each byte crosses the loopback twice, before and
behind it.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.inside import parse_inside
from bench.link import Link, link_of, loopback_bytes, relaying
from bench.results import plot, save
from bench.sync_rows import MIB, Row, rows

RSYNC_PORT: Final = 8730
SERVE_PORT: Final = 8731
FLOOR_PORT: Final = 8732
PORTS: Final = (RSYNC_PORT, SERVE_PORT, FLOOR_PORT)
BEHIND: Final = 100
"""Added to the ports of servers that are behind a link."""
REST_S: Final = 0.1
"""A file that changed just before a scan is read again by it: that is not what is measured."""
CHANGE_S: Final = 1.1
"""rsync takes a file of the same size and the same second for unchanged."""
START_S: Final = 20.0
FILESYNC: Final = [sys.executable, "-m", "filesync"]
BESIDES_BYTES: Final = 512 * MIB
"""Of memory at hand, for what a tool holds besides the trees that it reads and writes."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One way to bring the source's content into ``name``'s destination.

    Attributes:
        command: given source and destination, what to run.
        is_named: its destination has a name at a server, and else a path.
    """

    name: str
    command: Callable[[str, str], list[str]]
    is_named: bool = True


def _ours(*options: str) -> Callable[[str, str], list[str]]:
    url = f"tcp://127.0.0.1:{SERVE_PORT}/"
    return lambda src, name: [*FILESYNC, "sync", "--delete", *options, f"{src}/", url + name]


def _rsync(*options: str) -> Callable[[str, str], list[str]]:
    url = f"rsync://127.0.0.1:{RSYNC_PORT}/t/"
    return lambda src, name: ["rsync", "-a", "--delete", *options, f"{src}/", f"{url}{name}/"]


def _pulled(url: str, *words: str) -> Callable[[str, str], list[str]]:
    return lambda src, dest: [*words, f"{url}/{Path(src).name}/", f"{dest}/"]


def _local(*words: str) -> Callable[[str, str], list[str]]:
    return lambda src, name: [*words, f"{src}/", name]


def _floor(src: str, name: str) -> list[str]:
    address = f"tcp://127.0.0.1:{FLOOR_PORT}"
    return [sys.executable, "-m", "bench.floor", "give", src, address, name]


def _tar(src: str, name: str) -> list[str]:
    script = 'mkdir -p "$2" && tar -C "$1" -cf - . | tar -C "$2" -xpf -'
    return ["sh", "-c", script, "sh", src, name]


OURS: Final = Tool("ours", _ours())
RSYNC: Final = Tool("rsync", _rsync())
FLOOR: Final = Tool("floor", _floor)
WARM: Final = (OURS, RSYNC, FLOOR)
LOCAL: Final = (
    Tool("ours-local", _local(*FILESYNC, "sync", "--delete"), is_named=False),
    Tool("rsync-local", _local("rsync", "-a", "--delete"), is_named=False),
)
SECOND: Final = (*WARM, *LOCAL)
PULLED: Final = tuple(
    Tool(name, _pulled(url, *words, "--delete"), is_named=False)
    for name, url, words in (
        ("ours", f"tcp://127.0.0.1:{SERVE_PORT}", (*FILESYNC, "sync")),
        ("ours-z", f"tcp://127.0.0.1:{SERVE_PORT}", (*FILESYNC, "sync", "-z")),
        ("rsync", f"rsync://127.0.0.1:{RSYNC_PORT}/t", ("rsync", "-a")),
    )
)
COLD: Final = (
    *SECOND,
    Tool("ours-z", _ours("-z")),
    Tool("rsync-z", _rsync("-z", "--zc=zstd")),
    Tool("cp", lambda src, name: ["cp", "-a", f"{src}/.", name], is_named=False),
    Tool("tar", _tar, is_named=False),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one tool: seconds of wall time, bytes on the wire."""

    seconds: float
    wire_bytes: int


def measure(row: Row, root: Path, rounds: int, *, pulls: bool = False) -> dict[str, list[Run]]:
    """Return the runs of every tool for one case."""
    served = root / "served"
    source, dests = (served / "src", root / "taken") if pulls else (root / "src", served)
    for path in (served, source, dests):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(exist_ok=True)
    row.start(source)
    warm = PULLED if pulls else WARM
    tools = warm if pulls or not row.is_cold else SECOND if row.is_second else COLD
    if row.peer and not pulls:
        warm = tools = (OURS, Tool("rsync", _rsync(*row.peer)), FLOOR)
    runs: dict[str, list[Run]] = {tool.name: [] for tool in tools}
    # Twice: the first sync fills the destination, the second finds it in the stat caches.
    for tool in () if row.is_cold else (*warm, *warm):
        _run(tool, source, dests)
        time.sleep(REST_S)
    size = sum(path.lstat().st_size for path in source.rglob("*"))
    for number in range(rounds):
        if not row.is_second:
            time.sleep(0 if row.is_cold else CHANGE_S)
            row.change(source, number)
        for turn, tool in enumerate(tools):
            if row.is_cold:
                shutil.rmtree(dests / tool.name, ignore_errors=True)
                shutil.rmtree(root / "cache", ignore_errors=True)
            if row.is_second:
                _run(tool, source, dests)
                time.sleep(CHANGE_S)
                row.change(source, number * len(tools) + turn)
            _have_memory(root, 2 * size + BESIDES_BYTES)
            time.sleep(REST_S)
            runs[tool.name].append(_run(tool, source, dests))
            compare(source, dests / tool.name)
    return runs


def _run(tool: Tool, source: Path, dests: Path) -> Run:
    target = tool.name if tool.is_named else str(dests / tool.name)
    before = loopback_bytes()
    started = time.monotonic()
    subprocess.run(tool.command(str(source), target), check=True)
    seconds = time.monotonic() - started
    return Run(seconds, loopback_bytes() - before)


def _have_memory(where: Path, size: int) -> None:
    """Have ``size`` bytes of free memory be at hand, whichever tool is next.

    A hypervisor may take back what its guest has free for some seconds: the first 1 GiB that was written then
    took 4 s, and the next 0.4, both to tmpfs.
    """
    piece = b"1" * MIB
    with tempfile.TemporaryFile(dir=where, buffering=0) as file:
        for _ in range(size // MIB):
            file.write(piece)


def compare(source: Path, dest: Path, *options: str) -> None:
    """Compare two trees, contents and all, by rsync with ``options``."""
    words = ["rsync", "-anci", "--delete", *options, f"{source}/", f"{dest}/"]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    if found:
        raise SystemExit(f"{dest.name} is not what the source is:\n{found[:1000]}")


# --- servers --------------------------------------------------------------------------------------


@contextmanager
def servers(root: Path, link: Link | None) -> Iterator[None]:
    """Run the servers for what is below ``root``, behind ``link``."""
    behind = {port: port + (BEHIND if link else 0) for port in PORTS}
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    # As an installed program: its modules are compiled once, not for each run.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(root / "compiled")
    (root / "served").mkdir()
    (root / "rsyncd.conf").write_text(
        f"port = {behind[RSYNC_PORT]}\naddress = 127.0.0.1\nuse chroot = no\n"
        f"[t]\npath = {root / 'served'}\nread only = no\nuid = 0\ngid = 0\n"
    )
    served, at = str(root / "served"), "tcp://127.0.0.1:{}"
    commands = [
        ["rsync", "--daemon", "--no-detach", f"--config={root / 'rsyncd.conf'}"],
        [*FILESYNC, "serve", served, "--listen", at.format(behind[SERVE_PORT])],
        [sys.executable, "-m", "bench.floor", "serve", served, at.format(behind[FLOOR_PORT])],
    ]
    running = [subprocess.Popen(one, stdout=subprocess.DEVNULL) for one in commands]
    try:
        for port in behind.values():
            _wait_for(port)
        with relaying(list(behind.items()), link) if link else nullcontext():
            for port in behind:
                _wait_for(port)
            yield
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait_for(port: int) -> None:
    """Wait until something listens there."""
    deadline_s = time.monotonic() + START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline_s:
            raise SystemExit(f"nothing listens on port {port}; is rsync installed?")
        time.sleep(0.05)


# --- what comes of it -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to rsync's, and what it may be."""

    ratio: float
    limit: float | None

    def __str__(self) -> str:
        """Say it, and whether it is met."""
        if self.limit is None:
            return f"{self.ratio:8.4f} (no limit)       "
        verdict = "ok" if self.ratio <= self.limit else "MISS"
        return f"{self.ratio:8.4f} (limit {self.limit:.2f}) {verdict:4}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one case: ratios, and for each tool the median and the seconds of its runs."""

    title: str
    bytes: Ratio
    time: Ratio
    medians: dict[str, Run]
    seconds: dict[str, list[float]]


def figures(row: Row, runs: dict[str, list[Run]]) -> Figures:
    """Return medians, and the ratios of ours to rsync with the limits that they have."""
    medians = {
        name: Run(
            round(statistics.median(run.seconds for run in some), 4),
            int(statistics.median(run.wire_bytes for run in some)),
        )
        for name, some in runs.items()
    }
    ours, rsync = medians["ours"], medians["rsync"]
    # Where less than all bytes may travel cold, it is with compression.
    is_coded = row.is_cold and row.bytes_limit is not None and row.bytes_limit < 1
    coded = medians["ours-z"] if is_coded else ours
    return Figures(
        row.title,
        Ratio(round(coded.wire_bytes / rsync.wire_bytes, 4), row.bytes_limit),
        Ratio(round(ours.seconds / rsync.seconds, 3), row.time_limit),
        medians,
        {name: [round(run.seconds, 4) for run in some] for name, some in runs.items()},
    )


def _line(name: str, found: Figures) -> str:
    tools = "  ".join(
        f"{tool} {run.seconds:.3f} s {run.wire_bytes:,} B"
        for tool, run in found.medians.items()
    )
    return f"{name:14}  bytes {found.bytes}  time {found.time}  {tools}"


def _draw(found: dict[str, Figures]) -> None:
    groups = []
    for one in found.values():
        bars = []
        for kind, value in (("bytes", one.bytes), ("time", one.time)):
            bars.append((f"{kind}: filesync / rsync", value.ratio, f"{value.ratio:.3f}"))
            if value.limit is not None:
                bars.append((f"{kind}: limit", value.limit, f"{value.limit:.2f}"))
        groups.append((one.title, bars))
    plot("sync", groups)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sync", description=__doc__)
    parser.add_argument("--row", action="append", choices=rows(is_quick=True), help="only this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="large files an eighth as large")
    parser.add_argument("--pull", action="store_true", help="take from the servers")
    parser.add_argument("--link", type=link_of, metavar="MBIT,MS", help="rate and round trip")
    return parse_inside(parser, words)


def main(words: Sequence[str]) -> None:
    """Run what ``words`` ask for."""
    options = _parse(words)
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="bench-sync-", dir=options.where) as directory:
        root = Path(directory)
        with servers(root, options.link):
            for name, row in rows(is_quick=options.quick).items():
                if options.row and name not in options.row:
                    continue
                try:
                    runs = measure(row, root, options.rounds, pulls=options.pull)
                    found[name] = figures(row, runs)
                except (subprocess.CalledProcessError, SystemExit) as exc:
                    print(f"{name:14}  FAILED: {exc}", flush=True)
                    continue
                print(_line(name, found[name]), flush=True)
    if not (options.row or options.link or options.pull):
        rounds = {"rounds": options.rounds}
        save("sync", rounds | {"rows": {name: asdict(one) for name, one in found.items()}})
        _draw(found)


if __name__ == "__main__":
    main(sys.argv[1:])
