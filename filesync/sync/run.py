"""One run of ``filesync sync``: from words to figures."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from time import monotonic

from filesync.errors import ContentCorrupt, RoomMade, SourceChanged, UsageError
from filesync.process.ending import cleaned_up_when_ended
from filesync.sync.changing import Attempts
from filesync.sync.options import Options
from filesync.sync.places import is_remote
from filesync.sync.saying.shown import ShownProgress
from filesync.sync.saying.stats import SyncStats

log = logging.getLogger(__name__)


class Listing:
    """Where the lines of what changes go: to standard output as they come, or kept.

    Attributes:
        lines: what was kept, each line once, however often the sync was begun again; None if
            nothing is.
        progress: what shows progress on the same terminal.
    """

    def __init__(self, *, keep: bool, only_names: bool = False) -> None:
        """Keep the lines, or print them; of each ``only_names`` leaves the name."""
        self.lines: dict[str, None] | None = {} if keep else None
        self._only_names = only_names
        self.progress: ShownProgress | None = None

    def take(self, changes: Iterator[str]) -> None:
        """Take all of ``changes``."""
        if self._only_names:
            from filesync.sync.saying.itemize import name_in

            changes = map(name_in, changes)
        if self.lines is not None:
            self.lines.update(dict.fromkeys(changes))
            return
        with self.progress.hidden() if self.progress is not None else nullcontext():
            sys.stdout.writelines(f"{line}\n" for line in changes)
            sys.stdout.flush()


def run(
    sources: Sequence[str],
    dest: str,
    options: Options,
    listing: Listing,
    *,
    progress: bool | None,
) -> SyncStats:
    """Sync ``sources`` to ``dest``, each a local path or what ``client.parse`` takes.

    What changes meanwhile is read again; what never rests is left as it was (see ``changing``).

    Raises:
        SourceChanged: too much changes.
        UsageError: they cannot be synced in one run.
        FilesyncError: see ``sync_local``, ``sync_from`` and ``sync_to``.
    """
    with ShownProgress(progress) as shown:
        listing.progress = shown
        remote = [is_remote(text) for text in sources]
        if any(remote) and (not all(remote) or is_remote(dest)):
            raise UsageError(
                "either all sources or the destination may be on another machine; "
                "the other side must be on this one"
            )
        if options.listed is not None and not options.listed:
            return SyncStats()
        attempts = Attempts(options)
        attempt = _remote if any(remote) or is_remote(dest) else _local
        done = SyncStats()
        while True:
            began_s = monotonic()
            try:
                stats = attempt(sources, dest, attempts.options, shown)
            except (SourceChanged, ContentCorrupt, RoomMade) as exc:
                attempts.note(exc)
                done.seconds += monotonic() - began_s
                log.info("begun again: reason=%s", exc)
                continue
            done = done.with_rest(stats) if attempts.is_narrow else stats.with_work(done)
            if done.is_behind and attempts.go_on(done.behind):
                log.info("begun again: changed=%d", len(done.changing))
                continue
            done.note_changing(attempts.left_out)
            return done


def _local(
    sources: Sequence[str], dest: str, options: Options, shown: ShownProgress
) -> SyncStats:
    from filesync.sync.local import sync_local
    from filesync.sync.places import local_path

    # Not in a thread: an interrupt is to end it at once.
    progress = shown.note if shown.is_shown else None
    paths = [local_path(text) for text in sources]
    target = local_path(dest)
    if options.listed is not None:
        paths, target = options.listed.of(paths[0], target)
    with cleaned_up_when_ended():
        return sync_local(paths, target, options, progress=progress)


def _remote(
    sources: Sequence[str], dest: str, options: Options, shown: ShownProgress
) -> SyncStats:
    # A local sync needs neither sockets nor an event loop: 40 ms less.
    from filesync.process.lifetime import run_command
    from filesync.sync.remote.client import Remote, parse, sync_from, sync_to

    progress = shown.note if shown.is_shown else None
    target = parse(dest)
    if isinstance(target, Remote):
        here = [one for one in map(parse, sources) if isinstance(one, bytes)]
        if options.listed is not None:
            here, path = options.listed.of(here[0], target.path)
            target = target._replace(path=path)
        return run_command(sync_to(here, target, options, progress=progress))
    there = [one for one in map(parse, sources) if isinstance(one, Remote)]
    if options.listed is not None:
        _, target = options.listed.of(there[0].path, target)
    return run_command(sync_from(there, target, options, progress=progress))
