"""All that a manager and a worker say to each other, beside the ops themselves.

The worker dials the manager's ROUTER with a DEALER, says ``Register`` and is answered
``Welcome`` or ``Refused``. From then on the manager sends ``Order``s and the worker answers each
with exactly one ``Outcome``; ``Output`` and ``Nodes`` may come before it. A manager that hears
from a worker it does not know (it was restarted) says ``Unknown``, and the worker registers again.
Where keys are used, ``Allow`` tells the worker whom its data plane lets in.

A message is one MessagePack header frame and at most one payload frame. ``Nodes`` is the only
one with a payload: a pack of directory nodes (``filesync.manifest.pack``), sent before the
message that speaks of them, so that whoever reads a digest here has the tree behind it.

Rules for changing this file: new fields go last and have defaults; tags are never reused; a
field that changes meaning gets a new name; what an old peer must not ignore raises ``VERSION``.
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from filesync.trees.select import Selector
from worker.wire.agents import AgentAnswered, AgentAsked, AgentIds
from worker.wire.caches import (
    CacheFound,
    LayersPushed,
    PushLayers,
    PushManifest,
    ReadCache,
)
from worker.wire.disk import Crowded, Holdings, Prune, ReadHoldings, ReadUsage, Touch, Usage
from worker.wire.framing import Frames, framed, unframed
from worker.wire.images import (
    MAX_LAYERS,
    Annotations,
    Compression,
    Count,
    NewestTime,
    Pushed,
    PushImage,
    RelayImage,
    Resolved,
    ResolveImage,
    Sha256,
)
from worker.wire.images import Layer as Layer
from worker.wire.inputs import FromLocal as FromLocal
from worker.wire.inputs import FromPaths as FromPaths
from worker.wire.inputs import InputOrder as InputOrder
from worker.wire.inputs import InputReport as InputReport
from worker.wire.inputs import Mode as Mode
from worker.wire.layers import Address as Address
from worker.wire.layers import FromLayers as FromLayers
from worker.wire.layers import Link as Link
from worker.wire.layers import LinkParts as LinkParts
from worker.wire.layers import OfferedParts as OfferedParts
from worker.wire.layers import OfferLayers as OfferLayers
from worker.wire.layers import PassOn as PassOn
from worker.wire.layers import PullBlobs as PullBlobs
from worker.wire.layers import RefInfo as RefInfo
from worker.wire.layers import Replica as Replica
from worker.wire.layers import Token as Token
from worker.wire.leases import BlobPut, Held, Lacking, LeaseOrder, Pull
from worker.wire.ops import Op, Text
from worker.wire.secrets import Secrets
from worker.wire.urls import GitFound, ResolveGit, ResolveUrl, UrlUnchanged

VERSION: Final = 17
ALIVE_S: Final = 10.0
MAX_KEYS: Final = 20_000

Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Labels = Annotated[dict[Label, str], msgspec.Meta(max_length=100)]


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


# --- what a worker holds ----------------------------------------------------------------------


class SourceInfo(msgspec.Struct, frozen=True):
    """An idle source that a sync may start from."""

    id: Text
    tree: WireDigest


# --- orders -----------------------------------------------------------------------------------


class Run(_Message, frozen=True, tag="run"):
    """Bring the inputs here, run ``op`` and keep its result under ``keys``. -> Ran.

    Attributes:
        secrets: of those that the op names, what the client gave.
        agents: of those that the op names, which the client gives.
    """

    op: Op
    inputs: tuple[InputOrder, ...]
    keys: tuple[WireDigest, ...] = ()
    secrets: Secrets = ()
    agents: AgentIds = ()


class ImportChain(_Message, frozen=True, tag="import-chain"):
    """Make the ref that a chain of foreign layers gives, and keep it under ``keys``. -> Ran.

    Attributes:
        layers: lowest first. A blob that is not here yet is a file of the input, named by the
            hex of its sha256.
    """

    layers: Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1, max_length=MAX_LAYERS)]
    input: InputOrder
    keys: tuple[WireDigest, ...] = ()


class Offer(_Message, frozen=True, tag="offer"):
    """Open ``ref``, or what ``selector`` leaves of it, to a peer. -> Offered."""

    ref: WireDigest
    selector: Selector | None = None


class ExportForm(StrEnum):
    """What a result is turned into for its taker."""

    TREE = "tree"
    TAR = "tar"
    OCI = "oci"


class Export(_Message, frozen=True, tag="export"):
    """Make ``ref`` ready to be taken as ``form``. -> Offered.

    Attributes:
        config: the image configuration, JSON, without its ``rootfs`` (form OCI).
        name: reference names to write into the layout's index (form OCI), with commas between
            them; may be empty.
        compression: of the layers that were made here; an imported layer stays what it is.
        level: of that compression; None is the usual one.
        annotations: of the image manifest (form OCI).
        newest_s: for the layers that were made here; an imported layer stays what it is.
        descriptor_annotations: of the image in the layout's index (form OCI).
        time_s: what all files are from, in seconds since 1970 (forms TREE and TAR); None
            leaves them their own.
    """

    ref: WireDigest
    form: ExportForm
    config: bytes = b"{}"
    name: Text = ""
    compression: Compression = Compression.GZIP
    level: int | None = None
    annotations: Annotations = msgspec.field(default_factory=dict)
    newest_s: NewestTime = None
    descriptor_annotations: Annotations = msgspec.field(default_factory=dict)
    time_s: NewestTime = None


class Release(_Message, frozen=True, tag="release"):
    """Close offers and let go of sources. Unknown ones are fine. -> Finished."""

    tokens: tuple[Token, ...] = ()
    sources: tuple[WireDigest, ...] = ()


class AddKeys(_Message, frozen=True, tag="add-keys"):
    """Remember that ``keys`` have the result ``ref``. -> Finished."""

    ref: WireDigest
    keys: tuple[WireDigest, ...]


class ReadTree(_Message, frozen=True, tag="read-tree"):
    """Send the nodes of ``tree``. -> Nodes…, Finished."""

    tree: WireDigest


OrderBody = (
    Run
    | ImportChain
    | Offer
    | OfferLayers
    | PassOn
    | PullBlobs
    | Export
    | Release
    | AddKeys
    | ReadTree
    | ReadUsage
    | Prune
    | ReadHoldings
    | Touch
    | ResolveImage
    | PushImage
    | RelayImage
    | ReadCache
    | PushLayers
    | PushManifest
    | LeaseOrder
    | Pull
    | ResolveUrl
    | ResolveGit
)


class Order(_Message, frozen=True, tag="order"):
    """Manager -> worker: do this; answer under the same id."""

    id: Count
    body: OrderBody


class Cancel(_Message, frozen=True, tag="cancel"):
    """Manager -> worker: stop an order; it is still answered, with Failed if it was stopped."""

    id: Count


class Welcome(_Message, frozen=True, tag="welcome"):
    """Manager -> worker: registered."""


class Refused(_Message, frozen=True, tag="refused"):
    """Manager -> worker: not registered, and why. The worker ends."""

    code: Text
    detail: Text


class Allow(_Message, frozen=True, tag="allow"):
    """Manager -> worker: whose keys its data plane lets in from now on, and no others.

    Sent where keys are used: before ``Welcome``, and when they have changed.
    """

    keys: Annotated[tuple[Key, ...], msgspec.Meta(max_length=MAX_KEYS)]


class Alive(_Message, frozen=True, tag="alive"):
    """Manager -> worker: it is there; every ALIVE_S."""


class Unknown(_Message, frozen=True, tag="unknown"):
    """Manager -> worker: register again."""


class Swept(_Message, frozen=True, tag="swept"):
    """Manager -> worker: what it was told of nodes before it may have no more.

    It has swept them, and no order is under way, or could not keep some that came just now.
    """


# --- what a worker says -----------------------------------------------------------------------


class Register(_Message, frozen=True, tag="register"):
    """Worker -> manager: who I am and what I hold.

    Attributes:
        instance: names the state directory, so that a worker that comes back takes its own
            place and a stranger of the same name is refused.
        address: where its data plane listens; with the key that this connection is made with,
            if it is made with one.
    """

    version: int
    worker: Label
    instance: Label
    labels: Labels
    slots: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    address: Address
    snapshotter: Text
    refs: tuple[RefInfo, ...] = ()
    sources: tuple[SourceInfo, ...] = ()


class Heartbeat(_Message, frozen=True, tag="heartbeat"):
    """Worker -> manager: alive; the idle sources when they have changed."""

    sources: tuple[SourceInfo, ...] | None = None


class Leaving(_Message, frozen=True, tag="leaving"):
    """Worker -> manager: shutting down."""


class Output(_Message, frozen=True, tag="output"):
    """Worker -> manager: what an op printed; ``stream`` is 1 or 2."""

    id: Count
    stream: int
    data: Annotated[bytes, msgspec.Meta(max_length=1 << 20)]


class Progress(_Message, frozen=True, tag="progress"):
    """Worker -> manager: how far an input's transfer has come, in bytes of content."""

    id: Count
    input: Count
    done_bytes: Count
    total_bytes: Count


