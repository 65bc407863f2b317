"""How an input reaches the op that reads it, and what that took.

The messages are part of ``worker.wire.orders``, and the rules for changing them are its.
"""

from enum import StrEnum

import msgspec

from filesync.digest import WireDigest
from worker.wire.caches import FromRepository
from worker.wire.images import Count, FromRegistry
from worker.wire.layers import FromLayers, Replica
from worker.wire.ops import Text
from worker.wire.urls import FromGit, FromUrl


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class Mode(StrEnum):
    """How an input reaches the worker that reads it."""

    LOCAL = "local"
    PATHS = "paths"
    LAYERS = "layers"
    REGISTRY = "registry"
    URL = "url"


class FromLocal(_Message, frozen=True, tag="local"):
    """This worker has ``ref``."""

    ref: WireDigest


class FromPaths(_Message, frozen=True, tag="paths"):
    """Sync the tree ``tree`` from one of ``replicas`` into a source.

    Attributes:
        key: what the source is for, so that the next one like it finds it again.
        basis: id of the idle source that the manager thinks is nearest; empty for none.
        passing: takes the same tree and began earlier; it comes from there, and from the replicas
            only if that does not give it.
    """

    tree: WireDigest
    replicas: tuple[Replica, ...]
    key: Text = ""
    basis: Text = ""
    passing: Replica | None = None


InputOrder = (
    FromLocal | FromPaths | FromLayers | FromRegistry | FromRepository | FromUrl | FromGit
)


class InputReport(msgspec.Struct, frozen=True):
    """What it took to bring one input here.

    Attributes:
        bytes_whole: of an image that was read in parts, what all its layers would have been.
    """

    mode: Mode
    bytes_moved: Count = 0
    files_moved: Count = 0
    seconds: float = 0.0
    bytes_whole: Count = 0
