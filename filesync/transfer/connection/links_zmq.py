"""The connections that a data plane has dialled."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import zmq.asyncio

from filesync.transfer.connection.address import check_address
from filesync.transfer.connection.link_zmq import Handle, Link
from filesync.transfer.stats import Counters

if TYPE_CHECKING:
    from filesync.keys.files import KeyPair
    from filesync.transfer.connection.guard_zmq import SocketGuard

GUARD_AFTER_S: Final = 0.1
"""A connection is guarded from then on, where nothing else is yet: a sync that is over by then has
no need of the guard's thread, which takes milliseconds."""


class Links:
    """One connection for each address, whatever goes over it.

    Args:
        context: owned by the caller, as all that follows.
        handle: is given each message.
        counters: of what comes and goes.
        spawn: runs a link until it is lost.
        own: what this process proves itself with where an address takes a key.
        guard: a listener's, who cuts these connections too; without one, this makes its own.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        handle: Handle,
        counters: Counters,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        *,
        own: "KeyPair | None",
        guard: "SocketGuard | None",
    ) -> None:
        self._context = context
        self._handle = handle
        self._counters = counters
        self._spawn = spawn
        self._own = own
        self._shared_guard = guard
        self._own_guard: SocketGuard | None = None
        self._links: dict[str, Link] = {}

    def to(self, address: str) -> Link:
        """Return the link to ``address``, dialling if there is none; it may not be greeted yet.

        Raises:
            UsageError: it is no address.
            Unavailable: this process has no room for another connection.
        """
        link = self._links.get(check_address(address))
        if link is None or link.channel.lost is not None:
            link = self._dialled(address)
        return link

    def close(self) -> None:
        """Close those that were never run; the others have ended by now."""
        for link in list(self._links.values()):
            link.close()
        if self._own_guard is not None:
            self._own_guard.close()

    def _dialled(self, address: str) -> Link:
        link = Link(self._context, address, self._handle, self._counters, own=self._own)
        self._links[address] = link
        link.channel.on_lost.append(lambda _: self._forget(address, link))
        self._spawn(link.run())
        wait_s = GUARD_AFTER_S if self._guard is None else 0.0
        asyncio.get_running_loop().call_later(wait_s, self._watch, link)
        return link

    def _forget(self, address: str, link: Link) -> None:
        if self._links.get(address) is link:
            del self._links[address]

    @property
    def _guard(self) -> "SocketGuard | None":
        return self._shared_guard or self._own_guard

    def _watch(self, link: Link) -> None:
        if link.channel.lost is None:
            link.watch(self._guard or self._new_guard())

    def _new_guard(self) -> "SocketGuard":
        from filesync.transfer.connection.guard_zmq import SocketGuard
        from filesync.transfer.connection.listener_zmq import LIMITS

        self._own_guard = SocketGuard(LIMITS, asyncio.get_running_loop())
        self._own_guard.start()
        return self._own_guard
