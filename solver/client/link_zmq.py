"""A client's connection to the manager."""

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, Self, TypeVar

import zmq
import zmq.asyncio

from filesync.errors import NodeMissing, UsageError
from filesync.keys.files import KeyPair
from filesync.manifest import Manifest
from filesync.transfer.connection.address import key_in, without_key
from filesync.transfer.connection.channel_zmq import HANDSHAKE_EVENTS
from filesync.transfer.connection.curve_zmq import dial, wait_for_failure
from filesync.transfer.connection.link_zmq import unknown_host
from solver.client.progress import told_if_long
from solver.client.unknown import Unknown
from solver.errors import BuildError, CutOff, ManagerLost
from solver.wire import (
    NOT_KNOWN,
    Alive,
    AskGit,
    AskImage,
    AskUrl,
    Denied,
    FoundCommit,
    FoundImage,
    FoundUrl,
    FromClient,
    Have,
    Lack,
    NoImage,
    NoUrl,
    ToClient,
    decode_to_client,
    encode,
)
from worker.wire import framing, orders

if TYPE_CHECKING:
    from filesync.transfer.connection.guard_zmq import Unguarded

K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=ToClient)
Found = TypeVar("Found")

ANSWER_S: Final = 10.0
"""How long the manager may take to say that it is alive, or what it has."""
MOVES_BYTES: Final = 2 << 10
"""Which must move in that time where it does not answer: more than both say to be heard. Over a slow link
an answer takes longer, and so does what it is the answer to."""
ALIVE_EVERY_S: Final = 2.0
SILENCE_S: Final = 2.5 * ALIVE_EVERY_S
"""After which a person is told that the manager is waited for."""
IMAGES_AT_ONCE: Final = 8
"""Whose registries are asked at a time."""
URLS_AT_ONCE: Final = 8
"""That workers are told to find out about at a time."""
_FORGOTTEN: Final = frozenset({NOT_KNOWN, NodeMissing.code})
"""Codes of what a manager says when what came before has not reached it, or is of its past."""