class Ran(_Message, frozen=True, tag="ran"):
    """The op succeeded.

    Attributes:
        ref: the result, new on this worker.
        pulled: refs that came here as layers on the way.
        inputs: a report for each input, in order.
    """

    ref: RefInfo
    pulled: tuple[RefInfo, ...] = ()
    inputs: tuple[InputReport, ...] = ()


class Offered(_Message, frozen=True, tag="offered"):
    """A tree is open to whoever has ``token``. Its new nodes were sent before.

    Attributes:
        layers: of OfferLayers, the layer of each ref asked for, in order.
        manifest: of an OCI export, digest and size of the image manifest.
        config: of an OCI export, the digest of the image configuration.
        parts: of OfferLayers, what each layer is made of, where that is on offer too.
    """

    token: Token
    tree: WireDigest
    layers: tuple[Layer, ...] = ()
    manifest: tuple[Sha256, Count] | None = None
    config: Sha256 | None = None
    parts: tuple[OfferedParts | None, ...] = ()


class Finished(_Message, frozen=True, tag="finished"):
    """The order is done and there is nothing to tell."""


class Failed(_Message, frozen=True, tag="failed"):
    """The order is not done.

    Attributes:
        code: ``FilesyncError.code`` of the reason.
        detail: the sentence for people.
        exit_status: of a command that ran and failed.
        tail: the last lines that it printed.
    """

    code: Text
    detail: Text
    exit_status: int | None = None
    tail: Text = ""


