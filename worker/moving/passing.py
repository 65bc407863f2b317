"""What is passed on while it comes.

Who takes the same blobs (``passedblobs``), or the same tree (``passedtree``), as this worker, and
began later, takes them from here: whoever has them gives them once, however many workers want
them. What is passed on is not verified yet: whoever takes it verifies it, as this worker does.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from filesync.digest import Digest, short
from filesync.disk.content import read_piece
from filesync.errors import Unavailable
from worker.moving.prefix import Prefix

BEGIN_S: Final = 2.0
"""How long it may take until something is on its way here; whoever waits has others to ask."""


class PassedFile:
    """What has come of one content. One thread writes it, others read."""

    def __init__(self, on_come: Callable[[], None]) -> None:
        """``on_come`` is called, by the thread that writes, when there is more to read."""
        self._on_come = on_come
        self._lock = threading.Lock()
        self._fd = -1
        self._come = Prefix()

    def begin(self, fd: int) -> None:
        """Read from ``fd``, which is dupped, what is noted from now on."""
        with self._lock:
            self._close()
            self._fd, self._come = os.dup(fd), Prefix()

    def note(self, offset: int, length: int) -> None:
        """Take note that these bytes are written; each is once."""
        with self._lock:
            self._come.note(offset, length)
        self._on_come()

    def has(self, end: int) -> bool:
        """Say whether all up to ``end`` has come."""
        return self._come.end >= end

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that have come; none where they have not, or the file is closed. Blocks."""
        with self._lock:
            if self._fd < 0 or not self.has(offset + length):
                return b""
            return read_piece(self._fd, offset, length)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Tree:
    """Where a tree is, or comes to, as long as any block is about it."""

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.blocks = 0


class ComingTree:
    """A tree on its way here, for whoever has it come."""

    def __init__(self, passing: "Passing", on_come: Callable[[], None]) -> None:
        self._passing = passing
        self.on_come = on_come
        """To be called, by any thread, when more of its files are whole."""

    def coming(self, content: Digest) -> AbstractContextManager[PassedFile]:
        """Pass a file of it on while the block runs, at whose end it has its name. For any thread."""
        return self._passing.passed(content, self.on_come)


class Passing:
    """What is on its way here, and who waits for it. For one event loop."""

    def __init__(self, *, begin_s: float = BEGIN_S) -> None:
        self._begin_s = begin_s
        self._files: dict[Digest, PassedFile] = {}
        self._trees: dict[Digest, _Tree] = {}
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    @contextmanager
    def coming(self, content: Digest) -> Iterator[PassedFile]:
        """Pass a content on while the block runs, which has it in the blob store at its end."""
        with self.passed(content, self._waker()) as file:
            yield file

    @contextmanager
    def passed(self, content: Digest, on_come: Callable[[], None]) -> Iterator[PassedFile]:
        """Pass a content on while the block runs, in any thread; ``on_come`` is for any, too."""
        file = self._files[content] = PassedFile(on_come)
        try:
            yield file
        finally:
            with self._lock:
                if self._files.get(content) is file:  # it may come twice at once
                    del self._files[content]
            file.close()
            on_come()

    @contextmanager
    def asked_for(self, tree: Digest) -> Iterator[None]:
        """Pass a tree on while the block runs, from where it comes to, or has come to meanwhile."""
        with self._about(tree):
            yield

    @contextmanager
    def coming_tree(self, tree: Digest, directory: Path) -> Iterator[ComingTree]:
        """Have a tree come to ``directory``.

        Unless that fails it is read there after the block, too: whoever takes it may be behind.
        What has become of the directory by then is seen by what is read.
        """
        with self._about(tree) as found:
            found.directory = directory
            self._wake()
            try:
                yield ComingTree(self, self._waker())
            except BaseException:
                if found.directory == directory:  # it may come twice at once
                    found.directory = None
                    self._wake()
                raise

    @contextmanager
    def _about(self, tree: Digest) -> Iterator[_Tree]:
        # A thread may end what the loop began.
        with self._lock:
            found = self._trees.setdefault(tree, _Tree())
            found.blocks += 1
        try:
            yield found
        finally:
            with self._lock:
                found.blocks -= 1
                if not found.blocks:
                    del self._trees[tree]

    def find(self, content: Digest) -> PassedFile | None:
        """Return a content that is on its way here. For any thread."""
        return self._files.get(content)

    def directory_of(self, tree: Digest) -> Path | None:
        """Return where a tree is, or comes to. For any thread."""
        found = self._trees.get(tree)
        return None if found is None else found.directory

    async def until(self, is_here: Callable[[], bool], what: Digest) -> None:
        """Wait until as much of a content, or of a tree, as is asked for ``is_here``.

        Raises:
            Unavailable: it is not on its way.
        """
        loop = asyncio.get_running_loop()
        begin_by_s = loop.time() + self._begin_s
        while True:
            change = loop.create_future()
            # Before anybody looks: what comes meanwhile is not missed.
            self._waiting.add(change)
            try:
                if is_here():
                    return
                is_coming = what in self._files or self.directory_of(what) is not None
                async with asyncio.timeout_at(None if is_coming else begin_by_s):
                    await change
            except TimeoutError as exc:
                raise Unavailable(f"{short(what)} is not on its way here") from exc
            finally:
                self._waiting.discard(change)

    def _waker(self) -> Callable[[], None]:
        """Return what wakes whoever waits, for any thread."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            if self._waiting:
                loop.call_soon_threadsafe(self._wake)

        return wake

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
