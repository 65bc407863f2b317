"""What an idle worker still holds, seen from outside of its process."""

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from bench.processes import Cluster

PATIENCE_S = 20.0
_DATABASES = (".db", ".db-wal", ".db-shm", "/lock")


def leftovers(state: Path, pid: int) -> list[str]:
    """Return what the worker ``pid`` has in ``state`` that no idle one should have."""
    return sorted([*_mounts(state, pid), *_files(state, pid), *_rows(state), *_names(state)])


def nothing_is_left(cluster: Cluster) -> dict[str, list[str]]:
    """Return by name what the workers hold, once that is nothing or they have had their time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        found = {
            name: left
            for name in cluster.names
            if (left := leftovers(cluster.root / name, cluster.processes[name].pid))
        }
        if not found or time.monotonic() > deadline_s:
            return found
        time.sleep(0.1)


def _mounts(state: Path, pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return [f"mount {line.split()[4]}" for line in lines if f"{state}/" in line]


def _files(state: Path, pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    always = (str(state / "sources/trees"), str(state))
    return [
        f"file {path}"
        for path in found
        if path.startswith(f"{state}/") and path not in always and not path.endswith(_DATABASES)
    ]


def _rows(state: Path) -> list[str]:
    snapshots = _select(state / "snapshots/snapshots.db", "SELECT id, state FROM snapshots")
    refs = {one for (one,) in _select(state / "refs.db", "SELECT snapshot FROM refs")}
    found = [
        f"snapshot {id} {at}" for id, at in snapshots if at != "committed" or id not in refs
    ]
    sources = _select(state / "sources/sources.db", "SELECT id, state FROM sources")
    return found + [f"source {id} {at}" for id, at in sources if at != "idle"]


def _select(path: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


def _names(state: Path) -> list[str]:
    return [
        str(path.relative_to(state))
        for place in ("work", "exec/scratch", "exec/run", "blobs/ingest")
        if (state / place).is_dir()
        for path in (state / place).iterdir()
    ]
