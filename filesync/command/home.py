"""Where a user's own files are."""

import os
from pathlib import Path


def own_caches() -> Path | None:
    """Return the directory for what may be lost without harm; None for a user without a home."""
    base = own_directory("XDG_CACHE_HOME", ".cache")
    return None if base is None else base / "filesync"


def own_directory(variable: str, name: str) -> Path | None:
    """Return the directory that ``variable`` of the environment says, or ``name`` in the user's home.

    None for a user without one, as of a container that is given a number alone.
    """
    if said := os.environ.get(variable):
        return Path(said)
    home = os.path.expanduser("~")
    # Without a home it is left as it is, and would be made where the command runs.
    return None if home == "~" else Path(home, name)
