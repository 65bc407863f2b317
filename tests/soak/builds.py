"""Builds on a cluster that is in trouble: ``python -m tests.soak builds [ROUNDS [SEED]]``, as root, on tmpfs.

In each round many clients build at once, each its own project, on six workers that hold no more than
a few results; workers and the manager are killed, stopped and suspended meanwhile, and some of the
clients. Whoever is not killed must have the right result. Ends with 1 if anybody has not, or if
anything is left in the end. The seed says what is tried, but not when it comes about.
"""

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from bench.processes import Cluster
from tests.soak.left import left
from tests.soak.projects import Project
from tests.soak.trouble import Trouble, strike_cluster

WORKERS: Final = 6
PROJECTS: Final = 20
KEPT: Final = "25MB"
PATIENCE_S: Final = 180.0
FILESYNC: Final = (sys.executable, "-m", "filesync")


class Buildable(Protocol):
    """A context that knows its result.

    Attributes:
        root: the context.
    """

    root: Path

    def wrong(self, out: Path) -> str:
        """Return what is wrong with the result in ``out``, or nothing."""


def build(
    project: Buildable, manager: str, out: Path, end: signal.Signals | None, *more: str
) -> str:
    """Build, and end the client soon if it is told how; return what is wrong with the result.

    ``more`` are options of the build.
    """
    words = ("build", "--manager", manager, "-o", f"type=local,dest={out}", *more)
    client = subprocess.Popen(
        [*FILESYNC, *words, str(project.root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with client:
        if end is not None:
            time.sleep(random.uniform(1, 4))  # Python's own start says much about an interrupt
            client.send_signal(end)
        try:
            _, said = client.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            client.kill()
            return f"not done after {PATIENCE_S} s"
    if "Traceback" in said:
        return said
    if end is not None:
        return ""
    if client.returncode:
        return said[-1000:]
    return project.wrong(out)


def soak(root: Path, rounds: int, seed: int) -> bool:
    """Build for some rounds; say whether all was as it should be."""
    rng = random.Random(seed)
    projects = [Project(root / f"p{n}", n, rng) for n in range(PROJECTS)]
    gc = {f"w{n + 1}": ("--gc-keep-storage", KEPT) for n in range(WORKERS)}
    is_good = True
    with Cluster(root / "cluster", workers=WORKERS, arguments=gc) as cluster:
        for number in range(rounds):
            ends = [rng.choice((None, None, signal.SIGINT, signal.SIGKILL)) for _ in projects]
            outs = [root / f"out-{number}-{n}" for n in range(PROJECTS)]
            began_s = time.monotonic()
            trouble = Trouble(partial(strike_cluster, cluster), seed + number)
            with trouble, ThreadPoolExecutor(PROJECTS) as clients:
                managers = [cluster.manager] * PROJECTS
                wrong = list(clients.map(build, projects, managers, outs, ends))
            for n, one in enumerate(wrong):
                if one:
                    print(f"round {number}, project {n}: {one}", flush=True)
                    is_good = False
            seconds = time.monotonic() - began_s
            whole = [one for one, end in zip(wrong, ends, strict=True) if end is None]
            print(f"round {number}: {whole.count('')} of {len(whole)} right, {seconds:.0f} s")
            for project in projects:
                project.change()
    return is_good and not left(root)
