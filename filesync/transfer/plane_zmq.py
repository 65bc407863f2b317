"""The data plane of one process: everything that sends or receives file data goes through it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, assert_never

import zmq.asyncio

from filesync.digest import Digest
from filesync.errors import LocalError, Unavailable, UnexpectedMessage
from filesync.manifest import Manifest
from filesync.transfer.connection import calls_zmq
from filesync.transfer.connection.address import check_listen_address
from filesync.transfer.connection.calls_zmq import Answer
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.connection.links_zmq import Links
from filesync.transfer.connection.served import ServedTrees
from filesync.transfer.flow import WINDOW_BYTES, Flow
from filesync.transfer.replica import Replica
from filesync.transfer.send.offer import Offer
from filesync.transfer.send.outgoing_zmq import Outgoing, announce, serve_over
from filesync.transfer.stats import Counters, Progress, PullStats
from filesync.transfer.timeouts import Timeouts
from filesync.transfer.wire import (
    AskDeltas,
    AskRecipes,
    Buffer,
    Call,
    Close,
    Deltas,
    Frame,
    Hello,
    Message,
    Open,
    Opened,
    Ping,
    Recipes,
    Refuse,
    Reply,
    Serve,
    Want,
)

if TYPE_CHECKING:
    from filesync.keys.files import Allows, KeyPair
    from filesync.transfer.coding.recipecache import RecipeCache
    from filesync.transfer.connection.link_zmq import Link
    from filesync.transfer.connection.listener_zmq import Listener
    from filesync.transfer.receive.effects import Feed
    from filesync.transfer.receive.incoming_zmq import Incoming
    from filesync.transfer.receive.landing_disk import Update
    from filesync.transfer.receive.told import Told
    from filesync.transfer.send.fresh import Fresh
    from filesync.transfer.send.growing import GrowingTree
    from filesync.transfer.send.recent import Recent
    from filesync.transfer.send.source import Come, Source

THREADS: Final = 4
"""For all that is sent, and as many for all that is received."""

_CLOSED: Final = "this process has closed its data plane"
_DEFAULT: Final = Timeouts()
_ANY_FLOW: Final = Flow()


class DataPlane:
    """Sends what is on offer and pulls what updates want, over any number of connections.

    Use it as ``async with``: its sockets and tasks live as long as the block.

    Args:
        listen: address to be dialled at (``tcp://127.0.0.1:0`` takes a free port), or None.
        answer: answers the requests of another protocol (see ``calls_zmq``).
        own: what this process proves itself with to those whose addresses take a key.
        allows: if given, who may dial in, by their keys; all is encrypted then. It takes ``own``.
        allow_insecure: may listen off loopback without keys, where all can read what moves.
        window_bytes: what one pull has wanted and not written at most.

    Attributes:
        counters: what this process has sent and received.
    """

    def __init__(
        self,
        listen: str | None = None,
        *,
        answer: Answer | None = None,
        own: "KeyPair | None" = None,
        allows: "Allows | None" = None,
        allow_insecure: bool = False,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.counters = Counters()
        self._listen = listen
        if listen is not None:
            has_keys = allows is not None
            check_listen_address(listen, allow_insecure=allow_insecure, has_keys=has_keys)
        self._own = own
        self._allows = allows
        self._is_closed = False
        self._answer = answer
        self._window_bytes = window_bytes
        self._served = ServedTrees()
        self._listener: Listener | None = None
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()

    # --- life -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        # Updates may keep a disk busy for minutes: who is sent to would think that this side is gone.
        self._sending = ThreadPoolExecutor(THREADS, thread_name_prefix="filesync-send")
        self._receiving = ThreadPoolExecutor(THREADS, thread_name_prefix="filesync-receive")
        self._outgoing = Outgoing(self._sending, self._spawn)
        if self._listen is not None:
            try:
                self._listener = self._listening(self._listen)
            except BaseException:
                self._context.destroy(linger=0)
                raise
        await self._tasks.__aenter__()
        if self._listener is not None:
            self._spawn(self._listener.run())
            self._spawn(self._listener.ping())
        self._links = Links(
            self._context,
            self._handle,
            self.counters,
            self._spawn,
            own=self._own,
            guard=None if self._listener is None else self._listener.guard,
        )
        return self

    def _listening(self, address: str) -> "Listener":
        # Its first peer is not to wait for what a command that dials may never need.
        for name in ("receive.incoming_zmq", "send.send_zmq"):
            import_module(f"filesync.transfer.{name}")
        from filesync.transfer.connection.listener_zmq import Listener

        return Listener(
            self._context,
            address,
            self._handle,
            self.counters,
            own=self._own,
            allows=self._allows,
        )

    async def __aexit__(self, *_: object) -> None:
        self._is_closed = True
        self._outgoing.close()
        for task in self._running:
            task.cancel()
        try:
            # Not with the block's own exception: the group would wrap it.
            await self._tasks.__aexit__(None, None, None)
        finally:  # whoever waits for this may have been cancelled meanwhile
            self._links.close()
            if self._listener is not None:
                self._listener.close(Unavailable(_CLOSED))
            self._sending.shutdown(wait=True, cancel_futures=True)
            self._receiving.shutdown(wait=True, cancel_futures=True)
            self._context.term()

    @property
    def address(self) -> str:
        """Where others can dial this process; with its key, if they need it.

        Raises:
            LocalError: it does not listen.
        """
        if self._listener is None:
            raise LocalError("this data plane does not listen")
        return self._listener.address

    # --- sending ----------------------------------------------------------------------------

    def offer(
        self,
        manifest: Manifest,
        root: Path,
        token: bytes | None = None,
        *,
        flow: Flow = _ANY_FLOW,
        recipes: "RecipeCache | None" = None,
        recent: "Recent | None" = None,
        files: Manifest | None = None,
        is_live: bool = False,
    ) -> Offer:
        """Let whoever knows the token read ``manifest``'s files below ``root``.

        Close the offer when it is over.

        Args:
            manifest: what may be read.
            root: where it stands.
            token: what names the offer; picked at random without it.
            flow: what each session keeps to at least.
            recipes: of contents that were cut already; else those of all offers together.
            recent: contents of the tree that need not be read again.
            files: the tree that stands at ``root``, if that is another: has all contents.
            is_live: others may write to the files, which have the times that ``manifest`` says: by
                these a change is found before anything of it is sent, and it is known of which.
        """
        return self._outgoing.offer(
            manifest,
            root,
            token,
            flow=flow,
            recipes=recipes,
            recent=recent,
            files=files,
            is_live=is_live,
        )

    def offer_growing(
        self,
        growing: "GrowingTree | Fresh",
        root: Path,
        token: bytes,
        *,
        flow: Flow = _ANY_FLOW,
    ) -> Offer:
        """Offer what is done of a tree that is still being scanned; else as ``offer``.

        Its digest is not known: who pulls it asks for the token's ``stand_in``.
        """
        return self._outgoing.offer_growing(growing, root, token, flow=flow)

    def offer_coming(self, tree: Digest, source: "Source", come: "Come", token: bytes) -> Offer:
        """Offer contents of ``tree`` that may still be on their way here; else as ``offer``.

        A session waits for ``come`` before it reads what it is asked for. ``source`` is closed
        with the offer.
        """
        return self._outgoing.offer_coming(tree, source, come, token, flow=_ANY_FLOW)

    @property
    def recipes(self) -> "RecipeCache":
        """The recipes of what was cut for offers that have none of their own."""
        return self._outgoing.recipes

    async def serve_to(self, address: str, offer: Offer) -> None:
        """Dial ``address`` and let it read ``offer`` over that connection, until it is closed.

        For a process that cannot be dialled itself. Cancel it, or close the offer, when the
        other side has what it wants. It hears of the offer along with the greeting.

        Raises:
            Unavailable: nobody answers there, or the connection is lost.
        """
        await serve_over(self.dial(address), offer)

    async def announce(self, channel: Channel, offer: Offer) -> None:
        """Tell the listener behind ``channel`` that it may open ``offer`` over it.

        Raises:
            Unavailable: the connection is lost.
        """
        await announce(channel, offer)

    # --- pulling ----------------------------------------------------------------------------

    async def pull(
        self,
        update: "Update",
        replicas: Sequence[Replica],
        *,
        tree: Digest,
        standby: Sequence[Replica] = (),
        progress: Callable[[Progress], None] | None = None,
        timeouts: Timeouts = _DEFAULT,
        flow: Flow = _ANY_FLOW,
        feed: "Feed | None" = None,
        told: "Told | None" = None,
    ) -> PullStats:
        """Fetch all that ``update`` wants from ``replicas``, several of them at once.

        What one that fails, or is much slower than the others, has not brought is fetched from
        another, from the middle of a file if need be. Prepares and finishes ``update``; on any
        error, and when cancelled, aborts it. Nobody is asked for anything when nothing is wanted.

        Args:
            update: where the files go (``TreeUpdate``).
            replicas: where they may be had, best first.
            tree: what the replicas' offers must be: the tree whose contents are wanted.
            standby: replicas that are asked when none of the others is left, or if they turn out
                to be much faster.
            progress: called in this task after each write; must not block.
            timeouts: how long to wait for each replica.
            flow: what the replicas are asked to keep to.
            feed: returns what more is wanted, and whether that is all; without it, what
                ``update.wanted`` yields is wanted.
            told: how to make contents out of the update's old files; what comes out right is not
                asked for. Not with ``feed``.

        Raises:
            Unavailable: no replica could give all of it; the last one's reason.
            PeerError: as above, and the reason was a breach of the protocol.
            StoreError: this disk.
        """
        return await self._incoming.pull(
            update,
            replicas,
            tree=tree,
            standby=standby,
            progress=progress,
            timeouts=timeouts,
            flow=flow,
            feed=feed,
            told=told,
        )

    async def cut_ahead(self, digest: Digest, opening: Callable[[], int]) -> None:
        """Cut what ``opening`` opens, which should hold ``digest``, before what became of it is pulled.

        Files are cut one after another, beside all that is pulled; a pull that needs one meanwhile
        waits for it. A file that holds something else costs bytes.

        Raises:
            OSError, FilesyncError: by ``opening``, in a thread.
        """
        await self._incoming.cut_ahead(digest, opening)

    @cached_property
    def _incoming(self) -> "Incoming":
        # Who only sends needs nothing of what receives: 20 ms less to start with.
        from filesync.transfer.receive.incoming_zmq import Incoming

        return Incoming(self._receiving, self._reach, window_bytes=self._window_bytes)

    async def _reach(self, replica: Replica, is_only: bool, timeouts: Timeouts) -> Channel:
        if replica.channel is not None:
            if replica.channel.lost is not None:
                raise replica.channel.lost
            return replica.channel
        if replica.address is None:
            return await self._served.wait_for(replica.token, timeouts.serve_s)
        if is_only:
            return self.dial(replica.address, timeouts=timeouts)
        return await self.connect(replica.address, timeouts=timeouts)

    # --- connections ------------------------------------------------------------------------

    async def connect(self, address: str, *, timeouts: Timeouts = _DEFAULT) -> Channel:
        """Return the connection to ``address``, dialling if there is none.

        Raises:
            UsageError: it is no address.
            Unavailable: nobody answers there, or this data plane is closed.
        """
        deadline = asyncio.get_running_loop().time() + timeouts.opening_s
        return await self._link(address).greeted(deadline)

    def dial(self, address: str, *, timeouts: Timeouts = _DEFAULT) -> Channel:
        """Return the connection to ``address`` as ``connect`` does, but before it has answered.

        A few bytes can be sent meanwhile (see ``Channel.send``): they go along with the greeting,
        which saves a round trip. If nobody answers the connection is lost.

        Raises:
            UsageError: it is no address.
            Unavailable: this data plane is closed.
        """
        link = self._link(address)
        if link.channel.greeting is not None:
            asyncio.get_running_loop().call_later(timeouts.opening_s, link.expire)
        return link.channel

    def _link(self, address: str) -> "Link":
        if self._is_closed:
            raise Unavailable(_CLOSED)
        return self._links.to(address)

    def _handle(self, channel: Channel, message: Message, payload: Buffer) -> None:
        """Take one message of a peer that has greeted.

        Raises:
            PeerError: the whole connection is to be dropped.
        """
        match message:
            case Open() | Want() | AskRecipes() | AskDeltas() | Close():
                self._outgoing.take(channel, message, payload)
            case Opened() | Frame() | Recipes() | Deltas() | Refuse():
                # What comes for a session that has ended has crossed its end on the way.
                if receiving := channel.receives.get(message.session):
                    receiving.take(message, payload)
            case Serve(token):
                self._served.note(channel, token)
            case Call():
                self._spawn(calls_zmq.answer(channel, message, self._answer))
            case Reply():
                if waiting := channel.calls.get(message.call):
                    waiting.take(message, payload)
            case Ping():
                pass
            case Hello():
                raise UnexpectedMessage("Hello came twice")
            case _:
                assert_never(message)

    # --- tasks ------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._is_closed:
            # Nothing would cancel it, and the end of the data plane waits for all tasks.
            work.close()
            return
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
