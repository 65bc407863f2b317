"""``python -m tests.soak [builds|edits|syncs [ROUNDS [SEED]]]``: all without a word; on tmpfs."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.soak import builds, edits, syncs

SOAKS: Final[dict[str, Callable[[Path, int, int], bool]]] = {
    "builds": builds.soak,
    "edits": edits.soak,
    "syncs": syncs.soak,
}


def main(*names: str, rounds: int = 5, seed: int = 1) -> None:
    """Soak on tmpfs; end with 1 if anything was not as it should be."""
    is_good = True
    for name in names or SOAKS:
        with tempfile.TemporaryDirectory(prefix="soak-", dir="/dev/shm") as directory:
            is_good &= SOAKS[name](Path(directory), rounds, seed)
    if not is_good:
        raise SystemExit(1)


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if not word.isdecimal()]
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    main(*names, **dict(zip(("rounds", "seed"), numbers, strict=False)))
