"""What a sync took."""

from collections import Counter
from collections.abc import Mapping

import msgspec

from filesync.digest import name_of
from filesync.manifest.tree import Manifest


class SyncStats(msgspec.Struct):
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
        changing: paths in the source that changed each time they were read, and were left as
            they were at the destination.
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
    trees: list[str] = []
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    not_kept: Counter[str] = msgspec.field(default_factory=Counter)
    changing: list[str] = []

    def note_source(self, top: Manifest, skipped: Mapping[str, int]) -> None:
        """Count what a part's source holds."""
        summary = top.summary
        self.names += summary.entries
        self.size += summary.size
        self.trees.append(name_of(top.tree))
        self.skipped.update(skipped)
