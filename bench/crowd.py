"""Many clients give to, and take from, one server at once: how long, and how much memory is that?

``python -m bench.crowd --help``. Each client has a directory, and a cache, of its own; all give the same
tree, half of it one large file. What one client takes the server is measured with, and what so many
take together with another. Every tree that comes back is compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from bench.processes import peak_bytes
from bench.results import save
from bench.running_pair import compare
from bench.trees import write_tree

FILESYNC: Final = (sys.executable, "-m", "filesync")
SMALL_BYTES: Final = 30_000_000
LARGE_BYTES: Final = 60_000_000


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, int]]:
    """Serve ``root``; gives the address and the process."""
    root.mkdir()
    command = [*FILESYNC, "serve", str(root), "--listen", "tcp://127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid
        server.terminate()


def measure(source: Path, root: Path, clients: int) -> dict[str, float]:
    """Return what it takes with so many clients, below ``root``."""
    root.mkdir()

    def sync(source: str, dest: str, number: int) -> None:
        env = {**os.environ, "XDG_CACHE_HOME": str(root / f"cache-{number}")}
        words = [one.format(n=number) for one in (source, dest)]
        subprocess.run([*FILESYNC, "sync", "--quiet", *words], check=True, env=env)

    found: dict[str, float] = {}
    with (
        serving(root / "served") as (address, pid),
        ThreadPoolExecutor(clients) as running,
    ):
        given, taken = address + "/{n}/", f"{root}/back-{{n}}/"
        for what, way in (("give", (f"{source}/", given)), ("take", (given, taken))):
            began_s = time.monotonic()
            list(running.map(partial(sync, *way), range(clients)))
            found[f"{what}_s"] = round(time.monotonic() - began_s, 2)
            found[f"{what}_peak_bytes"] = peak_bytes(pid)
    for number in range(clients):
        compare(source, root / f"back-{number}")
    return found


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--where", default="/dev/shm", help="a directory on tmpfs")
    options = parser.parse_args(words)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-crowd-", dir=options.where) as directory:
        source = Path(directory) / "source"
        write_tree(source / "small", files=5_000, total=SMALL_BYTES, seed=1)
        (source / "large").write_bytes(os.urandom(LARGE_BYTES))
        for clients in (1, options.clients):
            one = found[str(clients)] = measure(source, Path(directory) / f"{clients}", clients)
            for what in ("give", "take"):
                seconds, peak = one[f"{what}_s"], one[f"{what}_peak_bytes"]
                print(
                    f"{clients:3} clients {what}: {seconds:6.2f} s, server {peak / 1e6:.0f} MB",
                    flush=True,
                )
    save("crowd", found)


if __name__ == "__main__":
    main(sys.argv[1:])
