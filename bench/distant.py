"""How many round trips does a build take whose client is far away from manager and worker?

``python -m bench.distant``, as root. One step copies a context, of which nothing, three files or
1 % were edited since the last build; the difference between a client over the link and one beside
the manager, by what a round trip takes. Bytes that take time on the link count as round trips, too.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.link import FAR_HOST, far_away, link_of
from bench.processes import Cluster
from bench.results import save
from bench.trees import write_tree

FILE_BYTES: Final = 5_000


def main(words: Sequence[str]) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.distant", description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--link", type=link_of, default=link_of("100,100"), metavar="MBIT,MS")
    parser.add_argument("--where", default="/dev/shm", help="a directory on tmpfs")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if not options.inside:
        inside = f'ip link set lo up && ip address add {FAR_HOST} dev lo && exec "$0" "$@"'
        me = [sys.executable, "-m", "bench.distant", "--inside", *words]
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", inside, *me])
    with tempfile.TemporaryDirectory(prefix="bench-distant-", dir=options.where) as name:
        root = Path(name)
        context = root / "context"
        size = options.files * FILE_BYTES
        write_tree(context / "files", files=options.files, total=size, seed=3)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY files /files\n")
        with Cluster(root / "cluster", workers=1, host=FAR_HOST) as cluster:
            cluster.build(context)
            with far_away(cluster.ports, options.link) as far:
                rows = {
                    str(edited): row(
                        cluster, context, edited, options.rounds, far, options.link.rtt_ms
                    )
                    for edited in (0, 3, options.files // 100)
                }
    link = {"mbit": options.link.mbit, "rtt_ms": options.link.rtt_ms}
    save("distant", {"files": options.files, **link, "edited": rows})


def row(
    cluster: Cluster,
    context: Path,
    edited: int,
    rounds: int,
    far: Sequence[str],
    rtt_ms: float,
) -> dict[str, float]:
    """Return the seconds of a build near and far, medians, and how many round trips lie between."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * rounds + 2):
        edit(context / "files", edited)
        is_far = number % 2 == 1
        began_s = time.monotonic()
        cluster.build(context, through=far if is_far else ())
        if number >= 2:  # the first of each learns who is there
            times[is_far].append(time.monotonic() - began_s)
    near_s, far_s = statistics.median(times[False]), statistics.median(times[True])
    return {
        "near_s": round(near_s, 3),
        "far_s": round(far_s, 3),
        "round_trips": round((far_s - near_s) / rtt_ms * 1000, 1),
    }


def edit(root: Path, count: int) -> None:
    """Put a line into the middle of some files."""
    rng = random.Random()
    for path in rng.sample(sorted(path for path in root.rglob("*") if path.is_file()), count):
        data, line = path.read_bytes(), b"\n%d\n" % rng.getrandbits(60)
        path.write_bytes(data[: len(data) // 2] + line + data[len(data) // 2 :])


if __name__ == "__main__":
    main(sys.argv[1:])
