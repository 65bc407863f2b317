"""What has been read to be sent, and is in memory until the kernel has it."""

import asyncio
import weakref
from collections import deque
from typing import Final

from filesync.transfer.wire import Buffer

MOST_FRAMES: Final = 128
"""Of a MiB each, all sessions of a process together: a dozen have as many as make them fastest. Beyond
that each has one."""
_FIRST_PAUSE_S: Final = 0.0005
_LAST_PAUSE_S: Final = 0.05


class Unsent:
    """Counts the frames of all sessions of a process. For the loop's thread."""

    def __init__(self, most_frames: int = MOST_FRAMES) -> None:
        self.most_frames = most_frames
        self._frames = 0
        self._gone: deque[Share] = deque()  # ZeroMQ lets go of frames in threads of its own

    def share(self) -> "Share":
        """Return what counts for one more session."""
        return Share(self)

    def has_room(self) -> bool:
        """Say whether there is room for one more frame."""
        while self._gone:
            self._gone.popleft().count(-1)
        return self._frames < self.most_frames

    def count(self, frames: int) -> None:
        """Count so many more, or less, of a session."""
        self._frames += frames

    def gone_with(self, view: memoryview, share: "Share") -> None:
        """Count one less of a session when nobody has ``view`` any more."""
        weakref.finalize(view, self._gone.append, share)


class Share:
    """The frames of one session."""

    def __init__(self, unsent: Unsent) -> None:
        self._unsent = unsent
        self._frames = 0
        self._read_frames = 0

    def may_read(self) -> bool:
        """Say whether one more frame may be read: there is room, or this has none in memory."""
        return self._unsent.has_room() or not self._frames

    def count(self, frames: int) -> None:
        """Count so many more, or less."""
        self._frames += frames
        self._unsent.count(frames)

    def begin(self) -> None:
        """A frame is being read."""
        self._read_frames += 1
        self.count(1)

    def sent(self, payload: Buffer) -> memoryview:
        """Return the payload of a frame that was begun, to be sent as this: until then it counts."""
        self._read_frames -= 1
        view = memoryview(payload)
        self._unsent.gone_with(view, self)
        return view

    async def room(self) -> None:
        """Wait until a frame may be read."""
        pause_s = _FIRST_PAUSE_S
        while not self.may_read():
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LAST_PAUSE_S)

    def close(self) -> None:
        """Frames that were begun will not be sent. Idempotent."""
        self.count(-self._read_frames)
        self._read_frames = 0
