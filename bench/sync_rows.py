"""The cases of ``bench.sync``: trees, how they change from round to round, and the limits."""

import random
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A case.

    Attributes:
        title: for people.
        start: writes the tree into an empty directory.
        change: changes it for a round, which is told by its number.
        is_cold: each round starts with an empty destination and no stat cache.
        bytes_limit: of the ratio of bytes on the wire to rsync's; time_limit: of the time. None
            where nothing is to be reached.
        is_second: of two runs of such a round, with the change between them, the second is measured.
        peer: what rsync is told besides, where it gives to a server.
    """

    title: str
    start: Callable[[Path], None]
    change: Callable[[Path, int], None]
    is_cold: bool
    bytes_limit: float | None
    time_limit: float | None
    is_second: bool = False
    peer: tuple[str, ...] = ()


def unchanged(root: Path, number: int) -> None:
    """Change nothing."""


def nothing(root: Path) -> None:
    """Write nothing."""


@cache
def source_text() -> bytes:
    """Return the text of this Python's standard library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return b"".join([path.read_bytes() for path in files])


def small_files(root: Path) -> None:
    """Write 40,000 files of source text, 220 MB, in 400 directories."""
    rng, text = random.Random(5), source_text()
    for directory in range(400):
        path = root / f"d{directory % 20:02}" / f"s{directory:03}"
        path.mkdir(parents=True)
        for number in range(100):
            size = min(int(rng.lognormvariate(8.3, 0.9)), 60_000)
            at = rng.randrange(len(text) - size)
            (path / f"f{number:03}.py").write_bytes(text[at : at + size])


