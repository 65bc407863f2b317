"""Where a benchmark runs whose bytes are counted: alone in a network namespace, on tmpfs."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

LO_UP: Final = "ip link set lo up"


def parse_inside(
    parser: argparse.ArgumentParser, words: Sequence[str], *, setup: str = LO_UP
) -> argparse.Namespace:
    """Return the options, in a network namespace that nothing else is in.

    Outside of one this does not return: the module that ``parser.prog`` names is begun again in a
    new one, behind the shell's command ``setup``. Takes root, and adds the option ``--where``.
    """
    parser.add_argument("--where", default="/dev/shm", help="a directory on tmpfs")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if not options.inside:
        again = [sys.executable, "-m", parser.prog.rpartition(" ")[2], "--inside", *words]
        begin = ["sh", "-c", f'{setup} && exec "$0" "$@"', *again]
        os.execvp("unshare", ["unshare", "--net", *begin])
    return options
