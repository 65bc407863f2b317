"""``python -m bench.floor serve ROOT ADDRESS``, or ``give SRC ADDRESS NAME``."""

import sys
from pathlib import Path

from bench.floor.giving import give
from bench.floor.taking import Server


def main(words: list[str]) -> None:
    """Serve, or give."""
    match words:
        case ["serve", root, address]:
            Server(Path(root)).run(address)
        case ["give", source, address, name]:
            give(Path(source), address, name)
        case _:
            raise SystemExit(
                "usage: python -m bench.floor serve ROOT ADDRESS | give SRC ADDRESS NAME"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
