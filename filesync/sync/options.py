"""What a sync is asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from filesync.disk.scanning.mounts import Mounts
from filesync.sync.filter import Decides, Filter
from filesync.transfer.flow import Flow
from filesync.transfer.stats import Progress

if TYPE_CHECKING:
    from filesync.manifest.tree import Manifest
    from filesync.sync.listed import Listed
    from filesync.sync.part import Part


class Shell(msgspec.Struct, frozen=True):
    """How a program is run on another machine.

    Attributes:
        command: the remote shell and its options, as a shell splits them.
        program: what `filesync` is called there.
    """

    command: str = "ssh"
    program: str = "filesync"


class Choice(msgspec.Struct, frozen=True):
    """Which names of a source come, by what is there; see ``choice``.

    Attributes:
        only_existing: only those that are there, as whatever they are.
        only_new: only those that are not there, and what is in directories that are.
        no_older: no file where there is one whose mtime is later.
    """

    only_existing: bool = False
    only_new: bool = False
    no_older: bool = False

    def __bool__(self) -> bool:
        """Say whether any may not come."""
        return self.only_existing or self.only_new or self.no_older


class OwnerNames(msgspec.Struct, frozen=True):
    """A user and a group as somebody wrote them; "" for none."""

    user: str = ""
    group: str = ""


class NewOwner(NamedTuple):
    """A user and a group by number; None for the one that it is."""

    uid: int | None
    gid: int | None


OnProgress = Callable[[Progress], None]
OnChanges = Callable[[Iterator[str]], None]
"""Called for each part of a sync with its changes, a line each; it takes all of them at once."""


class Options(msgspec.Struct, frozen=True):
    """How to sync.

    Attributes:
        delete: remove what the source does not have.
        delete_excluded: what ``rules`` leave out, too.
        dry_run: change nothing.
        checksum: read all files, whatever the stat caches know, and say which differ.
        afresh: likewise, as only a few files of many are not left out.
        rules: what to leave out, and alone (see ``filter``).
        listed: which names of the one source come, as far as ``rules`` let them; None for all.
        spared: those of the rules that hold even with ``delete_excluded``.
        choice: which names come.
        mounts: what comes of directories of a source on which another file system is mounted.
        owner: whose all is to be, by the names that the destination's machine knows.
        new_owner: the same by numbers, where they are known on this one.
        flow: how fast, and how coded, bytes go over the wire.
        caches: where stat caches are kept; None for none.
        on_changes: is told what changes.
        key: file of the secret key to dial with; None for the one that keygen makes.
        shell: what reaches a host where no server runs.
    """

    delete: bool = False
    delete_excluded: bool = False
    dry_run: bool = False
    checksum: bool = False
    afresh: bool = False
    rules: tuple[bytes, ...] = ()
    listed: "Listed | None" = None
    spared: tuple[bytes, ...] = ()
    choice: Choice = Choice()
    mounts: Mounts = Mounts.ENTERED
    owner: OwnerNames | None = None
    new_owner: NewOwner | None = None
    flow: Flow = msgspec.field(default_factory=Flow)
    caches: Path | None = None
    on_changes: OnChanges | None = None
    key: Path | None = None
    shell: Shell = msgspec.field(default_factory=Shell)

    @property
    def reads_all(self) -> bool:
        """No stat cache may be believed, or told of what is seen."""
        return self.checksum or self.afresh

    @property
    def used_caches(self) -> Path | None:
        """Where the stat caches are that scans may believe."""
        return None if self.reads_all else self.caches

    @property
    def mounts_there(self) -> Mounts:
        """What a scan of where something goes makes of those there."""
        is_minded = self.delete and self.mounts is not Mounts.ENTERED
        # What is given may be in one: to see that, it has to be entered.
        return Mounts.NOTED if is_minded else Mounts.ENTERED

    @property
    def takes_all(self) -> bool:
        """All of a source comes as it is to where nothing is, and nobody is to see it first."""
        return self.on_changes is None and not self.choice.only_existing and self.owner is None

    def filter(self, root: bytes = b"") -> Filter:
        """Return what is left out of a source, of which the paths have ``root`` before them."""
        ways = None if self.listed is None else self.listed.ways(self.rules)
        return Filter(self.rules, root=root, before=self._before, ways=ways)

    def unseen(self, root: bytes = b"") -> Filter:
        """Return what is not even looked at where a source goes; ``root`` as for ``filter``."""
        # What is to be left alone is not, unless a directory may go in which it is.
        if self.delete:
            return Filter(())
        return Filter(self.rules, root=root, before=self._before)

    @property
    def _before(self) -> Decides | None:
        return None if self.listed is None else self.listed.decides(self.rules)

    def unmet(self, parts: "Iterable[Part]", missing: Iterable[bytes]) -> Mapping[bytes, int]:
        """Return what is ``listed`` and of no part, but for what is ``missing``; see there."""
        if self.listed is None:
            return {}
        return self.listed.unmet(parts, missing, self.rules)

    def lacking(
        self,
        part: "Part",
        top: "Manifest",
        unreadable: Mapping[bytes, int],
        mounts: Iterable[bytes],
    ) -> Mapping[bytes, int]:
        """Return what is ``listed`` of ``part`` and is not in ``top``, all that it has; see there."""
        if self.listed is None:
            return {}
        return self.listed.lacking(part, top, unreadable, self.rules, mounts=mounts)

    @property
    def kept(self) -> tuple[bytes, ...]:
        """The rules that say what ``delete`` leaves alone."""
        return self.spared if self.delete_excluded else self.rules
