"""Syncs from and to directories of this machine."""

from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import cached_property, partial
from time import monotonic, sleep
from typing import NamedTuple

from filesync.disk.scanning.watcher import Watcher
from filesync.disk.updating.update import LocalTree, UpdateStats
from filesync.errors import FilesyncError
from filesync.manifest import Manifest, MemoryNodes, Nodes
from filesync.sync.applying import (
    Arrival,
    Update,
    making_room,
    plan_part,
    scan_target,
)
from filesync.sync.aside.scan import AsideScan
from filesync.sync.aside.watched import WatchedScan
from filesync.sync.changing import changes_of
from filesync.sync.filter import Filter
from filesync.sync.options import OnProgress, Options
from filesync.sync.owner import as_known_here, this_writer
from filesync.sync.part import Removal, in_one_place
from filesync.sync.places import LocalPlaces, Place, leads_into
from filesync.sync.planned import Planned
from filesync.sync.saying.stats import SyncStats
from filesync.sync.scanning import Found, is_little, scan_place
from filesync.sync.shadow import removal_of, shadowing, stands_alone, unshadowed
from filesync.sync.source import Sources, close_all, find_sources
from filesync.sync.sparing import sparing_of
from filesync.sync.target import NotMade, Target, find_target, is_left_alone
from filesync.transfer.flow import Pace
from filesync.transfer.stats import Progress


def sync_local(
    paths: Sequence[bytes],
    dest: bytes,
    options: Options,
    *,
    progress: OnProgress | None = None,
) -> SyncStats:
    """Make ``dest`` hold what ``paths`` have, all on this machine. Blocks.

    A path that ends in '/' is what is in the directory; without it, the directory itself, which
    comes to stand in ``dest`` under its name. Where two paths have the same name in them, a
    directory stands, else the first one's. A path that leads nowhere is noted as unreadable.

    Raises:
        PathMissing: the directory above the destination is not there.
        SourceChanged: a source changed meanwhile; names it as seen from the transfer's root.
        StoreError: this disk.
    """
    started = monotonic()
    with ExitStack() as stack:
        sources = find_sources(LocalPlaces(), paths, options.filter())
        stack.callback(close_all, sources.found)
        sync = _Sync(sources, dest, as_known_here(options), progress=progress)
        for at in reversed(range(len(sources.found))):
            with changes_of(sources.found[at].part):
                sync.part(at)
    sync.stats.seconds = monotonic() - started
    return sync.stats


class _Ahead(NamedTuple):
    """A target that is scanned while its source is."""

    target: Target
    scan: AsideScan


