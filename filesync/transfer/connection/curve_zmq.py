"""CURVE on ZeroMQ's sockets: who listens has a key and a list of those it lets in, who dials has both keys.

Works on any socket, the control plane's too.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import zmq
import zmq.asyncio

from filesync.errors import LocalError
from filesync.transfer.connection.address import parse_address
from filesync.transfer.connection.channel_zmq import HANDSHAKE_EVENTS
from filesync.transfer.connection.strangers import Strangers
from filesync.transfer.errors import GreetingBroken, NotLetIn

if TYPE_CHECKING:
    from filesync.keys.files import Allows, KeyPair, PublicKey

log = logging.getLogger(__name__)

_DOMAIN: Final = "filesync"
GREETINGS: Final = 5
"""Greetings that may be broken off before keys are thought not to fit; a tenth of a second apart."""


def dial(socket: zmq.asyncio.Socket, address: str, own: "KeyPair | None") -> None:
    """Connect ``socket`` to ``address``; with ``own`` if it names a key.

    Raises:
        UsageError: it is no address.
        NotLetIn: it names a key, and this process has none itself.
        zmq.ZMQError: ZeroMQ does not take it.
    """
    endpoint, server_key = parse_address(address)
    if server_key is not None:
        if own is None:
            raise NotLetIn(f"{address} takes a key to connect to, and this process has none")
        socket.curve_serverkey = server_key
        socket.curve_publickey = own.public
        socket.curve_secretkey = own.secret
    socket.connect(endpoint)


def handshake_failure(
    event: int, address: str, own: "KeyPair | None"
) -> NotLetIn | GreetingBroken:
    """Return what an event of HANDSHAKE_EVENTS means to whoever has dialled ``address``."""
    endpoint, server_key = parse_address(address)
    kind = GreetingBroken if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL else NotLetIn
    if server_key is None or own is None:
        return kind(
            f"{endpoint} broke off the greeting: if it uses keys, dial it with its own before the "
            "@, as it prints it when it starts, tcp://KEY@host:port; else try again"
        )
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return NotLetIn(
            f"{endpoint} does not know this machine's key; add this line to the allow file "
            f"there, then try again: {own.public.hex()}"
        )
    return kind(
        f"{endpoint} broke off the greeting: try again; if it does so each time, it has another key "
        f"than {server_key.hex()}, or uses none: dial it as it prints its address when it starts"
    )


class Gate:
    """Lets those through to a context's listening sockets whose keys are allowed.

    Start it before the first socket listens, and stop it after the last one has been closed.
    """

    def __init__(self, context: zmq.asyncio.Context, own: "KeyPair", allows: "Allows") -> None:
        # 10 ms of imports, for those who use keys.
        from zmq.auth.asyncio import AsyncioAuthenticator

        self._own = own
        self._allows = allows
        self._strangers = Strangers()
        self._authenticator = AsyncioAuthenticator(
            context, log=logging.getLogger(f"{__name__}.zap")
        )
        self._authenticator.configure_curve_callback(_DOMAIN, self)
        self._authenticator.start()

    def guard(self, socket: zmq.asyncio.Socket) -> None:
        """Have ``socket``, not bound yet, let in only whom this allows."""
        socket.curve_server = True
        socket.curve_secretkey = self._own.secret
        socket.zap_domain = _DOMAIN.encode()
        # Without it a socket whose gate is gone lets everyone in.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def callback(self, domain: str, key: bytes) -> bool:
        """Answer the authenticator."""
        public = _from_z85(key)
        if is_allowed := self._allows(public):
            log.debug("peer let in: key=%s", public.hex())
        else:
            self._tell(public)
        return is_allowed

    def _tell(self, key: "PublicKey") -> None:
        if (told := self._strangers.note(key, monotonic())) is not None:
            log.warning(
                "peer not let in, its key is not allowed: key=%s count=%d others=%d",
                key.hex(),
                told.times,
                told.others,
            )

    def is_still_open(self, key: "PublicKey") -> bool:
        """Say whether who was let in with ``key`` would be let in now."""
        return self._allows(key)

    def stop(self) -> None:
        """Let nobody in any more."""
        self._authenticator.stop()


def key_of(frame: zmq.Frame) -> "PublicKey":
    """Return the key that whoever sent ``frame`` to a guarded socket has proved to have."""
    user = frame.get("User-Id")
    if not isinstance(user, str):
        raise LocalError("a message came past the gate")
    return _from_z85(user.encode())


def _from_z85(key: bytes) -> "PublicKey":
    from zmq.utils import z85

    from filesync.keys.files import PublicKey

    return PublicKey(z85.decode(key))


async def wait_for_failure(
    monitor: zmq.asyncio.Socket,
    address: str,
    own: "KeyPair | None",
    on_connected: Callable[[int], None],
) -> NotLetIn | GreetingBroken:
    """Return why no handshake succeeds, by what comes from ``monitor``; ZeroMQ dials again by itself.

    ``on_connected`` is told the descriptor of each connection.
    """
    from zmq.utils.monitor import recv_monitor_message

    broken = 0
    while True:
        told = await recv_monitor_message(monitor)
        if (event := told["event"]) == zmq.EVENT_CONNECTED:
            on_connected(told["value"])
        if not event & HANDSHAKE_EVENTS:
            continue
        failure = handshake_failure(event, address, own)
        broken += 1
        if not isinstance(failure, GreetingBroken) or broken == GREETINGS:
            return failure
