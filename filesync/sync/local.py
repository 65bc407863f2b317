"""Syncs from and to directories of this machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic

from filesync.disk.update import LocalTree, UpdateStats
from filesync.errors import PathMissing, SourceChanged
from filesync.manifest import Manifest, MemoryNodes, empty_manifest
from filesync.sync.applying import Update, note_plan, note_source
from filesync.sync.filter import Filter
from filesync.sync.options import Options, SyncStats
from filesync.sync.places import (
    LocalPlaces,
    Source,
    Target,
    close_all,
    find_sources,
    find_target,
    not_excluded,
)
from filesync.sync.plan import Part, Removal, is_united, make_plan, removal_of
from filesync.sync.scanning import Found, scan_place


def sync_local(paths: Sequence[bytes], dest: bytes, options: Options) -> SyncStats:
    """Make ``dest`` hold what ``paths`` have, all on this machine. Blocks.

    A path that ends in '/' is what is in the directory; without it, the directory itself, which
    comes to stand in ``dest`` under its name. Where two paths have the same name in them, the
    first one's stands.

    Raises:
        PathMissing: a source, or the directory above the destination, is not there.
        SourceChanged: a source changed meanwhile; run again.
        StoreError: this disk.
    """
    started = monotonic()
    with ExitStack() as stack:
        sources = not_excluded(find_sources(LocalPlaces(), paths), options.rules)
        stack.callback(close_all, sources)
        sync = _Sync(sources, dest, options, is_directory=len(paths) > 1)
        for at in reversed(range(len(sources))):
            sync.part(at)
    sync.stats.seconds = monotonic() - started
    return sync.stats


def open_target(
    dest: bytes,
    options: Options,
    *,
    part: Part,
    is_directory: bool,
) -> Target | None:
    """Return where a part goes, or None for a dry run to what is not there.

    See ``find_target`` for the arguments.

    Raises:
        PathMissing: the directory above the destination is not there.
        StoreError: it cannot be made.
    """
    try:
        return find_target(
            LocalPlaces(),
            dest,
            part=part,
            is_directory=is_directory,
            make=not options.dry_run,
        )
    except PathMissing:
        if not options.dry_run:
            raise
        return None


class _Sync:
    def __init__(
        self, sources: Sequence[Source], dest: bytes, options: Options, *, is_directory: bool
    ) -> None:
        self.stats = SyncStats()
        self._sources = sources
        self._dest = dest
        self._options = options
        self._caches = None if options.checksum else options.caches
        self._is_directory = is_directory
        self._nodes = MemoryNodes()
        self._parts = [source.part for source in sources]
        self._found: dict[int, Found] = {}

    def _scan(self, at: int) -> Found:
        if at not in self._found:
            filter = Filter(self._options.rules, root=self._parts[at].prefix)
            place = self._sources[at].place
            self._found[at] = scan_place(place, self._nodes, filter=filter, caches=self._caches)
        return self._found[at]

    def _removal(self, at: int) -> Removal | None:
        if not self._options.delete:
            return None
        tops: list[Manifest | None] = [None] * len(self._parts)
        if is_united(self._parts):
            tops = [self._scan(number).manifest for number in range(len(tops))]
        return removal_of(self._parts, at, tops, self._options.rules)

    def part(self, at: int) -> None:
        """Sync one source."""
        part, options = self._parts[at], self._options
        top, skipped = self._scan(at)
        note_source(self.stats, top, skipped)
        target = open_target(
            self._dest,
            options,
            part=part,
            is_directory=self._is_directory,
        )
        with ExitStack() as stack:
            basis = empty_manifest(self._nodes)
            if target is not None:
                stack.callback(target.place.close)
                basis = self._scan_target(target, part)
            plan = make_plan(
                basis,
                top,
                self._nodes,
                names=part.names if target is None else target.place.names,
                rename=None if target is None else target.rename,
                removal=self._removal(at),
            )
            if plan.is_done:
                return
            note_plan(
                self.stats,
                plan,
                options,
                prefix=part.prefix,
                is_new=target is None or target.is_new,
            )
            if target is not None and not options.dry_run:
                local = LocalTree(top, self._sources[at].place.root)
                self._note(_copy(Update(target.place.root, plan, local)))

    def _scan_target(self, target: Target, part: Part) -> Manifest:
        # What is to be left alone is not looked at, unless a directory may go in which it is.
        filter = Filter(() if self._options.delete else self._options.rules, root=part.prefix)
        return scan_place(
            target.place, self._nodes, filter=filter, caches=self._caches
        ).manifest

    def _note(self, done: UpdateStats) -> None:
        self.stats.files += done.files_copied
        self.stats.content_bytes += done.bytes_copied
        self.stats.not_kept.update(done.not_kept)


def _copy(update: Update) -> UpdateStats:
    try:
        update.prepare()
        if next(update.wanted(), None) is not None:
            raise SourceChanged("the source changed while it was copied; run again")
        return update.finish()
    except BaseException:
        update.abort()
        raise
