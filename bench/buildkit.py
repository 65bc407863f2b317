"""What does a build that is spread over two machines ship, and how long does it take, against BuildKit?

``python -m bench.buildkit --help``, as root. Four machines in a network whose links have a rate: a
client, the builders *one* and *two*, and one for the registry or the manager. The project has a
directory of tools, sources, and one large file among these. In turn:

*compile*: builder one makes a program of the sources, with the tools. *pack*: builder two makes an
image of the program; with BuildKit it gets that as its documentation has it, from a cache that builder
one exports to the registry. *result*: the client takes what the image has into a directory. Then one
source in a hundred gets a line, the large file a paragraph in its middle, and all three are done again;
*nothing changed* is one more *compile*. Bytes are all that the machines send into the network.
Every result is compared with what it must be.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench.dockerd import Daemon, Docker
from bench.inside import parse_inside
from bench.network import network, sent_bytes
from bench.processes import Cluster, Machine
from bench.registry import Registry
from bench.results import plot, save
from bench.trees import PER_DIRECTORY, text

MB: Final = 1_000_000
SOURCE_BYTES: Final = 4_000
DOCKERFILE: Final = """\
FROM scratch AS tools
COPY tools/ /
FROM tools AS compile
COPY src/ /src/
RUN --network=none ["/bin/busybox", "sh", "-c", "/bin/busybox cat /src/*/* > /program"]
FROM scratch AS pack
COPY --from=compile /program /program
"""

Row: TypeAlias = dict[str, float]
Build: TypeAlias = Callable[..., None]
"""Run a build: its target, where its result goes if anywhere."""


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.buildkit", description=__doc__)
    parser.add_argument("--tools-mb", type=int, default=200)
    parser.add_argument("--large-mb", type=int, default=30)
    parser.add_argument("--sources", type=int, default=5_000)
    parser.add_argument("--mbit", type=float, default=200)
    parser.add_argument("--docker-root", type=Path, default="/", help="where dockerd is")
    options = parse_inside(parser, words)
    with (
        tempfile.TemporaryDirectory(prefix="bench-buildkit-", dir=options.where) as name,
        network(4, options.mbit) as machines,
    ):
        root = Path(name)
        project = Project(root / "context", options)
        with buildkit(Docker(options.docker_root, root), machines) as (version, build):
            theirs = lifetime(project, build, root / "out")
        project.write()
        with ours(root, machines) as build:
            mine = lifetime(project, build, root / "out")
    report(vars(options), version, mine, theirs)


class Project:
    """The directory that is built."""

    def __init__(self, directory: Path, options: argparse.Namespace) -> None:
        self.directory = directory
        self._options = options
        self.write()

    def write(self) -> None:
        """Write it as it is at first: the same bytes each time."""
        shutil.rmtree(self.directory, ignore_errors=True)
        rng = random.Random(1)
        programs, libraries, large = (
            self.directory / name for name in ("tools/bin", "tools/lib", "src/a")
        )
        for directory in (programs, libraries, large):
            directory.mkdir(parents=True)
        (self.directory / "Dockerfile").write_text(DOCKERFILE)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", programs / "busybox")
        for number in range(self._options.tools_mb):
            (libraries / f"{number}.so").write_bytes(rng.randbytes(MB))
        (large / "large").write_bytes(rng.randbytes(self._options.large_mb * MB))
        for number in range(self._options.sources):
            path = self._source(number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text(rng, SOURCE_BYTES))

    def edit(self) -> None:
        """Change one source in a hundred, and the middle of the large file."""
        for number in range(0, self._options.sources, 100):
            with self._source(number).open("ab") as source:
                source.write(b"one line more\n")
        large = self.directory / "src/a/large"
        data = large.read_bytes()
        middle = len(data) // 2
        large.write_bytes(data[:middle] + text(random.Random(2), 1_000) + data[middle:])

    def check(self, out: Path) -> None:
        """Raise SystemExit unless a program is what the sources make."""
        parts = (path.read_bytes() for path in sorted((self.directory / "src").glob("*/*")))
        if (out / "program").read_bytes() != b"".join(parts):
            raise SystemExit("a result is not what the sources make")

    def _source(self, number: int) -> Path:
        return (
            self.directory / f"src/{number // PER_DIRECTORY:04}/{number % PER_DIRECTORY:02}.c"
        )


def lifetime(project: Project, build: Build, out: Path) -> dict[str, Row]:
    """Do all that is done to a project, in turn; return what each took."""
    rows: dict[str, Row] = {}
    for when in ("first", "edited"):
        if when == "edited":
            project.edit()
        rows[f"{when}: compile"] = measured(lambda: build(project, "compile"))
        rows[f"{when}: pack"] = measured(lambda: build(project, "pack"))
        rows[f"{when}: result"] = measured(lambda: build(project, "pack", out))
        project.check(out)
    rows["nothing changed"] = measured(lambda: build(project, "compile"))
    shutil.rmtree(out)
    return rows


def measured(run: Callable[[], None]) -> Row:
    """Return the seconds, and what the machines sent."""
    before, began_s = sum(sent_bytes(4)), time.monotonic()
    run()
    return {
        "seconds": round(time.monotonic() - began_s, 2),
        "bytes": sum(sent_bytes(4)) - before,
    }


# --- the ways -----------------------------------------------------------------------------------


@contextmanager
def buildkit(docker: Docker, machines: Sequence[Machine]) -> Iterator[tuple[str, Build]]:
    """Have a dockerd on each builder."""
    client, one, two, shop = machines
    with Registry(docker.shared / "registry", shop, port=5000) as registry:
        where = f"type=registry,ref={registry.host}/cache:1"
        with (
            Daemon(docker, one, registry.host) as first,
            Daemon(docker, two, registry.host) as second,
        ):

            def build(project: Project, target: str, out: Path | None = None) -> None:
                result = f"--output=type=local,dest={out}" if out else "--output=type=cacheonly"
                words = [f"--target={target}", result]
                if target == "compile":
                    first.build(client, project.directory, *words)
                    return
                if not out:  # it is exported when it is needed, not with each build
                    export = [f"--cache-to={where},mode=max", "--output=type=cacheonly"]
                    first.build(client, project.directory, "--target=compile", *export)
                second.build(client, project.directory, *words, f"--cache-from={where}")

            yield first.version(), build


@contextmanager
def ours(root: Path, machines: Sequence[Machine]) -> Iterator[Build]:
    """Have a worker on each builder, and the manager on the fourth machine."""
    client, one, two, shop = machines
    places = {"w1": one, "w2": two, "manager": shop}
    with Cluster(root / "ours", workers=2, host=shop.host, machines=places) as cluster:
        cluster.wait_for_workers()

        def build(project: Project, target: str, out: Path | None = None) -> None:
            result = [f"--output=type=local,dest={out}"] if out else []
            words = ["--place=compile=name=w1", "--place=pack=name=w2", f"--target={target}"]
            cluster.build(project.directory, *words, *result, through=client.through)

        yield build


def report(
    options: dict[str, Any], version: str, mine: dict[str, Row], theirs: dict[str, Row]
) -> None:
    """Save both, print them side by side, and plot them."""
    sizes = {name: options[name] for name in ("tools_mb", "large_mb", "sources", "mbit")}
    save("buildkit", {**sizes, "docker": version, "ours": mine, "buildkit": theirs})
    for name, row in mine.items():
        there = theirs[name]
        print(
            f"{name:16} {row['bytes'] / MB:8.2f} MB against {there['bytes'] / MB:8.2f}"
            f"  {row['seconds']:6.2f} s against {there['seconds']:6.2f}"
        )
    ways = {"ours": mine, "BuildKit": theirs}
    bars = [(f"{name}, {way}", rows[name]) for name in mine for way, rows in ways.items()]
    plot(
        "buildkit",
        [
            (
                "Bytes into the network",
                [(label, row["bytes"], f"{row['bytes'] / MB:.2f} MB") for label, row in bars],
            ),
            (
                "Seconds",
                [(label, row["seconds"], f"{row['seconds']:.2f} s") for label, row in bars],
            ),
        ],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
