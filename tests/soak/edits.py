"""Copies in which little has changed: ``python -m tests.soak edits [ROUNDS [SEED]]``, as root, on tmpfs.

A few clients build on two workers, again and again, each its own directory after some edits of it.
So most copies are made on an earlier one, which is here or has come from the other worker; meanwhile
results are pruned, and workers and the manager are killed, stopped and suspended. Wrong is:

- a result that is not the directory as it is now, times and all, where it was copied and where it
  came as layers;
- a build that fails, or does not end; a prune that ends with a traceback;
- that not all goes in the end, though one result stands on another.

The seed says what is tried, but not when it comes about.
"""

import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from bench.processes import Cluster
from tests.soak.builds import FILESYNC, build
from tests.soak.left import left
from tests.soak.trees import Listing, Tree, differences, listed
from tests.soak.trouble import Trouble, strike_cluster
from worker.wire.orders import RefInfo

PROJECTS: Final = 4
BASES: Final = 2
"""Projects on one of them find each other's copies, too."""
BUILDS: Final = 3
FILES: Final = 200
MOST_CHANGES: Final = 3
PRUNES: Final = (
    ("--keep-storage", "12MB"),
    ("--max-used-space", "12MB"),
    ("--filter", "until=8s"),
    ("--filter", "until=3s", "--filter", "type=result"),
    ("--filter", "type=blob"),
    ("--filter", "type=idle-source"),
    ("--all",),
)
RELEASED_S: Final = 60.0
"""What a client that was killed held has been let go of in that time."""
OWNER: Final = (7, 8)
_DOCKERFILE: Final = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin; mkdir -p /app/of; echo {base} > /app/of/base"]
FROM base AS make
COPY {option} src /app
FROM make AS take
RUN find /app -type f | sort | xargs cat | sha256sum > /told
FROM scratch
COPY --from=make /app /made
COPY --from=take /app /taken
"""


class EditedProject:
    """One context below ``root``, most of which is a directory that is copied."""

    def __init__(self, root: Path, number: int, rng: random.Random) -> None:
        self.root = root
        self._src = root / "src"
        self._owner = OWNER if number == 0 else None
        self._edits = 0
        self._tree = Tree(
            self._src, rng, files=FILES, most_changes=MOST_CHANGES, may_link=False
        )
        shutil.copy("/bin/busybox", root / "busybox")
        option = "--chown={}:{}".format(*OWNER) if self._owner is not None else ""
        text = _DOCKERFILE.format(base=number % BASES, option=option)
        (root / "Dockerfile").write_text(text)
        self._be_new()

    def change(self) -> None:
        """Edit the directory a little; it never is what it was before."""
        self._tree.change()
        self._be_new()

    def wrong(self, out: Path) -> str:
        """Return what is wrong with the result in ``out``, or nothing."""
        wanted = self._wanted()
        found = [
            f"{name}/{line}"
            for name in ("made", "taken")
            for line in differences(wanted, _copied(out / name))
        ]
        return "\n".join(found[:20])

    def _wanted(self) -> Listing:
        listing = _copied(self._src)
        if self._owner is None:
            return listing
        return {
            name: (mode, *self._owner, *rest) for name, (mode, _, _, *rest) in listing.items()
        }

    def _be_new(self) -> None:
        """As times are no content, one that was before would be found, with its times."""
        self._edits += 1
        path = self._src / "edits"
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_text(f"{self.root.name} {self._edits}")


def _copied(root: Path) -> Listing:
    """Return what there is to say of what is in ``root``, but for what the base has there."""
    return {
        name: said for name, said in listed(root).items() if name not in (".", "of", "of/base")
    }


def made_on_others(state: Path) -> int:
    """Return how many results of a worker stand on another snapshot than that of their parent."""
    with closing(sqlite3.connect(state / "snapshots/snapshots.db")) as db:
        query = (
            "SELECT s.id, p.id FROM snapshots s LEFT JOIN snapshots p ON p.number = s.parent"
        )
        below = dict(db.execute(query).fetchall())
    with closing(sqlite3.connect(state / "refs.db")) as db:
        rows = db.execute("SELECT ref, snapshot, info FROM refs").fetchall()
    parents = {ref: msgspec.msgpack.decode(info, type=RefInfo).parent for ref, _, info in rows}
    snapshots = {ref: snapshot for ref, snapshot, _ in rows}
    return sum(
        below.get(snapshot) != snapshots.get(parents[ref])
        for ref, snapshot in snapshots.items()
    )


def soak(root: Path, rounds: int, seed: int) -> bool:
    """Build for some rounds; say whether all was as it should be."""
    rng = random.Random(seed)
    projects = [
        EditedProject(root / f"p{n}", n, random.Random(seed + n)) for n in range(PROJECTS)
    ]
    with Cluster(root / "cluster", workers=2) as cluster:
        wrong: list[str] = []
        for number in range(rounds):
            began_s = time.monotonic()
            here = _round(cluster, projects, rng)
            for line in here:
                print(f"round {number}: {line}", flush=True)
            wrong += here
            stacked = sum(made_on_others(cluster.root / name) for name in cluster.names)
            seconds = time.monotonic() - began_s
            print(
                f"round {number}: {len(here)} wrong, {stacked} on others, {seconds:.0f} s",
                flush=True,
            )
        wrong += _not_pruned(cluster)
    return not wrong and not left(root)


def _round(cluster: Cluster, projects: list[EditedProject], rng: random.Random) -> list[str]:
    """Have all build while there is trouble; return what was wrong."""
    wrong: list[str] = []
    seeds = [rng.randrange(2**32) for _ in projects]
    trouble = Trouble(
        lambda its_rng: wrong.extend(_strike(cluster, its_rng)), rng.randrange(2**32)
    )
    with trouble, ThreadPoolExecutor(PROJECTS) as clients:
        for lines in clients.map(_edit_and_build, projects, [cluster] * PROJECTS, seeds):
            wrong += lines
    return wrong


def _edit_and_build(project: EditedProject, cluster: Cluster, seed: int) -> list[str]:
    """Build some times, in any of the two ways; return what was wrong."""
    rng = random.Random(seed)
    wrong = []
    for number in range(BUILDS):
        maker, taker = rng.choice((("w1", "w2"), ("w1", "w2"), ("w2", "w1")))
        places = ("--place", f"make=name={maker}", "--place", f"take=name={taker}")
        end = rng.choice((None, None, None, None, signal.SIGINT, signal.SIGKILL))
        out = project.root.with_name(f"{project.root.name}-out")
        if one := build(project, cluster.manager, out, end, *places):
            wrong.append(f"{project.root.name}, build {number}: {one}")
            # What it was is needed to find out why.
            kept = project.root.with_name(f"{project.root.name}-wrong-{seed}-{number}")
            shutil.copytree(project.root, kept, symlinks=True, copy_function=_copy_any)
        shutil.rmtree(out, ignore_errors=True)
        project.change()
    return wrong


def _copy_any(path: str, to: str) -> None:
    if stat.S_ISREG(Path(path).lstat().st_mode):
        shutil.copy2(path, to)


def _strike(cluster: Cluster, rng: random.Random) -> list[str]:
    """Prune, or trouble a process; return what was wrong with the prune."""
    if rng.random() < 0.4:
        strike_cluster(cluster, rng)
        return []
    said = _prune(cluster, *rng.choice(PRUNES))
    return [said] if "Traceback" in said else []


def _prune(cluster: Cluster, *words: str) -> str:
    done = subprocess.run(
        [*FILESYNC, "prune", "--force", "--manager", cluster.manager, *words],
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def _not_pruned(cluster: Cluster) -> list[str]:
    """Prune all; return what stays."""
    cluster.wait_for_workers()
    deadline_s = time.monotonic() + RELEASED_S
    while True:
        _prune(cluster, "--all")
        trees = sorted(map(str, cluster.root.glob("w*/snapshots/trees/[1-9]*")))
        if not trees or time.monotonic() > deadline_s:
            break
        time.sleep(2)
    for tree in trees:
        print(f"not pruned: {tree}")
    return trees