Result = (
    Ran
    | Offered
    | Usage
    | Holdings
    | Finished
    | Failed
    | Resolved
    | Pushed
    | CacheFound
    | LayersPushed
    | Held
    | Lacking
    | BlobPut
    | UrlUnchanged
    | GitFound
)


def release_of(answer: Result) -> Release | None:
    """Return what lets go of that which an answer keeps in place; None where that is nothing."""
    match answer:
        case Offered(token):
            return Release(tokens=(token,))
        case Ran(ref) if ref.source:
            return Release(sources=(ref.ref,))
        case _:
            return None


class Outcome(_Message, frozen=True, tag="outcome"):
    """Worker -> manager: the one answer to an order.

    An answer that nobody waits for any more, as the order was cancelled while it was on its
    way, is released.
    """

    id: Count
    result: Result


class Nodes(_Message, frozen=True, tag="nodes"):
    """Either way: a pack of directory nodes, in the payload frame."""


ToWorker = (
    Welcome | Refused | Allow | Unknown | Alive | Swept | Order | Cancel | AgentAnswered | Nodes
)
Event = Output | Progress | AgentAsked
"""What an order tells of before it is answered."""
FromWorker = Register | Heartbeat | Leaving | Event | Outcome | Nodes | Crowded

_to_worker: Final = msgspec.msgpack.Decoder(ToWorker)


def encode(message: ToWorker | FromWorker, payload: bytes = b"") -> list[bytes]:
    """Return the frames of ``message``."""
    return framed(message, payload)


def decode_to_worker(frames: Frames) -> tuple[ToWorker, bytes | memoryview]:
    """Return the message and payload that a manager sent.

    Raises:
        MalformedMessage: for anything that ``encode`` cannot give.
    """
    return unframed(frames, _to_worker)
