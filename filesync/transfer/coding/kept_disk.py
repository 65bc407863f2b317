"""Files that only ever save work, from one run of a command to the next.

They are not synced, and are checked against damage alone: whoever reads one must bear that it says
what is not so.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_digest

from filesync.digest import Digest
from filesync.process.entropy import random_name
from filesync.surplus import surplus

KEY_BITS: Final = 64
"""Of the key of marks, which is kept with them."""
_CHECK_BYTES: Final = 8
MAX_FILES: Final = 64
"""Of one format. Of a content of 2 GiB it is 4 to 6 MB, so all of them have 400 MB at most, and 50 MB of 256 MiB each."""


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


class KeptFiles:
    """Files below a directory, by digest, of one format and of up to ``most_bytes`` each.

    The directory is made when there is one. For several processes at once.
    """

    def __init__(self, root: Path, form: bytes, most_bytes: int) -> None:
        self._root = root
        self._form = form
        self._most_bytes = most_bytes

    def load(self, digest: Digest) -> memoryview | None:
        """Return the body that is kept of a content; None as ``load`` does."""
        return load(self._path(digest), self._form, self._most_bytes)

    def save(self, digest: Digest, body: bytes) -> None:
        """Keep a body, and of the others those that were kept last. One that fails is not kept."""
        save(self._path(digest), self._form, body)
        with suppress(OSError):
            for path in surplus(self._root, MAX_FILES):
                os.unlink(path)

    def forget(self, digest: Digest) -> None:
        """Keep nothing of a content."""
        with suppress(OSError):
            self._path(digest).unlink()

    def _path(self, digest: Digest) -> Path:
        return self._root / digest.hex()
