"""Files and git repositories behind URLs: what a worker can be told of them, and how a URL is shown.

A URL may hold a password or a signature, so that what a person or a log is to see of it goes
through ``without_secrets``, and what has one in it does not show it with ``repr``.

The messages are part of ``worker.wire.orders``, and the rules for changing them are its.
"""

import re
from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from worker.wire.ops import Commit, FileName, GitRef, GitSubdir, Sha256, Url

MAX_ETAGS: Final = 8
MAX_ETAG_CHARS: Final = 1024
_USER: Final = re.compile(r"(https?://)[^\s/?#\"']*@", re.IGNORECASE)
_QUERY: Final = re.compile(r"(https?://[^\s?#\"']*)\?[^\s\"']*", re.IGNORECASE)

ETag = Annotated[str, msgspec.Meta(max_length=MAX_ETAG_CHARS)]


def without_secrets(text: str) -> str:
    """Return ``text`` with nothing in its URLs that may be a secret: who asks, and queries."""
    return _QUERY.sub(r"\1?xxxxx", _USER.sub(r"\1xxxxx:xxxxx@", text))


class UrlFile(msgspec.Struct, frozen=True):
    """What is known of a file that came from a URL.

    Attributes:
        checksum: of its content.
        etag: what its server calls this content; empty unless that means these very bytes.
    """

    checksum: Sha256
    etag: ETag = ""


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class FromUrl(_Message, frozen=True, tag="url"):
    """Download a file, which is then the only one of the input.

    Attributes:
        name: of the file.
        checksum: what its content must have; empty for any.
        etags: of contents that need not come again.
    """

    url: Url
    name: FileName
    checksum: Sha256 | None = None
    etags: Annotated[tuple[ETag, ...], msgspec.Meta(max_length=MAX_ETAGS)] = ()

    def __repr__(self) -> str:
        return f"FromUrl({without_secrets(self.url)!r})"


class ResolveUrl(_Message, frozen=True, tag="resolve-url"):
    """Find out what a URL gives now, and keep it under ``key``. -> Ran or UrlUnchanged.

    Attributes:
        etags: of contents that some worker holds.
    """

    url: Url
    name: FileName
    key: WireDigest
    etags: Annotated[tuple[ETag, ...], msgspec.Meta(max_length=MAX_ETAGS)] = ()

    def __repr__(self) -> str:
        return f"ResolveUrl({without_secrets(self.url)!r})"


class UrlUnchanged(_Message, frozen=True, tag="url-unchanged"):
    """It gives what it gave before: the content that the server calls ``etag``."""

    etag: ETag


class FromGit(_Message, frozen=True, tag="from-git"):
    """Fetch a commit, whose tree, or a directory of it, is the input. See ``GitOp``."""

    url: Url
    commit: Commit
    subdir: GitSubdir = ""
    keep_git_dir: bool = False
    ref: GitRef = ""

    def __repr__(self) -> str:
        return f"FromGit({without_secrets(self.url)!r}, {self.commit!r})"


class ResolveGit(_Message, frozen=True, tag="resolve-git"):
    """Find out which commit a ref of a repository is now; the empty one is its HEAD. -> GitFound."""

    url: Url
    ref: GitRef = ""

    def __repr__(self) -> str:
        return f"ResolveGit({without_secrets(self.url)!r}, {self.ref!r})"


class GitFound(_Message, frozen=True, tag="git-found"):
    """What a ref is now, and its whole name; that is empty for a HEAD that is no branch."""

    commit: Commit
    ref: GitRef = ""
