"""All that a client and a manager say to each other.

A client dials the manager's ROUTER. Before a build it makes sure that the manager has the nodes
of the trees it offers: ``Have`` asks which of some digests the manager lacks, several levels at once, and
``Nodes`` (``worker.wire.orders``) carries those. Then ``StartBuild``; events follow until ``Built``
or ``BuildFailed``. While the build runs the manager may ask the client to ``Serve`` a tree to a
worker over the data plane: a context, or the part of a cache that a result needs. When the client
has taken its exports it says ``EndBuild``, and the manager lets go of what it held for that build.
A client that falls silent is ended the same way.

The rules for changing this file are those of ``worker.wire.orders``.
"""

from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from filesync.trees.select import Selector
from solver.agents import AgentSaid as AgentSaid
from solver.agents import AskAgent as AskAgent
from solver.caches.wire import CacheFrom as CacheFrom
from solver.caches.wire import CacheInRegistry as CacheInRegistry
from solver.caches.wire import CacheMade as CacheMade
from solver.caches.wire import CacheMode as CacheMode
from solver.caches.wire import CachePush as CachePush
from solver.caches.wire import CachePushed as CachePushed
from solver.caches.wire import CacheTransferred as CacheTransferred
from solver.caches.wire import Exported as Exported
from solver.caches.wire import TransferCache as TransferCache
from solver.caches.wire import TransferProgress as TransferProgress
from solver.events import Event as Event
from solver.events import Explained as Explained
from solver.events import InputUse as InputUse
from solver.events import PushProgress as PushProgress
from solver.events import StepDone as StepDone
from solver.events import StepOutput as StepOutput
from solver.events import StepProgress as StepProgress
from solver.events import StepStarted as StepStarted
from solver.graph import Graph
from solver.urls import AskGit as AskGit
from solver.urls import AskUrl as AskUrl
from solver.urls import FoundCommit as FoundCommit
from solver.urls import FoundUrl as FoundUrl
from solver.urls import NoUrl as NoUrl
from worker.wire.agents import AgentIds
from worker.wire.disk import PrunePolicy, Usage
from worker.wire.framing import Frames, framed, unframed
from worker.wire.images import (
    Annotations,
    Compression,
    Config,
    Count,
    Credential,
    Name,
    Names,
    NewestTime,
    Pushed,
    Sha256,
)
from worker.wire.ops import Text
from worker.wire.orders import (
    Address,
    ExportForm,
    FromWorker,
    Labels,
    Nodes,
    Token,
    ToWorker,
)
from worker.wire.secrets import Secrets

MAX_DIGESTS: Final = 100_000


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


# --- client -> manager ------------------------------------------------------------------------


class Have(_Message, frozen=True, tag="have"):
    """Which of these trees do you lack? -> Lack."""

    trees: Annotated[tuple[WireDigest, ...], msgspec.Meta(max_length=MAX_DIGESTS)]


class ExportRequest(msgspec.Struct, frozen=True):
    """One form in which the client will take the result; see ``worker.wire.orders.Export``."""

    form: ExportForm
    config: bytes = b"{}"
    name: Text = ""
    compression: Compression = Compression.GZIP
    level: int | None = None
    annotations: Annotations = msgspec.field(default_factory=dict)
    newest_s: NewestTime = None
    descriptor_annotations: Annotations = msgspec.field(default_factory=dict)
    time_s: NewestTime = None


class PushRequest(msgspec.Struct, frozen=True):
    """Where the client wants the result pushed to, and as what.

    Attributes:
        names: as of ``PushImage``.
    """

    config: Config
    names: Names
    compression: Compression = Compression.GZIP
    level: int | None = None
    annotations: Annotations = msgspec.field(default_factory=dict)
    newest_s: NewestTime = None


class StartBuild(_Message, frozen=True, tag="start-build"):
    """Build ``graph``. The client's trees are named by the graph's local ops. -> events.

    Attributes:
        no_cache: run every step, even those whose result is known.
        explain: send ``Explained`` for each placement.
        credentials: for the registries of the graph's images and of ``pushes``; forgotten when
            the build ends.
        pushes: done by a worker that holds the result, after the exports are open.
        caches: looked into for what no worker holds, in this order.
        cache_modes: the caches that the client will take.
        cache_pushes: the caches that workers push.
        inline_cache: images are exported and pushed with their own cache records in them.
        secrets: each goes with the orders to run the steps that name it; forgotten when the
            build ends.
        agents: the SSH agents that the client gives to the steps that name them.
    """

    version: int
    graph: Graph
    exports: tuple[ExportRequest, ...] = ()
    no_cache: bool = False
    explain: bool = False
    credentials: Annotated[tuple[Credential, ...], msgspec.Meta(max_length=100)] = ()
    pushes: Annotated[tuple[PushRequest, ...], msgspec.Meta(max_length=100)] = ()
    caches: Annotated[
        tuple[CacheFrom | CacheInRegistry, ...], msgspec.Meta(max_length=100)
    ] = ()
    cache_modes: Annotated[tuple[CacheMode, ...], msgspec.Meta(max_length=100)] = ()
    cache_pushes: Annotated[tuple[CachePush, ...], msgspec.Meta(max_length=100)] = ()
    inline_cache: bool = False
    secrets: Secrets = ()
    agents: AgentIds = ()


class AskImage(_Message, frozen=True, tag="ask-image"):
    """What is the image ``name`` for this platform? A worker asks its registry.

    -> FoundImage or NoImage.

    Attributes:
        name: a reference with nothing left out.
        credential: for the name's registry, passed on and forgotten.
    """

    name: Name
    os: Name
    architecture: Name
    variant: Name = ""
    credential: Credential | None = None


