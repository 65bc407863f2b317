"""What a scan of a sync's destination on a server does not show: what stands there, and may be written."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from filesync.errors import UsageError
from filesync.manifest import Nodes, is_name
from filesync.sync.filter import Filter
from filesync.sync.places import Place
from filesync.sync.plan import Plan
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import ask
from filesync.sync.unseen import UnseenOnDisk
from filesync.sync.unwritable import Unwritable, around
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.threads import in_thread

_ASKED_BYTES: Final = 128 << 10
"""Of paths in one request: its body has a bound."""


class UnseenThere:
    """Says what the server has said, and takes note of what it is still to be asked.

    So whoever plans with it plans again while an answer has told anything new: ``plan``.

    Args:
        channel: to the server.
        token: of what was prepared and scanned.
        filter: what the scan left out.
    """

    def __init__(self, channel: Channel, token: bytes, filter: Filter) -> None:
        self._channel = channel
        self._token = token
        self._filter = filter
        self._within: dict[bytes, bool | None] = {}
        self._at: dict[bytes, bool | None] = {}
        self._written: dict[bytes, int | None] = {}

    def is_in(self, path: bytes) -> bool:
        """Say whether anything is in the directory ``path``; not as long as nobody was asked."""
        return self._within.setdefault(path, None) or False

    def is_directory(self, path: bytes) -> bool:
        """Say whether ``path`` is a directory that the scan left out; as ``is_in``."""
        if not self._filter.excludes(path, is_directory=True):
            return False
        return self._at.setdefault(path, None) or False

    def why_unwritable(self, path: bytes) -> int:
        """Say why the directory ``path`` cannot be written (errno); 0 as ``is_in``."""
        return self._written.setdefault(path, None) or 0

    async def plan(
        self, make: Callable[[], Plan], nodes: Nodes
    ) -> tuple[Plan, Mapping[bytes, int]]:
        """Return the plan that ``make`` comes to with this, and what it may not write; see ``around``.

        Raises:
            Unavailable: see ``asking.ask``.
        """
        while True:
            plan = await in_thread(make)
            if await self._ask():
                continue
            plan, unwritable = await in_thread(around, plan, nodes, self.why_unwritable)
            if not await self._ask():
                return plan, unwritable

    async def _ask(self) -> bool:
        """Ask about all that has come up; say whether anything is there, or cannot be written."""
        is_any = False
        for within in _batches(self._within):
            request = wire.AskUnseen(self._token, within=within)
            answer, _ = await ask(self._channel, request, wire.Unseen)
            is_any |= _note(self._within, within, answer.within)
        for at in _batches(self._at):
            request = wire.AskUnseen(self._token, at=at)
            answer, _ = await ask(self._channel, request, wire.Unseen)
            is_any |= _note(self._at, at, answer.at)
        for written in _batches(self._written):
            request = wire.AskUnseen(self._token, written=written)
            answer, _ = await ask(self._channel, request, wire.Unseen)
            why = answer.unwritable
            self._written.update((path, why.get(at, 0)) for at, path in enumerate(written))
            is_any |= bool(why)
        return is_any


def _batches(asked: Mapping[bytes, int | None]) -> Iterator[tuple[bytes, ...]]:
    """Yield the paths that nothing is known of, as many at once as go into a request."""
    batch: list[bytes] = []
    for path in [path for path, known in asked.items() if known is None]:
        if len(path) > fields.MAX_PATH_BYTES:
            continue
        batch.append(path)
        if len(batch) == fields.MAX_PATHS or sum(map(len, batch)) > _ASKED_BYTES:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def _note(
    known: dict[bytes, bool | None], paths: tuple[bytes, ...], numbers: tuple[int, ...]
) -> bool:
    known.update((path, number in numbers) for number, path in enumerate(paths))
    return bool(numbers)


def answer_unseen(place: Place | None, filter: Filter, asked: wire.AskUnseen) -> wire.Unseen:
    """Return what is at ``place`` of what is asked for. Blocks.

    Args:
        place: what was scanned; None for what a dry run would make.
        filter: what the scan left out.
        asked: the request.

    Raises:
        UsageError: something asked for is no path below the place.
        StoreError: a directory cannot be read.
    """
    for path in (*asked.within, *asked.at, *(path for path in asked.written if path)):
        if not all(map(is_name, path.split(b"/"))):
            raise UsageError("something is asked for that is no path below the destination")
    if place is None:
        return wire.Unseen()
    with UnseenOnDisk(place, filter) as unseen, Unwritable(place.root) as unwritable:
        why = ((number, unwritable.why(path)) for number, path in enumerate(asked.written))
        return wire.Unseen(
            tuple(number for number, path in enumerate(asked.within) if unseen.is_in(path)),
            tuple(number for number, path in enumerate(asked.at) if unseen.is_directory(path)),
            {number: one for number, one in why if one},
        )
