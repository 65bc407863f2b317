"""What a client and a manager say to each other of files and git repositories behind URLs.

The messages are part of ``solver.wire``, and the rules for changing them are its.
"""

import msgspec

from worker.wire.images import Count, Sha256
from worker.wire.ops import Commit, FileName, GitRef, Text, Url
from worker.wire.urls import without_secrets


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class AskUrl(_Message, frozen=True, tag="ask-url"):
    """What does ``url`` give now? A worker asks, and keeps it as the file ``name``.

    -> FoundUrl or NoUrl.

    Attributes:
        number: the client's own, which the answer has.
    """

    number: Count
    url: Url
    name: FileName

    def __repr__(self) -> str:
        return f"AskUrl({self.number}, {without_secrets(self.url)!r})"


class FoundUrl(_Message, frozen=True, tag="found-url"):
    """A worker holds what the URL gives, whose content has this checksum.

    Attributes:
        bytes_moved: what had to come for it; None where it was held already.
    """

    number: Count
    checksum: Sha256
    bytes_moved: Count | None = None


class AskGit(_Message, frozen=True, tag="ask-git"):
    """Which commit is ``ref`` of the repository ``url`` now? A worker asks. -> FoundCommit or NoUrl.

    Attributes:
        number: the client's own, which the answer has.
        ref: empty for the repository's HEAD.
    """

    number: Count
    url: Url
    ref: GitRef = ""

    def __repr__(self) -> str:
        return f"AskGit({self.number}, {without_secrets(self.url)!r}, {self.ref!r})"


class FoundCommit(_Message, frozen=True, tag="found-commit"):
    """The ref is this commit; ``ref`` is its whole name, empty for a HEAD that is no branch."""

    number: Count
    commit: Commit
    ref: GitRef = ""


class NoUrl(_Message, frozen=True, tag="no-url"):
    """The URL gives nothing that can be used; ``code`` is its server's, or the worker's, word."""

    number: Count
    code: Text
    detail: Text
