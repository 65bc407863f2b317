"""The program ``filesync``; ``python -m filesync`` without an installed script."""

import gc
import sys
from typing import Final

YOUNG_OBJECTS: Final = 20_000
"""So many are made before Python looks for garbage among them; by itself, 700."""


def main() -> None:
    """Run the command line and exit."""
    # Modules, nodes and entries stay once they are made: looking through them again and again
    # took 9 ms of every start, and 3 % of what a tree of many files costs.
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        from filesync.process.loading import ended_by_interrupts

        with ended_by_interrupts():
            from filesync.command import cli

        cli.main()
    except KeyboardInterrupt:  # before there was a command to interrupt
        sys.exit(130)


if __name__ == "__main__":
    main()
