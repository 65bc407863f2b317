"""SOURCE_DATE_EPOCH: the one time that a reproducible result knows of. Pure."""

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from filesync.errors import UsageError

YEAR_10000_S: Final = 253_402_300_800
"""OCI's times have four digits for the year."""


def parse_epoch(text: str, name: str) -> int | None:
    """Return the time that ``text`` gives to ``name``, in seconds since 1970; empty is none.

    Raises:
        UsageError: it is no such time.
    """
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text[:13]) >= YEAR_10000_S:
        raise UsageError(f"{name}={text[:40]}: give whole seconds since 1970")
    return int(text)


def oci_time(epoch_s: int) -> str:
    """Return a time as OCI writes it."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def config_at(config: Mapping[str, Any], epoch_s: int | None) -> dict[str, Any]:
    """Return an image's configuration as of a time: nothing in its history is younger.

    None leaves it as it is.
    """
    value: dict[str, Any] = copy.deepcopy(dict(config))
    if epoch_s is None:
        return value
    value["created"] = oci_time(epoch_s)
    for entry in value.get("history", ()):
        if _seconds(entry.get("created")) > epoch_s:
            entry["created"] = oci_time(epoch_s)
    return value


def _seconds(created: object) -> float:
    """Return a time out of a configuration; one that is missing or unreadable is the latest."""
    try:
        return datetime.fromisoformat(str(created)).timestamp()
    except ValueError:
        return float("inf")
