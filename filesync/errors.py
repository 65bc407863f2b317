"""What can go wrong while moving trees, split by whose fault it is."""

from typing import ClassVar


class FilesyncError(Exception):
    """Base of every error filesync raises on purpose. ``str()`` is a sentence for a person."""

    code: ClassVar[str] = "filesync"
    """Stable name used on the wire and in metrics; never reused, never renamed."""


class Ended(BaseException):
    """A signal, as KeyboardInterrupt is for SIGINT; when all is put away the process ends by it.

    Attributes:
        number: of the signal, which does what it does by default by now.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class LocalError(FilesyncError):
    """We broke the contract: a bug in this process. Never retried."""

    code = "local"


class UsageError(FilesyncError):
    """What the user asked for cannot be done; the sentence says what to do instead."""

    code = "usage"


class PeerError(FilesyncError):
    """The peer broke the protocol. Drop its session; the process goes on."""

    code = "peer"


class MalformedMessage(PeerError):
    """Bytes that no version of this protocol can mean."""

    code = "malformed-message"


class UnexpectedMessage(PeerError):
    """A message is legal, but not in this state."""

    code = "unexpected-message"


class ContentCorrupt(PeerError):
    """A peer's bytes do not have the digest they were asked for by.

    Attributes:
        path: of the file that they are of, from the updated root on; b"" where it is not known.
    """

    code = "content-corrupt"

    def __init__(self, detail: str, path: bytes = b"") -> None:
        super().__init__(detail)
        self.path = path


class MalformedManifest(PeerError):
    """A directory node breaks a rule of its format: order, names, caps, canonical form."""

    code = "malformed-manifest"


class StoreError(FilesyncError):
    """This disk: no space, no permission, rotten bytes. ``str()`` names the path."""

    code = "store"


class RoomMade(StoreError):
    """This disk was full, and what was to go from it has gone since. Begin again, once."""

    code = "room-made"


class NodeMissing(StoreError):
    """A manifest refers to a directory node that this store does not hold."""

    code = "node-missing"


class Unreadable(StoreError):
    """This process may not, or cannot, read a file or directory.

    Attributes:
        detail: the sentence, which names the path.
        path: from the scanned root on.
        errno: why, as the system says it.
    """

    code = "unreadable"

    def __init__(self, detail: str, path: bytes, errno: int) -> None:
        super().__init__(detail, path, errno)
        self.detail = detail
        self.path = path
        self.errno = errno

    def __str__(self) -> str:
        return self.detail


class SourceChanged(FilesyncError):
    """A file changed again and again while it was read, or after it was scanned; run again.

    Attributes:
        detail: the sentence, which names the path.
        path: from the scanned root on; b"" where it is not known.
    """

    code = "source-changed"

    def __init__(self, detail: str, path: bytes) -> None:
        super().__init__(detail, path)
        self.detail = detail
        self.path = path

    def __str__(self) -> str:
        return self.detail


class PathMissing(FilesyncError):
    """A selector names a path that the tree does not have; ``advice`` says what to do about it."""

    code = "path-missing"

    def __init__(self, path: str, advice: str = "") -> None:
        super().__init__(path)
        self.path = path
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.path!r} is not there" + (f"; {self.advice}" if self.advice else "")


class TooManyLinks(UsageError):
    """A path leads over more links than a path may, in a circle perhaps."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path!r}: too many links on the way, or a circle of them"


class Unavailable(FilesyncError):
    """A peer is silent, gone, or no longer has what it offered. Try another replica."""

    code = "unavailable"