def edit(files: int) -> Callable[[Path, int], None]:
    """Return what puts a line into the middle of some files that are already there."""

    def change(root: Path, number: int) -> None:
        rng = random.Random(number)
        paths = sorted(root.glob("*/*/*.py"))
        for path in rng.sample(paths, files):
            data = path.read_bytes()
            line = b"# edited %d\n" % rng.getrandbits(40)
            path.write_bytes(data[: len(data) // 2] + line + data[len(data) // 2 :])

    return change


def one_directory(root: Path) -> None:
    """Write a directory of 10,000 files."""
    write_directory(root / "name0", 10_000, seed=6)


def write_directory(root: Path, files: int, *, seed: int) -> None:
    """Write a directory of files of 5,000 bytes."""
    rng, text = random.Random(seed), source_text()
    root.mkdir()
    for number in range(files):
        at = rng.randrange(len(text) - 5000)
        (root / f"f{number:05}.py").write_bytes(text[at : at + 5000])


def add_directories(root: Path, number: int) -> None:
    """Add ten directories of 500 files."""
    for directory in range(10):
        write_directory(root / f"new{number}-{directory}", 500, seed=10 * number + directory)


def copy_directory(root: Path, number: int) -> None:
    """Copy the directory, with other times."""
    shutil.copytree(root / "name0", root / f"copy{number}", copy_function=shutil.copyfile)


def rename_directory(root: Path, number: int) -> None:
    """Give the directory another name."""
    (old,) = root.iterdir()
    old.rename(root / f"name{number + 1}")


def random_file(size: int) -> Callable[[Path], None]:
    """Return what writes one file of random bytes."""

    def start(root: Path) -> None:
        rng = random.Random(7)
        with (root / "file").open("wb") as file:
            for _ in range(size // MIB):
                file.write(rng.randbytes(MIB))

    return start


def change_bytes(root: Path, number: int) -> None:
    """Change 1,000 single bytes at random places."""
    rng = random.Random(number)
    with (root / "file").open("r+b") as file:
        size = file.seek(0, 2)
        for _ in range(1000):
            file.seek(rng.randrange(size))
            file.write(rng.randbytes(1))


def insert(root: Path, number: int) -> None:
    """Insert 1,000 bytes at 100 places."""
    (root / "file").write_bytes(with_insertions((root / "file").read_bytes(), number))


def add_dump(root: Path, number: int) -> None:
    """Add a file that is the last one with 1,000 bytes inserted at 100 places."""
    last = max(root.iterdir()).read_bytes()
    (root / f"file-{number:03}").write_bytes(with_insertions(last, number))


def with_insertions(data: bytes, seed: int) -> bytes:
    """Return ``data`` with 1,000 bytes more at 100 places."""
    rng = random.Random(seed)
    places = [0, *sorted(rng.sample(range(len(data)), 100)), len(data)]
    parts = [data[a:b] for a, b in pairwise(places)]
    return b"".join([part + rng.randbytes(1000) for part in parts])


def move_quarter(root: Path, number: int) -> None:
    """Move the first quarter to the end."""
    data = (root / "file").read_bytes()
    quarter = len(data) // 4
    (root / "file").write_bytes(data[quarter:] + data[:quarter])


def append(root: Path, number: int) -> None:
    """Append 1 %."""
    path = root / "file"
    with path.open("ab") as file:
        file.write(random.Random(number).randbytes(path.stat().st_size // 100))


def documents(root: Path) -> None:
    """Write 200 files of 100 kB of text."""
    rng, text = random.Random(8), source_text()
    for number in range(200):
        at = rng.randrange(len(text) - 100_000)
        (root / f"f{number:03}.txt").write_bytes(text[at : at + 100_000])


def edit_lines(root: Path, number: int) -> None:
    """Edit one line in each file."""
    rng = random.Random(number)
    for path in sorted(root.iterdir()):
        lines = path.read_bytes().split(b"\n")
        lines[rng.randrange(len(lines))] = b"edited %d" % rng.getrandbits(40)
        path.write_bytes(b"\n".join(lines))


def rows(*, is_quick: bool) -> dict[str, Row]:
    """Return all cases by name; the large files are an eighth as large if ``is_quick``."""
    large, huge = (32 * MIB, 128 * MIB) if is_quick else (256 * MIB, 1024 * MIB)
    file = random_file(large)
    return {
        # What no other row can be faster than: two programs start, and agree that all is done.
        "nothing": Row("an empty tree", nothing, unchanged, False, None, None),
        "small-cold": Row("40,000 small files, cold", small_files, unchanged, True, 0.4, 0.7),
        "small-second": Row(
            "the same, the run after", small_files, unchanged, True, None, None, is_second=True
        ),
        "small-same": Row("the same, unchanged", small_files, unchanged, False, 0.02, 1.0),
        # What is done all day.
        "small-few": Row("the same, 3 files edited", small_files, edit(3), False, None, None),
        "small-edited": Row("the same, 1 % edited", small_files, edit(400), False, 0.5, 0.7),
        "renamed": Row(
            "10,000 files' directory renamed", one_directory, rename_directory, False, 0.05, 0.5
        ),
        "large-cold": Row(
            f"{huge // MIB} MiB random, cold", random_file(huge), unchanged, True, 1.0, 0.7
        ),
        "bytes": Row(
            f"{large // MIB} MiB, 1,000 bytes changed", file, change_bytes, False, 0.12, 1.0
        ),
        "bytes-first": Row(
            "the same, for the first time", file, change_bytes, True, None, None, is_second=True
        ),
        "inserted": Row(f"{large // MIB} MiB, 100 insertions", file, insert, False, 0.25, 1.0),
        "moved": Row(
            f"{large // MIB} MiB, a quarter moved", file, move_quarter, False, 0.2, 1.0
        ),
        "appended": Row(f"{large // MIB} MiB, 1 % appended", file, append, False, 0.95, 0.5),
        # What else is at the destination is of use.
        "added": Row(
            "5,000 files added to 10,000", one_directory, add_directories, False, None, None
        ),
        "copied": Row(
            "10,000 files' directory copied", one_directory, copy_directory, False, None, None
        ),
        "dump": Row(
            f"a file of {large // 4 // MIB} MiB beside the last one, 100 insertions (rsync -y)",
            random_file(large // 4),
            add_dump,
            is_cold=False,
            bytes_limit=None,
            time_limit=None,
            peer=("-y",),
        ),
        "lines": Row(
            "200 files, a line edited in each", documents, edit_lines, False, 0.8, 1.0
        ),
    }
