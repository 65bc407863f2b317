"""Files that only ever save work, from one run of a command to the next.

They are not synced, and are checked against damage alone: whoever reads one must bear that it says
what is not so.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_digest

from filesync.entropy import random_name

_CHECK_BYTES: Final = 8


def save(path: Path, form: bytes, body: bytes) -> None:
    """Write ``body`` to ``path``, in place of what is there; where that fails nothing is kept.

    ``form`` is the name of its format.
    """
    name = path.with_name(f".{random_name()}")
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            name.write_bytes(form + xxh3_64_digest(body) + body)
            name.replace(path)
        except OSError:
            name.unlink(missing_ok=True)
            raise


def load(path: Path, form: bytes, most: int) -> memoryview | None:
    """Return the body in ``path``; None if it is not there, damaged, or longer than ``most``."""
    start = len(form) + _CHECK_BYTES
    try:
        with path.open("rb") as file:
            data = file.read(start + most + 1)
    except OSError:
        return None
    body = memoryview(data)[start:]
    is_whole = data.startswith(form + xxh3_64_digest(body)) and len(body) <= most
    return body if is_whole else None
