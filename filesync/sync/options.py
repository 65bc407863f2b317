"""What a sync is asked for, and what it took."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filesync.transfer.flow import Flow
from filesync.transfer.stats import Progress

OnProgress = Callable[[Progress], None]
OnChanges = Callable[[Iterator[str]], None]
"""Called for each part of a sync with its changes, a line each; it takes all of them at once."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to sync.

    Attributes:
        delete: remove what the source does not have.
        dry_run: change nothing.
        checksum: read all files, whatever the stat caches know.
        rules: what to leave out, and alone (see ``filter``).
        flow: how fast, and how coded, bytes go over the wire.
        caches: where stat caches are kept; None for none.
        on_changes: is told what changes.
    """

    delete: bool = False
    dry_run: bool = False
    checksum: bool = False
    rules: tuple[bytes, ...] = ()
    flow: Flow = field(default_factory=Flow)
    caches: Path | None = None
    on_changes: OnChanges | None = None

    @property
    def used_caches(self) -> Path | None:
        """Where the stat caches are that scans may believe."""
        return None if self.checksum else self.caches


@dataclass(slots=True)
class SyncStats:
    """What a sync took.

    Attributes:
        names: in the source, its root not counted.
        size: bytes of content in the source.
        created: names that the destination had not; deleted: that are gone from there.
        files: contents that came from the source.
        content_bytes: their bytes, without those that an old file had.
        copied_bytes: bytes that an old file had.
        wire_in: bytes received; wire_out: sent.
        seconds: altogether.
        trees: what was read, by digest, one for each part.
        skipped: what cannot be synced, counted by kind.
        not_kept: names that lack something of their metadata, counted by kind.
    """

    names: int = 0
    size: int = 0
    created: int = 0
    deleted: int = 0
    files: int = 0
    content_bytes: int = 0
    copied_bytes: int = 0
    wire_in: int = 0
    wire_out: int = 0
    seconds: float = 0.0
    trees: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    not_kept: Counter[str] = field(default_factory=Counter)