class ManagerLink:
    """One DEALER to the manager. ``async with ManagerLink(address) as link``.

    It dials when it is entered and says that it is there; whether somebody answers turns out when
    an answer is first waited for. What is sent before goes along with the greeting: over a slow
    link that saves the three round trips that a greeting takes.

    Raises, on entering:
        NotLetIn: the address takes a key, and there is none.
        UsageError: ``address`` is not one.

    What waits for an answer raises, the first time:
        ManagerLost: nobody answers at ``address``.
        NotLetIn: keys do not fit.
        UnknownHost: nobody knows the name in ``address``.
    """

    def __init__(
        self,
        address: str,
        own: KeyPair | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``tell`` is told of a manager that is waited for."""
        self.address = address
        self._tell = tell
        self._own = own
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._monitor: zmq.asyncio.Socket | None = None
        self._said_s = 0.0
        self._connection: Unguarded | None = None
        self._moved_bytes = 0

    async def __aenter__(self) -> Self:
        self._socket.linger = 500
        self._socket.setsockopt(zmq.MAXMSGSIZE, framing.MAX_PAYLOAD_BYTES)
        try:
            self._monitor = self._socket.get_monitor_socket(
                HANDSHAKE_EVENTS | zmq.EVENT_CONNECTED
            )
            dial(self._socket, self.address, self._own)
            await self.send(Alive())
        except zmq.ZMQError as exc:
            self._close()
            raise UsageError(f"{self.address!r} is no address like tcp://host:port") from exc
        except BaseException:
            self._close()
            raise
        return self

    async def meet(self) -> None:
        """Hear from the manager once, or why it does not let this client in."""
        if self._monitor is None:
            return
        asking = asyncio.create_task(self._answer(Alive))
        failing = asyncio.create_task(
            wait_for_failure(self._monitor, self.address, self._own, self._note_connected)
        )
        tasks = (asking, failing)
        try:
            with told_if_long(self._tell, f"waiting for the manager at {self._where}"):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise failing.result()
            asking.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._stop_monitor()

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def send(self, message: FromClient, payload: bytes = b"") -> None:
        """Send a message."""
        self._said_s = time.monotonic()
        await self._socket.send_multipart(encode(message, payload))

    async def receive(self) -> tuple[ToClient, bytes | memoryview]:
        """Return the next message; says every few seconds that this client is there, and asks the same.

        However much comes meanwhile: a manager that hears nothing of its client ends the build.

        Raises:
            CutOff: the manager has been silent for too long, or has forgotten this client.
        """
        await self.meet()
        heard_s = time.monotonic()
        is_told = False
        while True:
            left_s = self._said_s + ALIVE_EVERY_S - time.monotonic()
            if left_s <= 0:
                await self.send(Alive(goes_on=True))
                continue
            # Not a timeout around the receipt: cancelled, it may have taken a message already.
            if not await self._socket.poll(max(1, int(1000 * left_s))):
                silent_s = time.monotonic() - heard_s
                if silent_s > SILENCE_S and self._moves():
                    heard_s = time.monotonic()
                elif silent_s > ANSWER_S:
                    raise self._silent()
                elif silent_s > SILENCE_S and not is_told:
                    self._tell(f"nothing comes from the manager at {self._where}; waiting")
                    is_told = True
                continue
            frames = await self._socket.recv_multipart()
            message, payload = decode_to_client(frames)
            match message:
                case Alive():
                    heard_s = time.monotonic()
                    is_told = False
                case Denied(code, detail) if code in _FORGOTTEN:
                    raise self._forgotten(detail)
                case _:
                    return message, payload

    async def ask(self, question: FromClient, kind: type[T]) -> T:
        """Send a question and return its answer, the next message of type ``kind``.

        That may take as long as the manager says that it is there: to prune takes minutes.

        Raises:
            ManagerLost: nobody answers.
            CutOff: the manager has been silent for too long, or has forgotten this client.
            UsageError: the manager denied it.
        """
        await self.send(question)
        while True:
            message, _ = await self.receive()
            if isinstance(message, kind):
                return message
            if isinstance(message, Denied):
                raise _refused(message)

    async def _answer(self, kind: type[T]) -> T:
        """Return what a manager has to say at once."""
        until_s = time.monotonic() + ANSWER_S
        while (left_s := until_s - time.monotonic()) > 0 or self._moves():
            if left_s <= 0:
                until_s = time.monotonic() + ANSWER_S
                continue
            if not await self._socket.poll(1 + int(1000 * left_s)):
                continue
            message, _ = decode_to_client(await self._socket.recv_multipart())
            if isinstance(message, kind):
                return message
            if isinstance(message, Denied):
                if message.code in _FORGOTTEN:
                    raise self._forgotten(message.detail)
                raise _refused(message)
        if self._monitor is not None and (unknown := await unknown_host(self.address)):
            raise unknown
        raise self._silent()

    def _note_connected(self, fd: int) -> None:
        if not self.address.startswith("tcp://"):
            return
        from filesync.transfer.connection.guard_zmq import Unguarded  # others need none of it

        self._connection, self._moved_bytes = Unguarded(fd), 0

    def _moves(self) -> bool:
        """Say whether the connection has carried something since the last time that this was so."""
        moved_bytes = 0 if self._connection is None else sum(self._connection.moved())
        if moved_bytes - self._moved_bytes < MOVES_BYTES:
            return False
        self._moved_bytes = moved_bytes
        return True

    @property
    def _where(self) -> str:
        return without_key(self.address)

    def _silent(self) -> ManagerLost | CutOff:
        if self._monitor is not None:
            from filesync.transfer.connection.unix import state_of  # 5 ms, of every start

            allow = " --allow FILE" if key_in(self.address) else ""
            options = f"--listen {self._where}{allow} --state DIR"
            if state := state_of(self.address):
                options = f"--state {state}"
            return ManagerLost(
                f"no manager answers at {self._where}; start one with"
                f" `filesync manager {options}`, or leave --manager out"
            )
        return CutOff(
            f"the manager at {self._where} does not answer any more",
            "see that it runs and can be reached, and run this again",
        )

    def _forgotten(self, detail: str) -> CutOff:
        return CutOff(
            f"the manager at {self._where} knows nothing of this any more: {detail}",
            "run it again",
        )

    async def ask_images(
        self, questions: Sequence[AskImage]
    ) -> Mapping[str, FoundImage | BuildError]:
        """Return what images' names mean, or why each cannot be had; registries may take their time.

        Raises:
            CutOff: the manager has been silent for too long.
            BuildError: it would not look.
        """

        def answer(message: ToClient) -> tuple[str, FoundImage | BuildError] | None:
            match message:
                case FoundImage(name):
                    return name, message
                case NoImage(name, code, detail):
                    return name, BuildError(code, detail)
                case _:
                    return None

        return await self._ask_all({one.name: one for one in questions}, answer, IMAGES_AT_ONCE)

    async def ask_urls(
        self, questions: Sequence[AskUrl | AskGit]
    ) -> Mapping[int, FoundUrl | FoundCommit | BuildError]:
        """Return by number what URLs give, or why one gives nothing; they may take their time.

        Raises:
            CutOff: the manager has been silent for too long.
            BuildError: it would not look.
        """

        def answer(
            message: ToClient,
        ) -> tuple[int, FoundUrl | FoundCommit | BuildError] | None:
            match message:
                case FoundUrl(number) | FoundCommit(number):
                    return number, message
                case NoUrl(number, code, detail):
                    return number, BuildError(code, detail)
                case _:
                    return None

        return await self._ask_all({one.number: one for one in questions}, answer, URLS_AT_ONCE)

    async def _ask_all(
        self,
        questions: Mapping[K, FromClient],
        answer: Callable[[ToClient], tuple[K, Found] | None],
        at_once: int,
    ) -> dict[K, Found]:
        """Send questions, some at a time, and return the answers, which come in any order."""
        left = iter(questions.values())
        found: dict[K, Found] = {}
        for question in islice(left, at_once):
            await self.send(question)
        while len(found) < len(questions):
            message, _ = await self.receive()
            if isinstance(message, Denied):
                raise BuildError(message.code, message.detail)
            answered = answer(message)
            if answered is None or answered[0] not in questions or answered[0] in found:
                continue
            found[answered[0]] = answered[1]
            if (following := next(left, None)) is not None:
                await self.send(following)
        return found

    async def send_trees(self, manifests: Iterable[Manifest]) -> None:
        """Make sure that the manager has the nodes of all ``manifests``."""
        trees = [Unknown(manifest) for manifest in manifests]
        while asking := [(tree, some) for tree in trees if (some := tree.question())]:
            for _, some in asking:
                await self.send(Have(some))
            await self.meet()
            for tree, _ in asking:
                tree.answered((await self._answer(Lack)).trees)
        for tree in trees:
            for pack in tree.packs():
                await self.send(orders.Nodes(), pack)

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._monitor = None

    def _close(self) -> None:
        self._stop_monitor()
        self._socket.close()
        self._context.term()


def _refused(denied: Denied) -> UsageError:
    return UsageError(f"the manager refused: {denied.detail}")
