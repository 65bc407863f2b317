"""One part of a sync, from what is planned to what is done; the same on all sides."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from filesync.digest import Digest
from filesync.disk.updating.arriving import ArrivingUpdate
from filesync.disk.updating.layout import RootTimes
from filesync.disk.updating.update import LocalTree, TreeUpdate, UpdateStats
from filesync.disk.updating.work import FULL
from filesync.errors import RoomMade, StoreError
from filesync.manifest import Manifest, Nodes, empty_manifest
from filesync.manifest.owner import OTHERS, Writer, as_left, as_written_by, owned_by
from filesync.manifest.patch import Change, patch
from filesync.sync.choice import choose
from filesync.sync.filter import Filter
from filesync.sync.options import Options
from filesync.sync.owner import given_to, this_writer
from filesync.sync.part import Part, Removal
from filesync.sync.places import Place
from filesync.sync.plan import Plan, make_plan
from filesync.sync.planned import Planned
from filesync.sync.saying.noting import note_plan
from filesync.sync.saying.stats import SyncStats
from filesync.sync.scanning import Found, Named, note_proved, scan_place
from filesync.sync.target import Target
from filesync.sync.ticks import FINE_NS, as_kept
from filesync.sync.unseen import UnseenOnDisk
from filesync.sync.unwritable import around_unwritable

_SLASH: Final = ord("/")


def _groups() -> frozenset[int] | None:
    """Return the groups that this process may give files; None for all."""
    return None if (writer := this_writer()) is None else writer.groups


class _Noted(TreeUpdate):
    """An update that has the next scan not read what this one has proved, be it cut short."""

    _place: Place
    _caches: Path | None
    _is_noted = False

    def finish(self) -> UpdateStats:
        done = super().finish()
        self._note()
        return done

    def abort(self) -> None:
        super().abort()
        with suppress(StoreError):  # why it ends is what people are to know
            self._note()

    def _note(self) -> None:
        if not self._is_noted:
            self._is_noted = True
            note_proved(self._place, self._caches, self.proved(), self.written_ns)


class Update(_Noted):
    """An update of what others may be using, as far as this user may.

    What is passed over has the paths that ``part`` has where it is given: of a single name that is
    called ``rename`` at the place that is another.
    """

    def __init__(
        self,
        place: Place,
        plan: Plan,
        *local: LocalTree,
        part: Part,
        rename: bytes | None,
        caches: Path | None,
        on_copied: Callable[[int], None] | None = None,
        goes_on: bool = True,
        passes_over: bool = True,
        is_last: bool = True,
    ) -> None:
        self._place, self._caches = place, caches
        self._rename, self._given_as = rename, part.given_as(rename)
        super().__init__(
            place.root,
            basis=plan.basis,
            target=plan.target,
            label=_label(place),
            visits=plan.visits,
            local=local,
            on_copied=on_copied,
            # Others may be using what is there: no name ever holds half a file.
            atomic=True,
            groups=_groups(),
            root_times=_root_times(part, is_of_names=plan.is_of_names),
            goes_on=goes_on,
            passes_over=passes_over,
            is_last=is_last,
            partials=place.staging.partials if place.staging.is_open else None,
        )

    def content_at(self, path: bytes) -> Digest | None:
        """Return what the file ``path`` is to hold; None if it is none, or may not be passed over."""
        return super().content_at((self._rename or path) if path == self._given_as else path)

    @property
    def passed_over(self) -> Sequence[bytes]:
        """The paths of what was left as it is; all of them once it is finished."""
        found = super().passed_over
        return found if self._given_as is None else [self._given_as for _ in found]


class Addition(NamedTuple):
    """What adds to a place.

    Attributes:
        update: has it added; not finished yet.
        top: what the place holds then, if all of that can be made.
        is_all: as far as is known, it can.
    """

    update: Update
    top: Manifest
    is_all: bool

    @property
    def is_made(self) -> bool:
        """Say, when the update is finished, whether the place holds ``top``."""
        done = self.update.done
        return (
            self.is_all
            and done is not None
            and not (done.not_kept or self.update.refused.count)
        )


def add_to(
    place: Place,
    part: Part,
    basis: Manifest,
    top: Manifest,
    *,
    nodes: Nodes,
    unseen: Filter,
    caches: Path | None,
) -> Addition:
    """Return what makes ``top``, which adds to ``basis``, of a place that holds that. Blocks."""
    target = Target(place, None)
    plan = plan_target(target, part, basis, top, nodes, removal=None, unseen=unseen)
    plan, unwritable = around_unwritable(place.root, plan, nodes)
    update = Update(
        place,
        plan,
        part=part,
        rename=None,
        caches=caches,
        passes_over=False,
        is_last=False,
    )
    return Addition(update, plan.target, not (plan.left_out or unwritable))


def _root_times(part: Part, *, is_of_names: bool) -> RootTimes:
    if not is_of_names:
        return RootTimes.GIVEN
    return RootTimes.TOUCHED if part.touches else RootTimes.KEPT


def as_others(there: Manifest, nodes: Nodes) -> Manifest:
    """Return the tree that ``there`` was most likely made of, if some of that was of ``OTHERS``; a guess.

    Most often that got this process's own group; or it got another of its groups, as from a directory
    that gives one: ``nodes`` gets the nodes by that guess, too. What is guessed right need not be
    asked for.
    """
    if (writer := this_writer()) is None:
        return there
    groups = writer.groups - {os.getegid()}
    if groups:
        owned_by(there, nodes, writer.uid, OTHERS)
    return as_written_by(Writer(writer.uid, groups), there, nodes)


@contextmanager
def making_room(update: Update) -> Iterator[None]:
    """Have who gives up ``update`` within the block for a full disk know that it has made room.

    What is gone is set aside, as something may be made of it, and takes its room until the end.

    Raises:
        RoomMade: the disk was full; begin again.
    """
    try:
        yield
    except StoreError as exc:
        cause = exc.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL and update.has_removed:
            raise RoomMade(str(exc)) from exc
        raise


class Arrival(_Noted, ArrivingUpdate):
    """The same, of an empty directory to a tree whose directories are still to come."""

    def __init__(
        self, place: Place, nodes: Nodes, *, part: Part, caches: Path | None, goes_on: bool
    ) -> None:
        self._place, self._caches = place, caches
        super().__init__(
            place.root,
            nodes,
            label=_label(place),
            atomic=True,
            groups=_groups(),
            names=place.names,
            root_times=_root_times(part, is_of_names=place.names is not None),
            goes_on=goes_on,
        )


def _label(place: Place) -> bytes:
    """Return what a user called the directory: on a server its root is a mere descriptor."""
    return place.label or b"."


def scan_target(target: Target | None, part: Part, nodes: Nodes, options: Options) -> Found:
    """Return what is where a part goes to on this machine; nothing where a dry run would make it.

    Blocks. What cannot be read there need not be: see ``around_shut``. For errors see
    ``scan_place``.
    """
    if target is None:
        return Found(empty_manifest(nodes), {}, {})
    return scan_place(
        target.place,
        nodes,
        filter=options.unseen(part.prefix),
        caches=options.used_caches,
        named=named_at_target(delete=options.delete),
        mounts=options.mounts_there,
        skip_unreadable=True,
        keep_unreadable=True,
    )


def named_at_target(*, delete: bool) -> Named:
    """Return what is to be seen of names where something is given to them."""
    # A directory may stand in the way of a name. Only if it is to be removed with all that is
    # in it need anybody look at that: else it is enough to know whether there is anything.
    return Named.TREES if delete else Named.DIRECTORIES


class Around(NamedTuple):
    """What can be done at a target whose scan could not read some directories.

    Attributes:
        given: what is given, without those: of what is there nothing can be told.
        removal: what is removed.
        stuck: those that would have changed or gone, and why they cannot be read (errno).
    """

    given: Manifest
    removal: Removal | None
    stuck: Mapping[bytes, int]


def around_shut(
    shut: Mapping[bytes, int], given: Manifest, removal: Removal | None, nodes: Nodes
) -> Around:
    """Return what can be done around the directories ``shut`` at a target.

    Args:
        shut: their paths, and why they could not be read (errno).
        given: the tree that goes there.
        removal: what is to be removed there.
        nodes: gets what is new.
    """
    stuck: dict[bytes, int] = {}
    tree = given.tree
    for path, why in shut.items():
        if given.find(path) is not None:
            stuck[path] = why
            tree = patch(nodes, tree, _gone(path))
        elif removal is not None and not removal.leaves(path):
            stuck[path] = why
    if removal is not None and shut:
        leading = {path[:at] for path in shut for at, byte in enumerate(path) if byte == _SLASH}
        removal = replace(removal, leading=frozenset(leading))
    return Around(Manifest(tree, nodes) if stuck else given, removal, stuck)


def _gone(path: bytes) -> Change:
    """Return the change that removes ``path``."""
    *above, name = path.split(b"/")
    change = Change(removed=(name,))
    for directory in reversed(above):
        change = Change(children={directory: change})
    return change


def plan_part(
    target: Target | None,
    part: Part,
    found: Found,
    given: Manifest,
    nodes: Nodes,
    *,
    removal: Removal | None,
    options: Options,
    planned: Planned,
    stats: SyncStats,
) -> Plan:
    """Return what brings ``given`` to a target on this machine, where ``found`` is; note it.

    Blocks.

    Args:
        target: where it goes; None for what a dry run would make.
        part: what goes there.
        found: what is there; see ``scan_target``.
        given: the part's tree.
        nodes: gets what is new.
        removal: what is to be removed there.
        options: the sync's.
        planned: what a dry run has planned before, and this.
        stats: is told what will not be done, and what a dry run would do.
    """
    given, removal, stuck = around_shut(found.unreadable, given, removal, nodes)
    stats.note_stuck(stuck, prefix=part.prefix)
    given = given_to(options.new_owner, given, nodes)
    basis = planned.basis(part, found.manifest)
    rename = None if target is None else target.rename
    given, removal = choose(options.choice, basis, given, removal, nodes, rename=rename)
    plan = plan_target(
        target,
        part,
        basis,
        given,
        nodes,
        removal=removal,
        unseen=options.unseen(part.prefix),
    )
    if target is not None:
        plan, unwritable = around_unwritable(target.place.root, plan, nodes)
        stats.note_unwritable(unwritable, prefix=part.prefix)
    if not options.choice.only_new:  # else what a directory stands for was not asked for
        stats.note_left_out(plan.left_out, prefix=part.prefix)
    is_new = (target is None or target.is_new) and not planned.is_made_before(part)
    if options.dry_run:
        planned.note(part, plan)
    if is_new or not plan.is_done:
        given_as = part.given_as(rename)
        note_plan(stats, plan, options, prefix=part.prefix, is_new=is_new, given_as=given_as)
    return plan


def as_it_stays(
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    *,
    gives_away: bool,
    tick_ns: int,
    rename: bytes | None,
) -> Manifest:
    """Return ``basis`` with what of ``top`` nobody will set there: that differs no more.

    These are owners, unless who writes ``gives_away`` files, and what is lost of times in steps of ``tick_ns``.
    """
    if not gives_away:
        basis = as_left(basis, top, nodes, rename=rename)
    return as_kept(basis, top, nodes, tick_ns, rename=rename)


def plan_target(
    target: Target | None,
    part: Part,
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    *,
    removal: Removal | None,
    unseen: Filter,
) -> Plan:
    """Return what brings ``top`` to ``target``, which holds ``basis``; see ``make_plan``.

    Blocks. ``unseen`` is what the scan of the basis left out.
    """
    rename = None if target is None else target.rename
    tick_ns = FINE_NS if target is None or basis.tree == top.tree else target.place.tick_ns
    gives_away = this_writer() is None
    basis = as_it_stays(
        basis, top, nodes, gives_away=gives_away, tick_ns=tick_ns, rename=rename
    )
    if target is None:
        return make_plan(basis, top, nodes, names=part.names, trees=part.trees, removal=removal)
    with UnseenOnDisk(target.place, unseen) as left_out:
        return make_plan(
            basis,
            top,
            nodes,
            names=target.place.names,
            trees=part.trees,
            rename=rename,
            removal=removal,
            unseen=left_out,
        )
