"""What a sync took."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from filesync.digest import name_of
from filesync.manifest.tree import Manifest

MAX_NAMED: Final = 100
"""What is left out is told by name up to here, then by number."""


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
        trees: what was read, by digest, one for each part; files that changed since are others by now.
        skipped: what cannot be synced, counted by kind.
        not_kept: names that lack something of their metadata, counted by kind.
        left_out: names of the source that are not at the destination, as a directory stands in
            their place and stays; left_out_paths: the first of them.
        changing: paths in the source that changed each time they were read, and were left as
            they were at the destination; unnamed_changing: how many more there are.
        unreadable: paths in the source that could not be read, or sources that are not there, and
            why; they were left as they were at the destination, and nothing was deleted.
        unnamed: how many more could not be read.
        unwritable: directories at the destination that could not be written, and why; what was to
            change in them was left as it is; unnamed_unwritable: how many more there are.
        refused: names at the destination that could not be changed, made or removed, and why;
            unnamed_refused: how many more there are.
        stuck: directories at the destination that could not be read, and why; they were left as
            they are, though they were to change or go; unnamed_stuck: how many more there may be.
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
    left_out: int = 0
    left_out_paths: list[str] = []
    changing: list[str] = []
    unnamed_changing: int = 0
    unreadable: dict[str, str] = {}
    unnamed: int = 0
    stuck: dict[str, str] = {}
    unnamed_stuck: int = 0
    unwritable: dict[str, str] = {}
    unnamed_unwritable: int = 0
    refused: dict[str, str] = {}
    unnamed_refused: int = 0

    def note_source(self, top: Manifest, skipped: Mapping[str, int]) -> None:
        """Count what a part's source holds."""
        summary = top.summary
        self.names += summary.entries
        self.size += summary.size
        self.trees.append(name_of(top.tree))
        self.skipped.update(skipped)

    def note_left_out(self, paths: Sequence[bytes], *, prefix: bytes, unnamed: int = 0) -> None:
        """Count what is left out of a part whose paths begin with ``prefix``."""
        self.left_out += len(paths) + unnamed
        named = paths[: max(MAX_NAMED - len(self.left_out_paths), 0)]
        self.left_out_paths += [os.fsdecode(prefix + path) for path in named]

    @property
    def behind(self) -> list[bytes]:
        """The paths of all that changed in the source each time; nothing if not all are named."""
        return [] if self.unnamed_changing else list(map(os.fsencode, self.changing))

    @property
    def is_behind(self) -> bool:
        """Something changed in the source each time, and was left as it was."""
        return bool(self.changing or self.unnamed_changing)

    def note_changing(
        self, paths: Sequence[bytes], *, prefix: bytes = b"", unnamed: int = 0
    ) -> None:
        """Take note of what in a part was left as it is, as it changed in the source."""
        named = paths[: max(MAX_NAMED - len(self.changing), 0)]
        self.changing += [os.fsdecode(prefix + path) for path in named]
        self.unnamed_changing += len(paths) - len(named) + unnamed

    def with_work(self, other: "SyncStats") -> "SyncStats":
        """Return the same with what another attempt at the same has done counted as well."""
        return replace(
            self,
            created=self.created + other.created,
            deleted=self.deleted + other.deleted,
            files=self.files + other.files,
            content_bytes=self.content_bytes + other.content_bytes,
            copied_bytes=self.copied_bytes + other.copied_bytes,
            wire_in=self.wire_in + other.wire_in,
            wire_out=self.wire_out + other.wire_out,
            seconds=self.seconds + other.seconds,
        )

    def with_rest(self, rest: "SyncStats") -> "SyncStats":
        """Return the same after an attempt at what was ``behind``, and nothing else.

        What has no name, as it is only counted, both may have met: there is as much as either says.
        """
        return replace(
            self.with_work(rest),
            not_kept=self.not_kept | rest.not_kept,
            left_out=self.left_out + rest.left_out,
            left_out_paths=self.left_out_paths + rest.left_out_paths,
            changing=rest.changing,
            unnamed_changing=rest.unnamed_changing,
            unreadable=self.unreadable | rest.unreadable,
            unnamed=max(self.unnamed, rest.unnamed),
            stuck=self.stuck | rest.stuck,
            unnamed_stuck=max(self.unnamed_stuck, rest.unnamed_stuck),
            unwritable=self.unwritable | rest.unwritable,
            unnamed_unwritable=max(self.unnamed_unwritable, rest.unnamed_unwritable),
            refused=self.refused | rest.refused,
            unnamed_refused=max(self.unnamed_refused, rest.unnamed_refused),
        )

    def note_unreadable(
        self, unreadable: Mapping[bytes, int], *, prefix: bytes = b"", unnamed: int = 0
    ) -> None:
        """Take note of what in a part, whose paths begin with ``prefix``, could not be read."""
        for path, why in unreadable.items():
            self.unreadable[os.fsdecode(prefix + path)] = os.strerror(why)
        self.unnamed += unnamed

    def note_stuck(
        self, stuck: Mapping[bytes, int], *, prefix: bytes, unnamed: int = 0
    ) -> None:
        """Take note of what was left as it is where a part went, as it could not be read."""
        for path, why in stuck.items():
            self.stuck[os.fsdecode(prefix + path)] = os.strerror(why)
        self.unnamed_stuck += unnamed

    def note_unwritable(
        self, unwritable: Mapping[bytes, int], *, prefix: bytes, unnamed: int = 0
    ) -> None:
        """Take note of where a part went that it could not be written."""
        self.unnamed_unwritable += unnamed + _name(self.unwritable, unwritable, prefix)

    def note_refused(
        self, refused: Mapping[bytes, int], *, prefix: bytes = b"", unnamed: int = 0
    ) -> None:
        """Take note of names that stay as they are where a part went."""
        self.unnamed_refused += unnamed + _name(self.refused, refused, prefix)


def _name(named: dict[str, str], paths: Mapping[bytes, int], prefix: bytes) -> int:
    """Add as many of ``paths`` as may be named, and why; return how many were not added."""
    unnamed = 0
    for path, why in paths.items():
        if len(named) < MAX_NAMED:
            named[os.fsdecode(prefix + path).rstrip("/") or "."] = os.strerror(why)
        else:
            unnamed += 1
    return unnamed
