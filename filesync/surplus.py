"""What a directory has too much of, where those that were used last are to stay."""

import os
from pathlib import Path


def surplus(directory: Path, most: int, *, slack: int = 0, suffix: str = "") -> list[str]:
    """Return the paths of all files but the ``most`` that were changed last.

    Args:
        directory: with nothing but files in it, or of those that count.
        most: how many may stay.
        slack: how many more there may be before any is to go.
        suffix: with which the names of those that count end.

    Raises:
        OSError: it cannot be read, or something in it has just gone.
    """
    with os.scandir(directory) as found:
        counted = [item for item in found if item.name.endswith(suffix)]
    if len(counted) <= most + slack:
        return []
    ages = sorted((item.stat().st_mtime_ns, item.path) for item in counted)
    return [path for _, path in ages[:-most]]
