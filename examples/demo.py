"""What `make demo` runs: examples/hello over two workers of this machine, and what it took."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

EXAMPLES: Final = Path(__file__).resolve().parent
PLACES: Final = {"build": "w1", "assets": "w2", "final": "w2"}


class Input(msgspec.Struct, frozen=True):
    """How one input of a step reached its worker."""

    mode: str
    from_workers: list[str] = msgspec.field(name="from", default_factory=list)
    bytes_moved: int = 0
    files_moved: int = 0
    bytes_if_layers: int = 0


class Step(msgspec.Struct, frozen=True):
    """One step of the build."""

    name: str
    stage: str = ""
    worker: str = ""
    cached: bool = False
    seconds: float = 0.0
    inputs: list[Input] = []


class Report(msgspec.Struct, frozen=True):
    """The metadata file's key `filesync`, as far as the table needs it."""

    steps: list[Step]


class Metadata(msgspec.Struct, frozen=True):
    """The metadata file."""

    filesync: Report


def build_command(cache: Path) -> list[str]:
    """Return the command line of the build, which anyone can type."""
    filesync = shutil.which(
        "filesync", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if filesync is None:
        raise SystemExit("demo: there is no command filesync here: run `make setup`")
    command = [filesync, "build", "--workers", "2", "-t", "hello:demo"]
    command += ["--build-context", f"base=oci-layout://{cache / 'base'}"]
    for stage, worker in PLACES.items():
        command += ["--place", f"{stage}=name={worker}"]
    command += ["-o", f"type=oci,dest={cache / 'hello.oci.tar'}"]
    command += ["-o", f"type=local,dest={cache / 'hello'}"]
    command += ["--metadata-file", str(cache / "metadata.json")]
    return [*command, str(EXAMPLES / "hello")]


def size(count_bytes: int) -> str:
    """Return a number of bytes for people: three digits and a unit."""
    amount = float(count_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.{0 if unit == 'B' or amount >= 100 else 1}f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"


def rows(step: Step) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows of a step: the step, then one for each input that had to come."""
    ran = "cached" if step.cached else f"{step.seconds:.1f} s"
    here = sum(item.mode == "local" for item in step.inputs)
    yield (escape(step.name), step.worker, ran, f"local ({here})" if here else "", "", "", "")
    for item in step.inputs:
        if item.mode != "local":
            origin = f"{item.mode} from {' '.join(item.from_workers)}"
            moved = (size(item.bytes_moved), str(item.files_moved), size(item.bytes_if_layers))
            yield ("", "", "", origin, *moved)


def table_of(steps: list[Step]) -> Table:
    """Return what ran where, and how each input reached it."""
    table = Table(
        title="What ran where, and what moved",
        expand=True,
        box=SIMPLE,
        pad_edge=False,
        padding=0,
    )
    table.add_column("step", no_wrap=True, overflow="ellipsis", ratio=1)
    for heading, width in (("on", 3), ("ran", 7), ("inputs", 18)):
        table.add_column(heading, no_wrap=True, min_width=width)
    for heading, width in (("moved", 9), ("files", 6), ("as layers", 10)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for step in steps:
        for row in rows(step):
            table.add_row(*row)
    inputs = [item for step in steps for item in step.inputs]
    table.add_section()
    table.add_row(
        f"{sum(not step.cached for step in steps)} of {len(steps)} steps ran",
        *[""] * 3,
        size(sum(item.bytes_moved for item in inputs)),
        str(sum(item.files_moved for item in inputs)),
        size(sum(item.bytes_if_layers for item in inputs)),
    )
    return table


def main() -> int:
    """Make the base once, build, show the table; return the build's exit status."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "filesync" / "demo"
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "base" / "index.json").exists():
        tool = [
            sys.executable,
            str(EXAMPLES / "minimal_base.py"),
            "--output",
            str(cache / "base"),
        ]
        if status := subprocess.run(tool, check=False).returncode:
            return status
    if status := subprocess.run(build_command(cache), check=False).returncode:
        return status
    metadata = msgspec.json.decode((cache / "metadata.json").read_bytes(), type=Metadata)
    console = Console(highlight=False)
    console.print(table_of(metadata.filesync.steps))
    for line in (
        f"The image is in {cache / 'hello.oci.tar'}, its files in {cache / 'hello'}.",
        "Run it again: all is cached. Change examples/hello/site/about.txt and run it again:",
        "only what that change reaches runs and moves.",
    ):
        console.print(line, soft_wrap=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
