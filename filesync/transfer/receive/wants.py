"""Units that are to be wanted: from when it is known what has to come until a session wants it. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from filesync.digest import Digest
from filesync.disk.updating.update import WantedFile
from filesync.transfer.receive.units import Batch, Piece, Unit
from filesync.transfer.wire import MAX_WANT_RANGES

BATCH_BYTES: Final = 1 << 20
PIECE_BYTES: Final = 4 << 20


class Wants:
    """Small files in batches, and large ones of which a session is handed one piece after another.

    Attributes:
        gone: sessions that have ended.
    """

    def __init__(self) -> None:
        self.gone: set[int] = set()
        self._units: deque[Unit] = deque()
        self._batch: list[WantedFile] = []
        self._batch_bytes = 0

    def __len__(self) -> int:
        """Return how many units there are; a large file is one, before it is cut."""
        return len(self._units)

    def add(self, unit: Unit) -> None:
        """Take a unit that is to be wanted after the others."""
        self._units.append(unit)

    def add_first(self, unit: Unit) -> None:
        """Take a unit that is to be wanted next."""
        self._units.appendleft(unit)

    def add_small(self, files: Iterable[WantedFile]) -> None:
        """Take files that are to be wanted whole, many in a batch; then ``end_batch``."""
        for file in files:
            is_full = (
                self._batch_bytes + file.size > BATCH_BYTES
                or len(self._batch) == MAX_WANT_RANGES
            )
            if is_full:
                self.end_batch()
            self._batch.append(file)
            self._batch_bytes += file.size

    def end_batch(self) -> None:
        """Have what was added be wanted without more of them."""
        if self._batch:
            self._units.append(Batch(tuple(self._batch), self._batch_bytes))
            self._batch, self._batch_bytes = [], 0

    def take(
        self, session: int, room: int, *, most: int = PIECE_BYTES, is_idle: bool
    ) -> Unit | None:
        """Return what ``session`` is to want next, if anything is for it that fits.

        Args:
            session: its number.
            room: how many bytes may be wanted now.
            most: how many bytes the unit is to have, at most unless a small file has more.
            is_idle: nothing else is on its way. Then what is larger than ``room`` may go, or it
                would never come.
        """
        for _ in range(len(self._units)):
            unit = self._units[0]
            if isinstance(unit, Batch):
                batch, rest = _split(unit, most)
                if batch.size > room and not is_idle:
                    return None
                self._units.popleft()
                if rest is not None:
                    self._units.appendleft(rest)
                return batch
            if unit.work.only in (None, session):
                return self._cut_off(unit, room, most=most, is_idle=is_idle)
            self._units.rotate(-1)
        return None

    def give_back(self, units: Sequence[Unit]) -> None:
        """Take back what a session has not brought; they are the next ones."""
        for unit in reversed(units):
            if isinstance(unit, Piece):
                if unit.work.is_passed_over:
                    continue
                if unit.work.only in self.gone:
                    unit.work.only = None  # it ended before its last frame proved unreadable
            self._units.appendleft(unit)

    def forget(self, session: int) -> None:
        """Let others give what only ``session`` might: it is gone."""
        self.gone.add(session)
        for unit in self._units:
            if isinstance(unit, Piece) and unit.work.only == session:
                unit.work.only = None

    def drop(self, digest: Digest) -> list[WantedFile]:
        """Want nothing of this content any more; return the small files that have it."""
        dropped: list[WantedFile] = []
        units: deque[Unit] = deque()
        for unit in self._units:
            if isinstance(unit, Piece):
                if unit.work.file.digest != digest:
                    units.append(unit)
                continue
            if gone := [file for file in unit.files if file.digest == digest]:
                dropped += gone
                left = tuple(file for file in unit.files if file.digest != digest)
                unit = Batch(left, sum(file.size for file in left))
            if unit.files:
                units.append(unit)
        self._units = units
        return dropped

    def _cut_off(self, piece: Piece, room: int, *, most: int, is_idle: bool) -> Piece | None:
        whole = min(piece.size, most, PIECE_BYTES)
        size = min(whole, room)
        is_crumb = size < whole // 4
        if not size or (is_crumb and not is_idle):
            return None
        if size == piece.size:
            self._units.popleft()
        else:
            rest = Piece(piece.work, piece.offset + size, piece.size - size)
            self._units[0] = rest
        return Piece(piece.work, piece.offset, size)


def _split(batch: Batch, most: int) -> tuple[Batch, Batch | None]:
    """Return the first files of a batch, of ``most`` bytes or one at least, and the rest of it."""
    if batch.size <= most or len(batch.files) == 1:
        return batch, None
    size = batch.files[0].size
    count = 1
    while size + batch.files[count].size <= most:
        size += batch.files[count].size
        count += 1
    return Batch(batch.files[:count], size), Batch(batch.files[count:], batch.size - size)
