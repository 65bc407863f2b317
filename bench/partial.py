"""What does it take to read 40 MB of a 1.5 GB stage that another worker has built?

One stage of 20,000 files is made on w1. On w2, one step copies five of them (40 MB, half of it text)
by mode ``paths``, and another step needs the whole stage, by mode ``layers``. Same input, same run,
verified: the five files are compared byte by byte with what was put in.
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path

from bench.processes import BuildRun, Cluster
from bench.results import plot, save, spread
from bench.trees import content, write_tree

NEEDED = 5
DOCKERFILE = """\
FROM scratch AS big
COPY big /data
COPY need /need
FROM scratch AS partial
COPY --from=big /need /need
FROM big AS whole
COPY marker-{number} /marker
"""


def main() -> None:
    """Measure, verify and save."""
    options = options_of(__doc__)
    with tempfile.TemporaryDirectory(prefix="filesync-bench-", dir=options.where) as name:
        root = Path(name)
        context = root / "context"
        write_tree(context / "big", files=options.files, total=options.bytes, seed=1)
        write_needed(context / "need", options.needed_bytes)
        runs = [measure(root, context, number) for number in range(options.repeats)]
    paths_s = [run["paths_s"] for run in runs]
    layers_s = [run["layers_s"] for run in runs]
    ratio = spread(layers_s)["median"] / spread(paths_s)["median"]
    save(
        "partial",
        {
            "question": __doc__.splitlines()[0],
            "files": options.files,
            "bytes": options.bytes,
            "needed_bytes": options.needed_bytes,
            "paths_s": spread(paths_s),
            "layers_s": spread(layers_s),
            "layers_over_paths": round(ratio, 1),
            "runs": runs,
        },
    )
    draw(runs)


def options_of(question: str | None) -> argparse.Namespace:
    """Return the sizes that are asked for of a bench that reads a part of something large."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=1_500_000_000)
    parser.add_argument("--needed-bytes", type=int, default=40_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    return parser.parse_args()


def draw(runs: list[dict[str, float]]) -> None:
    """Plot the times and the bytes of both ways."""
    paths_s = spread([run["paths_s"] for run in runs])["median"]
    layers_s = spread([run["layers_s"] for run in runs])["median"]
    last = runs[-1]
    plot(
        "partial",
        [
            (
                "Seconds until the step has its result",
                [
                    ("paths (5 files)", paths_s, f"{paths_s:.2f} s"),
                    ("layers (whole stage)", layers_s, f"{layers_s:.2f} s"),
                ],
            ),
            (
                "Bytes over the data plane",
                [
                    ("paths", last["paths_bytes"], f"{last['paths_bytes'] / 1e6:.1f} MB"),
                    ("layers", last["layers_bytes"], f"{last['layers_bytes'] / 1e6:.1f} MB"),
                ],
            ),
        ],
    )


def write_needed(root: Path, total: int) -> None:
    """Write five files, the first half of their bytes text."""
    rng = random.Random(2)
    root.mkdir()
    size = total // NEEDED
    for number in range(NEEDED):
        half = size // 2 if number == NEEDED // 2 else (size if number < NEEDED // 2 else 0)
        data = content(rng, half, is_text=True) + content(rng, size - half, is_text=False)
        (root / f"n{number}").write_bytes(data)


def measure(root: Path, context: Path, number: int) -> dict[str, float]:
    """Build the stage on w1, take part of it to w2, then all of it; return the figures."""
    (context / f"marker-{number}").write_text(f"{number}")
    (context / "Dockerfile").write_text(DOCKERFILE.format(number=number))
    state = root / f"cluster-{number}"
    out = root / "out"
    with Cluster(state) as cluster:
        big = ("--place", "big=name=w1")
        cluster.build(context, "--target", "big", *big)
        there = ("--place", "partial=name=w2", "--place", "whole=name=w2")
        output = ("-o", f"type=local,dest={out}")
        partial = cluster.build(context, "--target", "partial", *big, *there, *output)
        compare(out / "need", context / "need")
        whole = cluster.build(context, "--target", "whole", *big, *there)
        figures = {
            **figures_of(partial, "COPY --from=big", "paths"),
            **figures_of(whole, "COPY marker", "layers"),
            **{
                f"peak_{name}_bytes": cluster.peak_bytes(name)
                for name in ("manager", "w1", "w2")
            },
        }
    shutil.rmtree(out)
    shutil.rmtree(state)
    return figures


def figures_of(run: BuildRun, step: str, mode: str) -> dict[str, float]:
    """Return time and bytes of the one step, which must have got its input by ``mode``."""
    found = run.step(step)
    inputs = [use for use in found["inputs"] if use["mode"] == mode]
    if len(inputs) != 1:
        raise RuntimeError(f"{step} did not get an input by {mode}: {found}")
    return {f"{mode}_s": found["seconds"], f"{mode}_bytes": inputs[0]["bytes_moved"]}


def compare(ours: Path, theirs: Path) -> None:
    """Fail unless the two directories hold the same files."""
    names = sorted(path.name for path in theirs.iterdir())
    if sorted(path.name for path in ours.iterdir()) != names:
        raise RuntimeError("the result has other files than the stage")
    for name in names:
        if (ours / name).read_bytes() != (theirs / name).read_bytes():
            raise RuntimeError(f"{name} is not what was put in")


if __name__ == "__main__":
    main()
