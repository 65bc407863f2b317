"""How many round trips does a build take whose client is far away from manager and worker?

``python -m bench.distant``, as root. One step copies a context, of which nothing, three files or
1 % were edited since the last build; the difference between a client over the link and one beside
the manager, by what a round trip takes. Bytes that take time on the link count as round trips, too.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.inside import LO_UP, parse_inside
from bench.link import FAR_HOST, far_away, link_of
from bench.processes import Cluster
from bench.results import save, spread
from bench.trees import write_tree

FILE_BYTES: Final = 5_000
SEED: Final = 3


def main(words: Sequence[str]) -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.distant", description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--link", type=link_of, default=link_of("100,100"), metavar="MBIT,MS")
    options = parse_inside(parser, words, setup=f"{LO_UP} && ip address add {FAR_HOST} dev lo")
    with tempfile.TemporaryDirectory(prefix="bench-distant-", dir=options.where) as name:
        root = Path(name)
        context = root / "context"
        size = options.files * FILE_BYTES
        write_tree(context / "files", files=options.files, total=size, seed=SEED)
        (context / "Dockerfile").write_text("FROM scratch\nCOPY files /files\n")
        with Cluster(root / "cluster", workers=1, host=FAR_HOST) as cluster:
            cluster.build(context)
            with far_away(cluster.ports, options.link) as far:
                rig = Rig(cluster, context, far, random.Random(SEED))
                rows = {
                    str(edited): row(rig, edited, options.rounds, options.link.rtt_ms)
                    for edited in sorted({0, 3, options.files // 100})
                }
    sizes = {"files": options.files, "rounds": options.rounds, "seed": SEED}
    save("distant", {**sizes, **options.link._asdict(), "edited": rows})


class Rig(NamedTuple):
    """A cluster, a context beside it, and the words that run a command far from both."""

    cluster: Cluster
    context: Path
    far: Sequence[str]
    rng: random.Random

    def seconds(self, edited: int, *, is_far: bool) -> float:
        """Edit some files, and return how long a build then takes."""
        edit(self.context / "files", edited, self.rng)
        began_s = time.monotonic()
        self.cluster.build(self.context, through=self.far if is_far else ())
        return time.monotonic() - began_s


def row(rig: Rig, edited: int, rounds: int, rtt_ms: float) -> dict[str, Any]:
    """Return the seconds of a build near and far, in turns, and how many round trips lie between."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for is_far, taken in times.items():
            taken_s = rig.seconds(edited, is_far=is_far)
            if number:  # the first of each learns who is there
                taken.append(taken_s)
    near, far = spread(times[False]), spread(times[True])
    trips = (far["median"] - near["median"]) / rtt_ms * 1000
    return {"near_s": near, "far_s": far, "round_trips": round(trips, 1)}


def edit(root: Path, count: int, rng: random.Random) -> None:
    """Put a line into the middle of some files."""
    for path in rng.sample(sorted(path for path in root.rglob("*") if path.is_file()), count):
        data, line = path.read_bytes(), b"\n%d\n" % rng.getrandbits(60)
        path.write_bytes(data[: len(data) // 2] + line + data[len(data) // 2 :])


if __name__ == "__main__":
    main(sys.argv[1:])
