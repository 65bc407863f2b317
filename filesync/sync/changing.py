"""Sources that change while they are synced: what is tried again, and what is left as it was.

A change is found where a file is read and found to be another than was scanned, or where what
arrives has not the digest that was scanned. Where that can be, the file is passed over, all else is
done, and the sync is begun again after that; else it is begun again at once. What has arrived is found
by the next scan and does not travel twice, and what has changed is scanned as it is now. A file that
spoils attempt after attempt is left out, and alone at the destination, so that all others arrive.
What is passed over again and again is synced alone, and copied as it is scanned: a file that is written
to ten times a second rests for as long as that takes, but not until it would be sent from where it
is. Where many are written to all the while, each costs an attempt, so that the others do arrive.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec.structs import replace

from filesync.disk.handles import shown
from filesync.errors import ContentCorrupt, RoomMade, SourceChanged
from filesync.sync.filter import in_force, literal, only
from filesync.sync.options import Options
from filesync.sync.part import Part
from filesync.transfer.errors import Refused

MAX_ATTEMPTS: Final = 256
PATIENT_ATTEMPTS: Final = 12
"""Later ones are spoilt once by one file: there are many that change."""
MAX_SPOILT: Final = 2
"""Attempts that one file may spoil, of the patient ones."""
FEW_WHOLE: Final = 2
"""Attempts at all there is that are done but for files that had changed by then; later ones are at
these alone, if they can be named."""
MAX_WHOLE: Final = 3
MAX_NARROW: Final = 6


class Attempts:
    """The attempts of one sync.

    Attributes:
        options: of the next one.
        is_narrow: that is at some files alone, whose changes were told of; nothing is deleted.
        left_out: paths, from the transfer's root on, that are left as they were.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.is_narrow = False
        self.left_out: list[bytes] = []
        self._rules = options.rules
        self._spoilt: Counter[bytes] = Counter()
        self._has_made_room = False
        self._partial = 0

    def go_on(self, behind: Sequence[bytes]) -> bool:
        """Begin again after an attempt that is done but for files that had changed, if that is worth it.

        ``behind`` has their paths, from the transfer's root on; nothing if there are too many.
        """
        self._partial += 1
        is_few = behind and self._partial >= FEW_WHOLE
        rules = only(behind, self._rules) if is_few else None
        listed = self.options.listed and self.options.listed.narrowed(behind)
        if rules is None:
            return self._partial < MAX_WHOLE
        if self._partial >= FEW_WHOLE + MAX_NARROW:
            return False
        self.is_narrow = True
        self.options = replace(
            self.options,
            rules=rules if listed is None else self._rules,
            listed=listed,
            delete=False,
            delete_excluded=False,
            afresh=True,
            on_changes=None,
        )
        return True

    def note(self, error: SourceChanged | ContentCorrupt | RoomMade) -> None:
        """Take note that a change, or a disk that was full, has spoilt the last one.

        Raises:
            SourceChanged, ContentCorrupt, RoomMade: ``error``, if another is not worth it.
        """
        if isinstance(error, RoomMade):
            if self._has_made_room:
                raise error
            self._has_made_room = True
            return
        path = error.path
        self._spoilt[path] += 1
        count = self._spoilt.total()
        if count >= MAX_ATTEMPTS:
            raise error
        if self._spoilt[path] < MAX_SPOILT and (count < PATIENT_ATTEMPTS or not path):
            return
        rule = literal(path) if path and path not in self.left_out else None
        if rule is None:
            raise error
        self.left_out.append(path)
        options = self.options
        self._rules = (rule, *in_force(self._rules))
        self.options = replace(
            options,
            rules=(rule, *in_force(options.rules)),
            spared=(rule, *options.spared),
        )


def changed(path: bytes) -> SourceChanged:
    """Return what says that a file of a source is another now than when it was scanned."""
    return SourceChanged(f"{shown(path)} changed while it was copied; run again", path)


@contextmanager
def changes_of(part: Part) -> Iterator[None]:
    """Raise what this side or a peer finds changed in ``part`` by its path in the transfer.

    Raises:
        SourceChanged: something changed.
        ContentCorrupt: what a peer was given has not the digest that it should have.
        RoomMade: a peer's disk was full, and may have room now.
    """
    try:
        yield
    except (SourceChanged, ContentCorrupt) as exc:
        if not exc.path or not part.prefix:
            raise
        raise type(exc)(str(exc), part.prefix + exc.path) from exc
    except Refused as exc:
        path = part.prefix + exc.path if exc.path else b""
        for kind in (SourceChanged, ContentCorrupt):
            if exc.reason == kind.code:
                raise kind(exc.detail, path) from exc
        if exc.reason == RoomMade.code:
            raise RoomMade(str(exc)) from exc
        raise