class EndBuild(_Message, frozen=True, tag="end-build"):
    """Stop the client's build if it runs, and let go of what is held for it."""


class Alive(_Message, frozen=True, tag="alive"):
    """The client is still there. -> Alive.

    A manager that has not heard of a client who ``goes_on`` has no work of it: -> Denied.
    """

    goes_on: bool = False


class ListWorkers(_Message, frozen=True, tag="list-workers"):
    """Tell of the workers, once ``at_least`` so many are connected. -> Workers."""

    at_least: Count = 0


class AskUsage(_Message, frozen=True, tag="ask-usage"):
    """What takes how much disk, with ``verbose`` thing by thing? -> Usages."""

    verbose: bool = False


class AskPrune(_Message, frozen=True, tag="ask-prune-by"):
    """Remove by ``policy`` what nobody holds, on every worker. -> Usages, of what was removed."""

    policy: PrunePolicy = PrunePolicy()
    verbose: bool = False


# --- manager -> client ------------------------------------------------------------------------


class Lack(_Message, frozen=True, tag="lack"):
    """Those of the trees asked for that are not here."""

    trees: tuple[WireDigest, ...]


class FoundImage(_Message, frozen=True, tag="found-image"):
    """The image is there.

    Attributes:
        manifest: digest of the image manifest.
        config: the image configuration, JSON.
    """

    name: Name
    manifest: Sha256
    config: Config


class NoImage(_Message, frozen=True, tag="no-image"):
    """The image ``name`` cannot be had; ``code`` is the registry's, or the worker's, word."""

    name: Name
    code: Text
    detail: Text


class Serve(_Message, frozen=True, tag="serve"):
    """Dial ``address`` on the data plane and serve ``tree`` under ``token`` until told to stop.

    Attributes:
        part: serve just what this leaves of ``tree``; None for all.
    """

    tree: WireDigest
    address: Address
    token: Token
    part: Selector | None = None


class StopServing(_Message, frozen=True, tag="stop-serving"):
    """The worker has what it needed under ``token``."""

    token: Token


class Warned(_Message, frozen=True, tag="warned"):
    """Something was left out, or is waited for, and the build goes on; a sentence for people."""

    text: Text


class Built(_Message, frozen=True, tag="built"):
    """The target is built; exports are in the order in which they were asked for.

    Attributes:
        content: the result's digest; None for an image that was pushed from registry to registry.
        pushed: what came of each push, in the order in which they were asked for.
        caches: one for each of ``cache_modes``, in their order.
        caches_pushed: one for each of ``cache_pushes``, in their order.
        manager_bytes: bytes that the manager has received and sent since this build began.
    """

    content: WireDigest | None
    exports: tuple[Exported, ...] = ()
    manager_bytes: tuple[Count, Count] = (0, 0)
    pushed: tuple[Pushed, ...] = ()
    caches: tuple[CacheMade, ...] = ()
    caches_pushed: tuple[CachePushed, ...] = ()


class BuildFailed(_Message, frozen=True, tag="build-failed"):
    """The build ended without a result.

    Attributes:
        position: the step at fault, or -1.
        exit_status: of the command that failed, if one did.
    """

    code: Text
    detail: Text
    position: int = -1
    exit_status: int | None = None
    tail: Text = ""


class WorkerRow(msgspec.Struct, frozen=True):
    """A worker as the manager sees it."""

    name: Text
    address: Address
    labels: Labels
    slots: Count
    running: Count
    refs: Count
    snapshotter: Text


class Workers(_Message, frozen=True, tag="workers"):
    """The workers, by name."""

    rows: tuple[WorkerRow, ...]


class Usages(_Message, frozen=True, tag="disk-usages"):
    """Disk use, by worker; and which workers did not answer, and why."""

    workers: tuple[tuple[Text, Usage], ...]
    failed: tuple[tuple[Text, Text], ...] = ()


class Denied(_Message, frozen=True, tag="denied"):
    """The manager will not do that: wrong version, malformed message."""

    code: Text
    detail: Text


NOT_KNOWN: Final = "not-known"
"""Why a client who goes on is denied: nothing that it waits for will come."""

FromClient = (
    Have
    | Nodes
    | StartBuild
    | EndBuild
    | Alive
    | ListWorkers
    | AskUsage
    | AskPrune
    | AskImage
    | AskUrl
    | AskGit
    | AgentSaid
    | TransferCache
)
ToClient = (
    Lack
    | Nodes
    | Alive
    | FoundImage
    | NoImage
    | FoundUrl
    | FoundCommit
    | NoUrl
    | Serve
    | StopServing
    | AskAgent
    | Event
    | Warned
    | Built
    | BuildFailed
    | Workers
    | Usages
    | CacheTransferred
    | Denied
)
ToManager = FromClient | FromWorker

_to_client: Final = msgspec.msgpack.Decoder(ToClient)
_to_manager: Final = msgspec.msgpack.Decoder(ToManager)


def encode(message: ToClient | FromClient | ToWorker, payload: bytes = b"") -> list[bytes]:
    """Return the frames of ``message``."""
    return framed(message, payload)


def decode_to_manager(frames: Frames) -> tuple[ToManager, bytes | memoryview]:
    """Return what a client or worker sent.

    Raises:
        MalformedMessage: for anything that ``encode`` cannot give.
    """
    return unframed(frames, _to_manager)


def decode_to_client(frames: Frames) -> tuple[ToClient, bytes | memoryview]:
    """Return what a manager sent to a client.

    Raises:
        MalformedMessage: for anything that ``encode`` cannot give.
    """
    return unframed(frames, _to_client)
