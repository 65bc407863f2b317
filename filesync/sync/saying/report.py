"""What a sync took, for people and for programs."""

import errno
import json
import os
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import asdict

from filesync.sync.saying.stats import SyncStats

_ADVICE: Final = {
    os.strerror(errno.EBUSY): " (unmount it, or leave it out)",
    os.strerror(errno.ENOENT): " (the file system takes no such name)",
}
_WILD: Final = frozenset("*?[")


def summary(stats: SyncStats) -> str:
    """Return a few lines like those of ``rsync --stats``."""
    seconds = max(stats.seconds, 0.001)
    refused = len(stats.refused) + stats.unnamed_refused
    moved = stats.wire_in + stats.wire_out or stats.content_bytes
    return "\n".join(
        (
            f"Number of names: {stats.names:,}",
            f"Number of created names: {stats.created:,}",
            f"Number of deleted names: {stats.deleted:,}",
            *([f"Number of refused names: {refused:,}"] if refused else ()),
            f"Number of files transferred: {stats.files:,}",
            f"Total file size: {stats.size:,} bytes",
            f"Literal data: {stats.content_bytes:,} bytes",
            f"Matched data: {stats.copied_bytes:,} bytes",
            f"Total bytes sent: {stats.wire_out:,}",
            f"Total bytes received: {stats.wire_in:,}",
            f"Time: {stats.seconds:.3f} s, {moved / seconds:,.0f} bytes/s, "
            f"speedup {stats.size / max(moved, 1):.2f}",
        )
    )


def as_json(stats: SyncStats, *, dry_run: bool, changes: Iterable[str] | None) -> str:
    """Return one document with all the figures; ``changes`` only if they were asked for."""
    document = asdict(stats) | {"dry_run": dry_run}
    if changes is not None:
        document["changes"] = list(changes)
    return json.dumps(document)


def notes(stats: SyncStats, *, delete: bool) -> list[str]:
    """Return sentences for what was skipped, not kept, not read or left out, or would not rest."""
    lines = skipped_notes(stats.skipped)
    if not_kept := _counted(stats.not_kept):
        lines.append(f"could not be kept here, as this user or file system cannot: {not_kept}")
    lines += [
        f"{path!r} was left out: a directory stands in its place, and is not to be removed"
        for path in stats.left_out_paths
    ]
    if more := stats.left_out - len(stats.left_out_paths):
        lines.append(f"{more:,} more were left out, as a directory stands in their place")
    lines += [
        f"{path!r} changed each time it was read, and was left out; run again"
        for path in stats.changing
    ]
    if more := stats.unnamed_changing:
        lines.append(f"{more:,} more changed each time they were read, and were left out")
    lines += [
        f"{path!r} cannot be read: {why}{_about_source(path, why)}; it was left out"
        for path, why in stats.unreadable.items()
    ]
    if stats.unnamed:
        lines.append(f"{stats.unnamed:,} more cannot be read; they were left out")
    lines += [
        f"{path!r}, at the destination, cannot be read: {why}; it was left as it is"
        for path, why in stats.stuck.items()
    ]
    if stats.unnamed_stuck:
        lines.append(f"{stats.unnamed_stuck:,} more there cannot be read")
    lines += [
        f"{path!r}, at the destination, cannot be written: {why}; its names were left as they are"
        for path, why in stats.unwritable.items()
    ]
    if stats.unnamed_unwritable:
        lines.append(f"{stats.unnamed_unwritable:,} more there cannot be written")
    lines += [
        f"{path!r}, at the destination, cannot be changed: {why}{_advice(why)}; it was left as it is"
        for path, why in stats.refused.items()
    ]
    if stats.unnamed_refused:
        lines.append(f"{stats.unnamed_refused:,} more there cannot be changed")
    if delete and is_unread(stats):
        lines.append("nothing was deleted, as not all of the source could be read")
    return lines


def skipped_notes(skipped: Mapping[str, int]) -> list[str]:
    """Return the sentence for what was skipped, if anything was."""
    counted = _counted(skipped)
    return [f"skipped, as it cannot be part of a tree: {counted}"] if counted else []


def is_unread(stats: SyncStats) -> bool:
    """Say whether something in the source could not be read."""
    return bool(stats.unreadable or stats.unnamed)


def is_partial(stats: SyncStats) -> bool:
    """Say whether something was left out, or something that matters could not be kept.

    Only the superuser gives files away: for anybody else an owner is no loss, as in rsync.
    """
    return bool(
        stats.left_out
        or stats.stuck
        or stats.unnamed_stuck
        or stats.unwritable
        or stats.refused
        or stats.unnamed_refused
        or stats.not_kept.keys() - {"owner"}
    )


def _about_source(path: str, why: str) -> str:
    """Return what helps who had in mind names that no shell here knows, or links that no server follows."""
    if why == os.strerror(errno.ELOOP):
        return " (a server follows none)"
    if why != os.strerror(errno.ENOENT) or _WILD.isdisjoint(path.rpartition("/")[2]):
        return ""
    return " (SRC is no pattern: name the directory, with a slash, and use --include)"


def _advice(why: str) -> str:
    return _ADVICE.get(why, "")


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count:,} {kind}{'s' * (count != 1)}" for kind, count in sorted(kinds.items())
    )