class _Sync:
    def __init__(
        self,
        sources: Sources,
        dest: bytes,
        options: Options,
        *,
        progress: OnProgress | None,
    ) -> None:
        self.stats = SyncStats()
        self.stats.note_unreadable(sources.missing)
        self._progress = progress
        self._pace = Pace(options.flow.bytes_per_s)
        self._moved = Progress(0, 0, 0)
        self._sources = sources.found
        self._missing = sources.missing
        self._dest = dest
        self._options = options
        self._nodes = MemoryNodes()
        self._parts = in_one_place(source.part for source in sources.found)
        self.stats.note_unreadable(options.unmet(self._parts, sources.missing))
        self._is_directory = sources.are_several
        self._found: dict[int, Found] = {}
        self._planned = Planned(self._nodes)

    def _scan(self, at: int) -> Found:
        if at not in self._found:
            self._found[at] = self._scanned(at, self._nodes).written_by(
                this_writer(), self._nodes
            )
        return self._found[at]

    def _scanned(self, at: int, nodes: Nodes, watcher: Watcher | None = None) -> Found:
        return scan_place(
            self._sources[at].place,
            nodes,
            filter=self._filter(at),
            caches=self._options.used_caches,
            watcher=watcher,
            mounts=self._options.mounts,
            skip_unreadable=True,
        )

    def _filter(self, at: int) -> Filter:
        return self._options.filter(self._parts[at].prefix)

    def _removal(self, at: int, given: Manifest, there: Found) -> Removal | None:
        # What could not be read is not gone, nor is what is below it.
        if not self._options.delete or self._missing:
            return None
        if not self._are_all_read:
            return None
        tops = self._shadowing(at)
        trees = {at: given} | tops
        met = {number: self._scan(number).mounts for number in trees}
        rules = sparing_of(
            self._options.kept, self._parts, at, trees, met=met, there=there.mounts
        )
        return removal_of(self._parts, at, given, tops, rules, self._nodes)

    @cached_property
    def _are_all_read(self) -> bool:
        return not any(self._scan(at).unreadable for at in range(len(self._parts)))

    def _shadowing(self, at: int) -> dict[int, Manifest]:
        return {number: self._scan(number).manifest for number in shadowing(self._parts, at)}

    def part(self, at: int) -> None:
        """Sync one source."""
        part, options = self._parts[at], self._options
        ahead = self._scan_ahead(at)
        if ahead is not None:
            with closing(ahead.target.place):
                with closing(ahead.scan):
                    self._scan(at)
                    there = ahead.scan.found(self._nodes)
                self._copy(at, ahead.target, there)
            return
        if not self._may_grow(at):
            self._scan(at)  # before anything is made that might be in it
        try:
            if is_left_alone(LocalPlaces(), self._dest, part, options.choice):
                self._note_source(at, self._scan(at))
                return
            target = self._find_target(at, dry_run=options.dry_run)
        except NotMade as exc:
            self._note_source(at, self._scan(at))
            self.stats.note_refused({part.inside: exc.errno})
            return
        with nullcontext() if target is None else closing(target.place):
            if target is None or not self._copy_growing(at, target.place):
                self._copy(at, target)

    def _find_target(self, at: int, *, dry_run: bool) -> Target | None:
        return find_target(
            LocalPlaces(),
            self._dest,
            part=self._parts[at],
            is_directory=self._is_directory,
            is_bare=self._sources[at].place.is_bare(self._filter(at)),
            dry_run=dry_run,
        )

    def _scan_ahead(self, at: int) -> "_Ahead | None":
        """Begin to scan where a source goes, if that is there, and is worth a process of its own."""
        options = self._options
        if at in self._found or (target := self._target_there(at)) is None:
            return None
        with ExitStack() as undo:
            undo.callback(target.place.close)
            if is_little(target.place, options.used_caches) or target.place.is_empty:
                return None
            if not options.dry_run:
                target.place.claim()
            try:
                scan = AsideScan(partial(scan_target, target, self._parts[at], options=options))
            except OSError:  # there may be no more processes
                return None
            undo.pop_all()
            return _Ahead(target, scan)

    def _target_there(self, at: int) -> Target | None:
        try:
            return self._find_target(at, dry_run=True)
        except FilesyncError:  # it is said when it is its turn
            return None

    def _may_grow(self, at: int) -> bool:
        """Say whether a source may be copied while it is scanned, if there is nothing yet.

        Nobody has to know of it before, nor is the destination in it.
        """
        options = self._options
        return (
            stands_alone(self._parts, at, delete=options.delete)
            and not self._sources[at].place.united
            and not options.dry_run
            and options.takes_all
            and not options.flow.bytes_per_s  # file by file
            and not leads_into(self._dest, self._sources[at].place.identity)
        )

    def _copy(self, at: int, target: Target | None, there: Found | None = None) -> None:
        """Copy what a target lacks of a source, and remove what is to be removed.

        ``there`` is what it has; None where nobody has looked yet.
        """
        part, options = self._parts[at], self._options
        found = self._scan(at)
        self._note_source(at, found)
        top = found.manifest
        given = unshadowed(self._parts, at, {at: top} | self._shadowing(at), self._nodes)
        there = there or scan_target(target, part, self._nodes, options)
        plan = plan_part(
            target,
            part,
            there,
            given,
            self._nodes,
            removal=self._removal(at, given, there),
            options=options,
            planned=self._planned,
            stats=self.stats,
        )
        if plan.is_done or target is None or options.dry_run:
            return
        local = LocalTree(found.files or top, self._sources[at].place.root)
        update = Update(
            target.place,
            plan,
            local,
            part=part,
            rename=target.rename,
            caches=options.used_caches,
            on_copied=lambda size: self._move(int(not size), size),
        )
        with making_room(update):
            done = _made(update)
        self._note(at, update, done)
        self.stats.note_changing(update.passed_over, prefix=part.prefix)

    def _copy_growing(self, at: int, place: Place) -> bool:
        """Copy a source into what is empty, while it is scanned.

        False if it is not, or was scanned before; or if no process can scan it, or one has failed:
        what was copied until then stays, and a scan here says why.
        """
        if at in self._found or not place.is_free:
            return False
        from filesync.sync.copying import Copying

        try:
            scan = WatchedScan(partial(self._scanned, at))
        except OSError:  # there may be no more processes
            return False
        update = Arrival(
            place,
            self._nodes,
            part=self._parts[at],
            caches=self._options.used_caches,
            goes_on=True,
        )
        copying = Copying(self._sources[at].place.root, self._nodes, update, self._move)
        with closing(scan), closing(copying):
            try:
                update.prepare()
                found = scan.found(self._nodes, copying)
                done = None if found is None else copying.finish(found.manifest.tree)
            finally:
                update.abort()  # of what is finished nothing is left to do
        self.stats.files += copying.files
        self.stats.content_bytes += copying.content_bytes
        if found is None or done is None:
            return False
        self._found[at] = found
        self._note_source(at, found)
        self._note(at, update, done)
        return True

    def _note_source(self, at: int, found: Found) -> None:
        part = self._parts[at]
        self.stats.note_source(found.manifest, found.skipped)
        lacking = self._options.lacking(part, found.manifest, found.unreadable, found.mounts)
        self.stats.note_unreadable({**found.unreadable, **lacking}, prefix=part.prefix)

    def _move(self, files: int, size: int) -> None:
        """Take note that so many files more are there, and bytes; wait, if that was too fast."""
        so_far = self._moved
        self._moved = Progress(so_far.files + files, so_far.content_bytes + size, 0)
        if self._progress is not None:
            self._progress(self._moved)
        if size and (delay_s := self._pace.delay(size, monotonic())):
            sleep(delay_s)

    def _note(self, at: int, update: Update | Arrival, done: UpdateStats) -> None:
        self.stats.files += done.files_copied
        self.stats.content_bytes += done.bytes_copied
        self.stats.created += done.created
        self.stats.deleted += done.deleted
        self.stats.not_kept.update(done.not_kept)
        refused = update.refused
        self.stats.note_refused(
            refused.named, prefix=self._parts[at].prefix, unnamed=refused.unnamed
        )


def _made(update: Update) -> UpdateStats:
    try:
        update.prepare()
        for missing in update.wanted():
            update.pass_over(missing)  # it has changed since it was scanned
        return update.finish()
    except BaseException:
        update.abort()
        raise
