"""``python -m tests.soak [builds|edits|syncs [ROUNDS [SEED]]]``: all without a word; on tmpfs.

What it starts is told by ``turns/sitecustomize.py`` to let threads take turns all the time, which shows in
minutes what a race between two of them shows once in a thousand runs.
"""

import os
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
_TURNS: Final = Path(__file__).parent / "turns"


def main(*names: str, rounds: int = 5, seed: int = 1) -> None:
    """Soak on tmpfs; end with 1 if anything was not as it should be."""
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{_TURNS}{os.pathsep}{others}" if others else str(_TURNS)
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
