"""Tables on standard output."""

import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table

_WIDE: Final = 1000


def print_tables(tables: Iterable[Table]) -> None:
    """Print each table as wide as the terminal is, or else as its rows are."""
    # A file has no width: what reads it wants a whole row on a line.
    width = None if sys.stdout.isatty() else _WIDE
    console = Console(file=sys.stdout, width=width)
    for table in tables:
        console.print(table)
