"""What one process has on offer, and the sessions in which it sends it."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, assert_never

from filesync.digest import Digest, short
from filesync.errors import FilesyncError, LocalError, UnexpectedMessage
from filesync.manifest import Manifest
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.flow import Flow
from filesync.transfer.send.offer import Offer, stand_in
from filesync.transfer.send.unsent import Unsent
from filesync.transfer.wire import (
    AskDeltas,
    AskRecipes,
    Buffer,
    Close,
    FromReceiver,
    Open,
    Refuse,
    Serve,
    Want,
)

if TYPE_CHECKING:
    from filesync.transfer.coding.recipecache import RecipeCache
    from filesync.transfer.send.fresh import Fresh
    from filesync.transfer.send.growing import GrowingTree
    from filesync.transfer.send.recent import Recent
    from filesync.transfer.send.send_zmq import Sending
    from filesync.transfer.send.source import Come, Source
    from filesync.transfer.send.source_disk import SourceTree

MAX_SESSIONS: Final = 64
"""Sessions that one peer may have open for us to send."""
MAX_STREAMS: Final = 16
"""Sessions at once, of all peers, whose frames may be coded as a stream: each takes 10 MB."""


class Outgoing:
    """The sending side of a data plane."""

    def __init__(
        self, pool: Executor, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._pool = pool
        self._spawn = spawn
        self._offers: dict[bytes, Offer] = {}
        self._sessions = 0
        self._unsent = Unsent()

    def offer(
        self,
        manifest: Manifest,
        root: Path,
        token: bytes | None,
        *,
        flow: Flow,
        recipes: "RecipeCache | None" = None,
        recent: "Recent | None" = None,
        files: Manifest | None = None,
        is_live: bool = False,
    ) -> Offer:
        """Offer ``manifest``'s files below ``root``; see ``DataPlane.offer``."""

        def open_source() -> "SourceTree":
            from filesync.transfer.send.contents import (
                Contents,
                PlacedContents,
                directories_of,
            )
            from filesync.transfer.send.source_disk import SourceTree

            def listed() -> Contents:
                if files is None:
                    return Contents(manifest.nodes, directories_of(manifest))
                return PlacedContents(manifest, files)

            return SourceTree(
                root,
                listed,
                recent,
                self.recipes if recipes is None else recipes,
                is_live=is_live,
            )

        return self._offer(manifest.tree, open_source, token, flow=flow)

    def offer_growing(
        self, growing: "GrowingTree | Fresh", root: Path, token: bytes, *, flow: Flow
    ) -> Offer:
        """Offer what is done of a tree; see ``DataPlane.offer_growing``."""

        def open_source() -> "SourceTree":
            from filesync.transfer.send.source_disk import SourceTree

            return SourceTree(
                root, lambda: growing.contents, growing.recent, growing.recipes, is_live=True
            )

        return self._offer(stand_in(token), open_source, token, flow=flow)

    def offer_coming(
        self, tree: Digest, source: "Source", come: "Come", token: bytes, *, flow: Flow
    ) -> Offer:
        """Offer what ``source`` has, as it comes; see ``DataPlane.offer_coming``."""
        return self._offer(tree, lambda: source, token, flow=flow, come=come)

    def _offer(
        self,
        tree: Digest,
        open_source: "Callable[[], Source]",
        token: bytes | None,
        *,
        flow: Flow,
        come: "Come | None" = None,
    ) -> Offer:
        offer = Offer(
            tree,
            open_source,
            token=token,
            flow=flow,
            forget=self._forget,
            come=come,
        )
        if offer.token in self._offers:
            raise LocalError("this token is on offer already")
        self._offers[offer.token] = offer
        return offer

    @cached_property
    def recipes(self) -> "RecipeCache":
        """Of what this side has cut itself, to send it."""
        from filesync.transfer.coding.recipecache import RecipeCache

        return RecipeCache()

    def close(self) -> None:
        """Close all offers."""
        for offer in list(self._offers.values()):
            offer.close()

    def take(self, channel: Channel, message: FromReceiver, payload: Buffer) -> None:
        """Take a receiver's message.

        Raises:
            UnexpectedMessage: the whole connection is to be dropped.
        """
        sending = channel.sends.get(message.session)
        match message:
            case Open():
                if sending is not None:
                    raise UnexpectedMessage("a session was opened twice")
                self._open(channel, message)
            case Want() | AskRecipes() | AskDeltas():
                # What comes for a session that has ended has crossed its end on the way.
                if sending is not None:
                    sending.take(message, payload)
            case Close():
                if sending is not None:
                    sending.end()
            case _:
                assert_never(message)

    def _open(self, channel: Channel, message: Open) -> None:
        offer = self._offers.get(message.token)
        error: FilesyncError
        if len(channel.sends) >= MAX_SESSIONS:
            # No honest peer comes here, and another may come without end.
            error = TooMuchWanted("too many sessions at once")
            channel.send_nowait(Refuse(message.session, error.code, str(error)))
            return
        if offer is None:
            error = NotOffered("this token is not on offer")
        elif offer.tree != message.tree:
            error = NotOffered(
                f"the tree on offer is {short(offer.tree)}, not the one asked for"
            )
        else:
            # Who gives what the other side has sends nothing: 10 ms less to start with.
            from filesync.transfer.send.send_zmq import Sending

            asked = Flow(message.compress, message.bytes_per_s)
            sending = Sending(
                message.session,
                channel,
                offer.open(),
                flow=offer.flow.stricter(asked),
                pool=self._pool,
                come=offer.come,
                may_stream=self._sessions < MAX_STREAMS,
                share=self._unsent.share(),
            )
            channel.sends[message.session] = sending
            self._sessions += 1
            # At once: the offer, and the session, may end before the task has begun.
            offer.on_close.append(sending.withdraw)
            self._spawn(self._run(channel, message.session, sending, offer))
            return
        channel.send_soon(Refuse(message.session, error.code, str(error)))

    def _forget(self, offer: Offer) -> None:
        del self._offers[offer.token]

    async def _run(
        self, channel: Channel, session: int, sending: "Sending", offer: Offer
    ) -> None:
        try:
            await sending.run()
        finally:
            self._sessions -= 1
            del channel.sends[session]
            if sending.withdraw in offer.on_close:
                offer.on_close.remove(sending.withdraw)


async def announce(channel: Channel, offer: Offer) -> None:
    """Tell the listener behind ``channel`` that it may open ``offer`` over it.

    Raises:
        Unavailable: the connection is lost.
    """
    await channel.send(Serve(offer.token))


async def serve_over(channel: Channel, offer: Offer) -> None:
    """Let the listener behind ``channel`` read ``offer`` until it is closed.

    Raises:
        FilesyncError: the connection is lost.
    """
    over = asyncio.Event()

    def note_lost(_: FilesyncError) -> None:
        over.set()

    channel.on_lost.append(note_lost)
    offer.on_close.append(over.set)
    try:
        await announce(channel, offer)
        if not offer.is_closed:
            await over.wait()
    finally:
        channel.on_lost.remove(note_lost)
        offer.on_close.remove(over.set)
    if channel.lost is not None and not offer.is_closed:
        raise channel.lost
