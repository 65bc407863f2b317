"""``filesync sync`` against rsync where a tree, or a command line, has an unusual shape.

``python -m bench.shapes --help``. What should cost nothing must not begin to: rules that match nothing, a
directory of which one name is asked for, thousands of names and of directories, holes. Each shape is synced
from a directory to another, and to a server, by both in turns: *first* to where nothing is, *second* and
*third* with nothing to do, and *changed* after one file in each of some directories was. Everything that
was synced is compared with its source by ``rsync -nc``.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.inside import parse_inside
from bench.results import save
from bench.sync import FILESYNC, REST_S, RSYNC_PORT, SERVE_PORT, compare, servers

STEPS: Final = ("first", "second", "third", "changed")
OURS: Final = (*FILESYNC, "sync", "--quiet")
RSYNC: Final = ("rsync", "-aHS")
DIRECTORIES: Final = 100
"""At most, in which a file is changed."""
ENDS: Final = (
    "o",
    "a",
    "so",
    "pyc",
    "class",
    "jar",
    "log",
    "tmp",
    "swp",
    "bak",
    "orig",
    "rej",
    "obj",
)
NAMES: Final = (
    ".git",
    ".svn",
    "CVS",
    "node_modules",
    "__pycache__",
    ".venv",
    "target/",
    "dist/",
)
TOPS: Final = ("/proc", "/sys", "/dev", "/tmp", "/run", "/mnt", "/lost+found")
RULES: Final = (
    *(f"*.{end}" for end in ENDS),
    *NAMES,
    *TOPS,
    *(f"secret{number}*.key" for number in range(30)),
    *(f"cache/{number}/**" for number in range(30)),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A tree, and how it is named.

    Attributes:
        make: writes it into an empty directory.
        named: what of it is named as a source, below that directory; None for all that is in it.
        options: for both tools.
    """

    make: Callable[[Path], None]
    named: Callable[[Path], list[str]] | None = None
    options: tuple[str, ...] = ()


def files_in(
    directories: int, files: int, *, named_apart: bool = False
) -> Callable[[Path], None]:
    """Return what writes so many directories of so many files each, of 1,000 bytes.

    No name of a file comes twice if they are ``named_apart``.
    """

    def make(root: Path) -> None:
        rng = random.Random(7)
        for directory in range(directories):
            path = root / f"d{directory}"
            path.mkdir()
            for number in range(files):
                start = f"{directory}-" if named_apart else ""
                (path / f"f{start}{number}.txt").write_bytes(rng.randbytes(1000))

    return make


def flat(files: int) -> Callable[[Path], None]:
    """Return what writes so many small files into one directory."""

    def make(root: Path) -> None:
        for number in range(files):
            (root / f"f{number:06}").write_bytes(b"%d" % number)

    return make


def linked_twice(root: Path) -> None:
    """Write 10,000 files that have two names each."""
    files_in(100, 100)(root)
    for path in sorted(root.iterdir()):
        beside = root / f"{path.name}-again"
        beside.mkdir()
        for file in path.iterdir():
            (beside / file.name).hardlink_to(file)


def symlinks(root: Path) -> None:
    """Write 20,000 symbolic links."""
    for directory in range(200):
        path = root / f"d{directory}"
        path.mkdir()
        for number in range(100):
            (path / f"l{number}").symlink_to(f"../d{number}")


def hole(root: Path) -> None:
    """Write a file of 4 GiB that holds next to nothing."""
    (root / "d").mkdir()
    with (root / "d" / "disk").open("wb") as disk:
        disk.truncate(4 << 30)
        disk.seek(2 << 30)
        disk.write(b"in the middle")


def each(root: Path) -> list[str]:
    """Name all that is in ``root``, by name."""
    return sorted(os.listdir(root))


def inside_each(root: Path) -> list[str]:
    """Name what is in each directory of ``root``."""
    return [f"{name}/" for name in each(root)]


def one(root: Path) -> list[str]:
    """Name one file of ``root``."""
    return each(root)[:1]


SHAPES: Final = {
    "20,000 directories": Shape(files_in(20_000, 0)),
    "20,000 symbolic links": Shape(symlinks),
    "10,000 files, twice each": Shape(linked_twice),
    "50,000 in one directory": Shape(flat(50_000)),
    f"{len(RULES)} rules": Shape(
        files_in(400, 100), options=tuple(f"--exclude={rule}" for rule in RULES)
    ),
    "20,000 names": Shape(flat(20_000), named=each),
    "one name of 100,000": Shape(flat(100_000), named=one),
    "1,000 directories named": Shape(files_in(1000, 10), named=each),
    "1,000 directories in one": Shape(files_in(1000, 10, named_apart=True), named=inside_each),
    "a hole of 4 GiB": Shape(hole),
}


def measure(shape: Shape, root: Path) -> Iterator[tuple[str, float, float]]:
    """Yield (what was done, seconds of ours, seconds of rsync) for one shape."""
    source, served = root / "src", root / "served"
    for path in (source, served, root / "here", root / "cache"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (source, served, root / "here"):
        path.mkdir()
    shape.make(source)
    ways = {
        "here": (f"{root}/here/ours/", f"{root}/here/rsync/"),
        "server": (
            f"tcp://127.0.0.1:{SERVE_PORT}/ours/",
            f"rsync://127.0.0.1:{RSYNC_PORT}/t/rsync/",
        ),
    }
    for step in STEPS:
        if step == "changed":
            change(source)
        named = shape.named(source) if shape.named else ["./"]
        for way, targets in ways.items():
            took: list[float] = []
            for tool, target in zip((OURS, RSYNC), targets, strict=True):
                time.sleep(REST_S)
                began = time.monotonic()
                subprocess.run([*tool, *shape.options, *named, target], check=True, cwd=source)
                took.append(time.monotonic() - began)
            yield f"{step}, {way}", took[0], took[1]
    for directory in (root / "here", served):
        theirs = source if shape.named in (None, each) else directory / "rsync"
        compare(theirs, directory / "ours", *(("-O",) if shape.named else ()))


def change(source: Path) -> None:
    """Give some directories, or the tree, one more file each."""
    directories = [path for path in sorted(source.iterdir()) if path.is_dir()]
    for path in directories[:DIRECTORIES] or [source]:
        (path / "new").write_text(path.name)


def main(words: Sequence[str]) -> None:
    """Run what ``words`` ask for."""
    parser = argparse.ArgumentParser(prog="python -m bench.shapes", description=__doc__)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="only this")
    parser.add_argument("--rounds", type=int, default=3)
    options = parse_inside(parser, words)
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-shapes-", dir=options.where) as directory:
        root = Path(directory)
        with servers(root, None):
            for name in options.shape or SHAPES:
                runs: dict[str, list[tuple[float, float]]] = {}
                for _ in range(options.rounds):
                    for what, ours, rsync in measure(SHAPES[name], root):
                        runs.setdefault(what, []).append((ours, rsync))
                found[name] = {what: _figures(some) for what, some in runs.items()}
                for what, figures in found[name].items():
                    print(f"{name:26} {what:16} {figures}", flush=True)
    if not options.shape:
        save("shapes", {"rounds": options.rounds, "shapes": found})


def _figures(runs: Sequence[tuple[float, float]]) -> dict[str, float]:
    ours, rsync = (statistics.median(some) for some in zip(*runs, strict=True))
    return {"ours": round(ours, 3), "rsync": round(rsync, 3), "ratio": round(ours / rsync, 2)}


if __name__ == "__main__":
    main(sys.argv[1:])
