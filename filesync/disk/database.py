"""SQLite files of a state directory: opened in one way, and of one version."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filesync.decoding import UNDECODABLE
from filesync.errors import StoreError


def open_database(path: Path, *, schema: str, version: int) -> sqlite3.Connection:
    """Open the database ``path``, made with ``schema`` if missing; autocommit, from any thread.

    Raises:
        StoreError: another version wrote it.
        sqlite3.Error: it cannot be used; see ``using``.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found not in (0, version):
            raise StoreError(
                f"{path} was written by another version (schema {found}, this one is "
                f"{version}): give another --state directory, or remove that one"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        if found == 0:
            db.executescript(f"BEGIN; {schema} PRAGMA user_version = {version}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def remove_database(path: Path) -> None:
    """Remove the database ``path``, which nobody has open, with what SQLite has beside it, as far as it is there.

    Raises:
        OSError: it cannot be removed.
    """
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@contextmanager
def using(path: Path, *, remedy: str) -> Iterator[None]:
    """Turn what SQLite says of the database ``path`` into a ``StoreError`` that ends with ``remedy``.

    And what is said of a row whose bytes are damaged.
    """
    try:
        yield
    except (sqlite3.Error, *UNDECODABLE) as exc:
        raise StoreError(
            f"{path} cannot be used: {exc}; free space if the disk is full, else {remedy}"
        ) from exc
