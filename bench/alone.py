"""What does a build take on one machine, against BuildKit?

``python -m bench.alone --help``, as root. *steps* is thirty ``RUN``, one after another; *context* is a ``COPY``
of many small files. Each is built new, then with nothing changed, and the context with one file changed. In turns,
and each time with other content: BuildKit (in dockerd), ours on an embedded cluster, which is
started and stopped by each build, and ours on a cluster that is there. What the last build made is compared.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench.dockerd import Daemon, Docker
from bench.inside import parse_inside
from bench.processes import Cluster, Machine, run
from bench.results import plot, save, spread
from bench.trees import PER_DIRECTORY

HERE: Final = Machine("127.0.0.1")
STEPS: Final = 30
FILE_BYTES: Final = 3_000
BASE: Final = """\
FROM scratch
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
COPY content /content
"""
STEP: Final = "RUN --network=none echo {number} > /made-{number}\n"

Build: TypeAlias = Callable[[Path, Path | None], None]
"""Build a directory; its result goes to the other one, if that is given."""


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.alone", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--docker-root", type=Path, default="/", help="where dockerd is")
    options = parse_inside(parser, words)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (
        tempfile.TemporaryDirectory(prefix="bench-alone-", dir=options.where) as name,
        ExitStack() as stack,
    ):
        root = Path(name)
        docker = stack.enter_context(Daemon(Docker(options.docker_root, root), HERE))
        cluster = stack.enter_context(Cluster(root / "cluster", workers=1))
        cluster.wait_for_workers()
        ways = {
            "BuildKit": through_docker(docker),
            "embedded": embedded(root / "cache"),
            "running": through(cluster),
        }
        for number in range(options.rounds):
            for case, seconds in round_of(root, number, options.files, ways):
                for way, taken in seconds.items():
                    found[case][way].append(taken)
        version = docker.version()
    report({"files": options.files, "steps": STEPS, "docker": version}, found)


def round_of(
    root: Path, number: int, files: int, ways: dict[str, Build]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each case with the seconds that each way takes; check at the end what was built."""
    rng = random.Random(number)
    steps, context = root / "steps", root / "context"
    write(steps, rng, 1, "".join(STEP.format(number=step) for step in range(STEPS)))
    write(context, rng, files, "")
    yield "steps: new", taken(ways, steps)
    yield "steps: unchanged", taken(ways, steps)
    yield "context: new", taken(ways, context)
    with next((context / "content").glob("*/*")).open("a") as file:
        file.write("one line more\n")
    yield "context: one file", taken(ways, context)
    yield "context: unchanged", taken(ways, context)
    for build in ways.values():
        for directory in (steps, context):
            out = root / "out"
            build(directory, out)
            check(directory, out)
            shutil.rmtree(out)


def write(directory: Path, rng: random.Random, files: int, steps: str) -> None:
    """Write what is built, anew."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "Dockerfile").write_text(BASE + steps)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", directory / "busybox")
    for number in range(files):
        path = directory / "content" / str(number // PER_DIRECTORY) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(FILE_BYTES // 2).hex().encode())


def taken(ways: dict[str, Build], directory: Path) -> dict[str, float]:
    """Return the seconds that each way takes to build a directory."""
    seconds = {}
    for way, build in ways.items():
        began_s = time.monotonic()
        build(directory, None)
        seconds[way] = time.monotonic() - began_s
    return seconds


def check(directory: Path, out: Path) -> None:
    """Raise unless a result has what was copied, and what the steps made."""
    subprocess.run(["diff", "-r", directory / "content", out / "content"], check=True)
    made = (directory / "Dockerfile").read_text().count("RUN")
    for number in range(made):
        if (out / f"made-{number}").read_text() != f"{number}\n":
            raise SystemExit("a step made something else")


def through_docker(daemon: Daemon) -> Build:
    """Build with BuildKit."""

    def build(directory: Path, out: Path | None) -> None:
        output = f"type=local,dest={out}" if out else "type=cacheonly"
        daemon.build(HERE, directory, f"--output={output}")

    return build


def embedded(cache: Path) -> Build:
    """Build as ``filesync build`` does where nothing else is said."""

    def build(directory: Path, out: Path | None) -> None:
        words = [f"--output=type=local,dest={out}"] if out else []
        alone = {"XDG_CACHE_HOME": str(cache), "FILESYNC_MANAGER": ""}
        done = run("build", *words, str(directory), env=alone)
        if done.returncode != 0:
            raise SystemExit(f"the build failed:\n{done.stderr}")

    return build


def through(cluster: Cluster) -> Build:
    """Build on a cluster that is there."""

    def build(directory: Path, out: Path | None) -> None:
        cluster.build(directory, *([f"--output=type=local,dest={out}"] if out else []))

    return build


def report(what: dict[str, Any], found: dict[str, dict[str, list[float]]]) -> None:
    """Save all, print the medians side by side, and plot them."""
    rows = {case: {way: spread(s) for way, s in ways.items()} for case, ways in found.items()}
    save("alone", {**what, "seconds": rows})
    bars = []
    for case, ways in rows.items():
        print(
            f"{case:20}", *(f"{way} {s['median']:6.2f} s" for way, s in ways.items()), sep="  "
        )
        bars += [
            (f"{case}, {way}", s["median"], f"{s['median']:.2f} s") for way, s in ways.items()
        ]
    plot("alone", [("Seconds", bars)])


if __name__ == "__main__":
    main(sys.argv[1:])
