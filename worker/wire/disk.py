"""What takes disk on a worker, and what of it may go.

The messages are part of ``worker.wire.orders``, and the rules for changing them are its.

A manager alone has a worker prune, by order or when the worker says that it is crowded, and never
two workers at a time: it knows what builds hold, and which blob has its last copy where.
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from worker.wire.images import Count, Sha256
from worker.wire.ops import Text

MAX_SHOWN: Final = 20_000
"""Things that a worker names one by one; of more it tells the sums."""


class Kind(StrEnum):
    """The things that take disk."""

    RESULT = "result"
    BLOB = "blob"
    PARTIAL = "partial-blob"
    SOURCE = "idle-source"
    CACHE = "cache-mount"
    MANIFEST = "manifest"
    """Directory nodes. They go by themselves with what they are of; no policy takes them."""


REMOVABLE: Final = tuple(kind for kind in Kind if kind is not Kind.MANIFEST)
"""What a policy may name."""


class PrunePolicy(msgspec.Struct, frozen=True):
    """What to remove: the least recently used of ``kinds``, until the bounds are kept.

    Without a bound everything goes that was not used for ``unused_s``. The bounds are about
    all kinds together.

    Attributes:
        unused_s: what was used within this time stays.
        reserved_bytes: so much is always left.
        max_used_bytes: so much may be left.
        min_free_bytes: so much should be free on the file system.
    """

    kinds: tuple[Kind, ...] = REMOVABLE
    unused_s: float = 0.0
    reserved_bytes: Count | None = None
    max_used_bytes: Count | None = None
    min_free_bytes: Count | None = None


Policies = Annotated[tuple[PrunePolicy, ...], msgspec.Meta(max_length=10)]


class Holds(msgspec.Struct, frozen=True):
    """What the rest of the cluster has to do with what is on one worker.

    Attributes:
        refs: results that builds hold.
        last_copies: blobs that must stay though their result goes here, for it is on another
            worker, which has not the blob.
        copied: blobs that another worker has too.
    """

    refs: tuple[WireDigest, ...] = ()
    last_copies: tuple[Sha256, ...] = ()
    copied: tuple[Sha256, ...] = ()


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


# --- orders -----------------------------------------------------------------------------------


class ReadUsage(_Message, frozen=True, tag="read-usage"):
    """Say what takes how much disk, with ``verbose`` thing by thing. -> Usage."""

    holds: Holds = Holds()
    verbose: bool = False


class Prune(_Message, frozen=True, tag="prune-by"):
    """Remove by each of ``policies`` what nobody holds. -> Usage, of what was removed."""

    policies: Policies
    holds: Holds = Holds()
    verbose: bool = False


class ReadHoldings(_Message, frozen=True, tag="read-holdings"):
    """Say which blobs are here, and of what. -> Holdings."""


class Touch(_Message, frozen=True, tag="touch"):
    """Remember that these results were used just now; unknown ones are fine. -> Finished."""

    refs: tuple[WireDigest, ...]


# --- answers ----------------------------------------------------------------------------------


class UsageRow(msgspec.Struct, frozen=True):
    """One kind of thing on a worker's disk.

    Attributes:
        reclaimable: bytes of what could go.
        used_s: when one of them was last used, seconds since the epoch; 0 where there is none.
    """

    kind: Kind
    count: Count = 0
    size: Count = 0
    reclaimable: Count = 0
    used_s: float = 0.0


class KeptRow(msgspec.Struct, frozen=True):
    """What should have gone and could not, and why."""

    kind: Kind
    count: Count
    size: Count
    why: Text


class UsageItem(msgspec.Struct, frozen=True):
    """One thing on a worker's disk; an empty ``why`` says that it could go."""

    kind: Kind
    id: Text
    size: Count
    used_s: float
    why: Text = ""


class Usage(_Message, frozen=True, tag="disk-usage"):
    """What takes, or took, how much disk.

    Attributes:
        rows: one for each kind.
        kept: of Prune: what stayed that should have gone.
        items: what was asked about or removed, thing by thing, if that was wanted.
        refs: of Prune: the results that are gone.
        swept: of Prune: the manifests that nothing here needs are gone; not while something runs.
    """

    rows: tuple[UsageRow, ...]
    kept: tuple[KeptRow, ...] = ()
    items: Annotated[tuple[UsageItem, ...], msgspec.Meta(max_length=MAX_SHOWN)] = ()
    refs: tuple[WireDigest, ...] = ()
    swept: bool = True


class Holdings(_Message, frozen=True, tag="holdings"):
    """The blobs of one worker.

    Attributes:
        blobs: all that are here.
        layers: (ref, its layer) of the results here whose layer has been made.
        variants: (layer, the same in another compression), where that was made here.
    """

    blobs: tuple[Sha256, ...] = ()
    layers: tuple[tuple[WireDigest, Sha256], ...] = ()
    variants: tuple[tuple[Sha256, Sha256], ...] = ()


class Crowded(_Message, frozen=True, tag="crowded"):
    """Worker -> manager: there is more here than I was told to keep; have me prune by these."""

    policies: Policies
