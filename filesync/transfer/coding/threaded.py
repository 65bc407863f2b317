"""Looking at a file in a thread while a scan hashes it: it is read once, and two cores have work."""

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor

from filesync.digest import Digest


class Threaded(ABC):
    """Looks at one file; a ``filesync.disk.scanning.watcher.Beside``."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._block: Future[None] | None = None

    @abstractmethod
    def look_at(self, block: memoryview) -> None:
        """Look at ``block``, which comes next; it is not to be kept."""

    @abstractmethod
    def keep(self, digest: Digest) -> None:
        """Keep what came of it, as that of ``digest``: the file was whole."""

    def begin(self, block: memoryview) -> None:
        """Have ``block`` looked at, which comes next, while the caller goes on."""
        self._block = self._thread.submit(self.look_at, block)

    def finish(self) -> None:
        """Return when the block is not needed any more."""
        assert self._block is not None
        self._block.result()

    def end(self, digest: Digest | None) -> None:
        """Keep what came of it, unless the file changed meanwhile."""
        self._thread.shutdown()
        if digest is not None:
            self.keep(digest)
