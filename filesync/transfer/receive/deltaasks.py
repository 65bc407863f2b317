"""Deltas that are to be asked for: gaps from when they are found until somebody asks. Pure."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from filesync.digest import Digest
from filesync.transfer.coding.delta import Pieces
from filesync.transfer.receive.units import DeltaAsk, Gap, SignGaps
from filesync.transfer.wire import MAX_ASK_ITEMS, MAX_DELTAS_BYTES, MAX_SIGNATURES

FEW_BYTES: Final = 512 << 10
"""Gaps of less than this together can wait for more: each ask has its price."""
SIGNED_BYTES: Final = 16 << 20
"""Gaps that are signed ahead of the asks: what they replace is held in memory until it is taken."""
PLANNED_BYTES: Final = 64 << 20
"""Gaps that are known ahead, signed or not: with more no recipe is asked for. Each chunk of theirs takes
some 150 bytes; of a large file that has changed throughout they would take a hundredth of its size,
and the old bytes, signed at once, all of it."""


class DeltaAsks:
    """Gaps, which are signed some at once, and then asked for."""

    def __init__(self) -> None:
        self._gaps: deque[Gap] = deque()
        self._gap_bytes = 0  # of those
        self._signed_bytes = 0  # of gaps that are being signed, and of the asks
        self._asks: deque[DeltaAsk] = deque()

    @property
    def is_full(self) -> bool:
        """So much is known ahead that no more should be looked for."""
        return self._gap_bytes + self._signed_bytes >= PLANNED_BYTES

    @property
    def next(self) -> DeltaAsk | None:
        """What can be asked now."""
        return self._asks[0] if self._asks else None

    def __len__(self) -> int:
        """Return how many asks there are, or will be of gaps that are not being signed yet."""
        return len(self._asks) + self._gap_bytes // MAX_DELTAS_BYTES

    def drop(self, digest: Digest) -> list[Gap]:
        """Return the gaps of this content; nobody will ask for them."""
        dropped = [gap for gap in self._gaps if gap.file.digest == digest]
        self._gaps = deque(gap for gap in self._gaps if gap.file.digest != digest)
        self._gap_bytes -= sum(gap.size for gap in dropped)
        asks: deque[DeltaAsk] = deque()
        for ask in self._asks:
            if gone := [gap for gap in ask.gaps if gap.file.digest == digest]:
                self._signed_bytes -= sum(gap.size for gap in gone)
                dropped += gone
                left = tuple(gap for gap in ask.gaps if gap.file.digest != digest)
                ask = DeltaAsk(ask.key, left)
            if ask.gaps:
                asks.append(ask)
        self._asks = asks
        return dropped

    def add(self, gap: Gap) -> None:
        """Take a gap that is to be asked for."""
        self._gaps.append(gap)
        self._gap_bytes += gap.size

    def to_sign(self, *, more_come: bool) -> list[SignGaps]:
        """Return what is to be signed now, as much at once as fits into one ask.

        Where ``more_come``, a few wait for them.
        """
        found: list[SignGaps] = []
        if more_come and self._gap_bytes < FEW_BYTES:
            return found
        while self._gaps and self._signed_bytes < SIGNED_BYTES:
            batch = [self._gaps.popleft()]
            size = batch[0].size
            while self._gaps and size + self._gaps[0].size <= MAX_DELTAS_BYTES:
                size += self._gaps[0].size
                batch.append(self._gaps.popleft())
            self._gap_bytes -= size
            self._signed_bytes += size
            found.append(SignGaps(tuple(batch)))
        return found

    def signed(
        self, gaps: Sequence[Gap], key: int, pieces: Sequence[Pieces | None]
    ) -> list[Gap]:
        """Take the signatures of what ``gaps`` replace; return those that are not to be asked for.

        There are no old bytes for them any more, or they are passed over.
        """
        left: list[Gap] = []
        batch: list[Gap] = []
        size = count = 0
        for gap, signed in zip(gaps, pieces, strict=True):
            if signed is None or not signed.count or gap.is_passed_over:
                self._signed_bytes -= gap.size
                left.append(gap)
                continue
            gap.pieces = signed
            is_full = (
                size + gap.size > MAX_DELTAS_BYTES or count + signed.count > MAX_SIGNATURES
            )
            if batch and (is_full or len(batch) == MAX_ASK_ITEMS):
                self._asks.append(DeltaAsk(key, tuple(batch)))
                batch, size, count = [], 0, 0
            batch.append(gap)
            size += gap.size
            count += signed.count
        if batch:
            self._asks.append(DeltaAsk(key, tuple(batch)))
        return left

    def take(self) -> DeltaAsk:
        """Return ``next``, which is asked now."""
        ask = self._asks.popleft()
        self._signed_bytes -= ask.size
        return ask

    def give_back(self, ask: DeltaAsk) -> None:
        """Take back what was asked of one who has not answered; it is the next one."""
        if left := tuple(gap for gap in ask.gaps if not gap.is_passed_over):
            ask = DeltaAsk(ask.key, left)
            self._asks.appendleft(ask)
            self._signed_bytes += ask.size
