"""How long does it take until many workers have one base, one large file, or one context?

``python -m bench.spread --help``, as root. *base*: a worker has built one, of files of a megabyte, and in
one build as many steps as there are other workers stand on it. *file*: as many steps copy
one large file out of a stage of that worker's. *context*: in one build as many steps copy all of a
context, which is sent to the first of them. Each step is placed on another worker, all at
once; each worker is a machine of its own in a network whose links have a rate. What it takes one
worker is measured with, and what a plain download of so many bytes takes that all begin at once, from
one web server: so a registry would give them. Every result is compared.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.inside import parse_inside
from bench.network import HERE, network, sent_bytes
from bench.processes import Cluster, Machine
from bench.results import save

PORT: Final = 8000
MB: Final = 1_000_000
BASE: Final = "FROM scratch AS base\nCOPY --from={source} / /all/\n"
STAGES: Final = {
    "base": "FROM base AS on-{name}\nCOPY --from=small marker /{name}\n",
    "file": "FROM scratch AS on-{name}\nCOPY --from=small marker /{name}\nCOPY --from=base /all/large /all/\n",
    "context": "FROM scratch AS on-{name}\nCOPY --from=small marker /{name}\nCOPY --from=large / /all/\n",
}
DOWNLOAD: Final = """\
import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1]) as data, open("/dev/null", "wb") as nowhere:
    shutil.copyfileobj(data, nowhere)
"""


def main(words: Sequence[str]) -> None:
    """Measure, verify and save."""
    parser = argparse.ArgumentParser(prog="python -m bench.spread", description=__doc__)
    parser.add_argument("--what", action="append", choices=STAGES, help="both without it")
    parser.add_argument("--takers", type=int, default=8)
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--mbit", type=float, default=200)
    options = parse_inside(parser, words)
    found: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-spread-", dir=options.where) as name,
        network(1 + options.takers, options.mbit) as machines,
    ):
        context = Path(name) / "context"
        prepare(context, options.mb)
        for what in options.what or STAGES:
            row = found[what] = {}
            for takers in (1, options.takers):
                root = Path(name) / f"{what}-{takers}"
                row[str(takers)] = built(what, root, context, machines[: 1 + takers])
            one, all_of_them = row["1"], row[str(options.takers)]
            row["times_one"] = round(all_of_them["build_s"] / one["build_s"], 2)
        downloads_s = downloaded(context / "download", machines)
    sizes = {"mb": options.mb, "mbit": options.mbit, "takers": options.takers}
    save("spread", {**sizes, "downloads_s": downloads_s, **found})


def prepare(context: Path, megabytes: int) -> None:
    """Write what is built of, and what is downloaded."""
    for part in ("large", "small", "empty", "download"):
        (context / part).mkdir(parents=True)
    (context / "small" / "marker").write_text("here")
    with (context / "download" / "large").open("wb") as download:
        for number in range(megabytes):
            data = os.urandom(MB)
            (context / "large" / str(number)).write_bytes(data)
            download.write(data)


def built(
    what: str, root: Path, context: Path, machines: Sequence[Machine]
) -> dict[str, float]:
    """Return what it takes until all but the first machine have it, and what any of them sends."""
    names = [f"w{number}" for number in range(1, len(machines) + 1)]
    takers = names[1:]
    stages = [STAGES[what].format(name=name) for name in takers]
    ends = [f"COPY --from=on-{name} /{name} /\n" for name in takers]
    source = "download" if what == "file" else "large"
    text = BASE.format(source=source) + "".join(stages) + "FROM scratch\n" + "".join(ends)
    (context / "Dockerfile").write_text(text)
    words = [f"--place=on-{name}=name={name}" for name in takers]
    words += ["--place=base=name=w1", "--file", str(context / "Dockerfile")]
    words += [f"--build-context={part}={context / part}" for part in (source, "small")]
    where = dict(zip(names, machines, strict=True))
    with Cluster(root, workers=len(machines), host=HERE, machines=where) as cluster:
        cluster.wait_for_workers()
        if what != "context":
            cluster.build(context / "empty", *words, "--target", "base")
        before, began_s = sent_bytes(len(machines)), time.monotonic()
        cluster.build(context / "empty", *words)
        seconds = time.monotonic() - began_s
        sent = [now - then for now, then in zip(sent_bytes(len(machines)), before, strict=True)]
        for name in takers:
            out = root / f"out-{name}"
            taken = ["--target", f"on-{name}", "-o", f"type=local,dest={out}"]
            cluster.build(context / "empty", *words, *taken)
            subprocess.run(["diff", "-r", out / "all", context / source], check=True)
            shutil.rmtree(out)
    return {"build_s": round(seconds, 2), "most_sent_by_one": max(sent)}


def downloaded(directory: Path, machines: Sequence[Machine]) -> float:
    """Return how long it takes all but the first machine to download the file from that one."""
    first, *takers = machines
    serve = [
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "--directory",
        str(directory),
        str(PORT),
    ]
    get = [sys.executable, "-c", DOWNLOAD, f"http://{first.host}:{PORT}/large"]
    with subprocess.Popen(
        [*first.through, *serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()  # it listens
            began_s = time.monotonic()
            getting = [subprocess.Popen([*one.through, *get]) for one in takers]
            if sum(one.wait() for one in getting):
                raise SystemExit("a download failed")
            return round(time.monotonic() - began_s, 2)
        finally:
            server.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
