"""What ADD takes that is neither in a context nor in a stage: files and git repositories behind URLs."""

import posixpath
import re
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from solver.dockerfile.errors import Invalid
from solver.dockerfile.vertices import UNKNOWN_CHECKSUM, UNKNOWN_COMMIT
from worker.wire.ops import MAX_NAME_CHARS, MAX_PATH_CHARS, GitRef, GitSubdir
from worker.wire.urls import without_secrets

UNNAMED: Final = "__unnamed__"
"""What BuildKit calls a file whose URL has no name for it."""
_REMOTE: Final = re.compile(r"(https?|git|ssh)://|git@[^/]*:", re.IGNORECASE)
_CHECKSUM: Final = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_MAX_SHOWN: Final = 200


class RemoteFile(msgspec.Struct, frozen=True):
    """A file behind a URL.

    Attributes:
        name: by which it goes into a directory; ``UNNAMED`` where the URL says none.
        shown: the URL as people see it.
    """

    url: str
    name: str
    shown: str


class RemoteRepository(msgspec.Struct, frozen=True):
    """A commit of a git repository, or a directory in it.

    Attributes:
        ref: a branch, a tag or another ref; empty for the repository's HEAD.
        commit: the id, where that is said instead; else empty.
        shown: the URL as people see it.
    """

    url: str
    ref: str
    commit: str
    subdir: str
    shown: str


Remote = RemoteFile | RemoteRepository


def is_remote(word: str) -> bool:
    """Whether a source is a URL or a git repository."""
    return _REMOTE.match(word) is not None


def parse_remote(word: str, keyword: str) -> Remote:
    """Return the file or the repository that a source means: a repository's path ends in ``.git``.

    Raises:
        Invalid: it cannot be had; says what to do.
    """
    shown = without_secrets(word)[:_MAX_SHOWN]
    if keyword != "ADD":
        raise Invalid(f"{keyword} {shown}: use ADD for URLs", word)
    try:
        parts = urlsplit(word)
        is_address = bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        raise Invalid(f"ADD {shown}: not an address", word) from None
    if parts.scheme not in ("http", "https"):
        raise Invalid(
            f"ADD {shown}: a git repository is added by its https:// address, which ends in"
            " .git; or have a RUN --mount=type=ssh clone it where git is installed",
            word,
        )
    if not is_address or not word.isprintable() or " " in word:
        raise Invalid(f"ADD {shown}: not an address", word)
    url = parts._replace(scheme=parts.scheme.lower(), fragment="").geturl()
    if len(url) > MAX_PATH_CHARS:
        raise Invalid(f"ADD {shown}: longer than {MAX_PATH_CHARS} characters", word)
    if parts.path.endswith(".git"):
        return _repository(url, parts, word)
    return RemoteFile(url, _name(parts, word), without_secrets(word))


def check_checksum(text: str) -> None:
    """Raise Invalid unless ``text`` is a checksum that a file from a URL can have."""
    if text == UNKNOWN_CHECKSUM:
        raise Invalid("ADD --checksum: no file has a checksum of zeros alone", text)
    if _CHECKSUM.fullmatch(text) is None:
        raise Invalid(
            f"ADD --checksum={text[:80]}: write it as sha256: and 64 small hex digits,"
            " as `sha256sum` prints them",
            text,
        )


def commit_of(repository: RemoteRepository, checksum: str | None) -> str:
    """Return the commit that a Dockerfile says it means; ``UNKNOWN_COMMIT`` where it says none.

    Raises:
        Invalid: ``checksum`` is no commit, or another one than the URL has.
    """
    if checksum is not None and _COMMIT.fullmatch(checksum) is None:
        raise Invalid(
            f"ADD --checksum={checksum[:80]}: for a git repository write all 40 small hex digits"
            " of the commit, as `git rev-parse` prints them",
            checksum,
        )
    commit = repository.commit or checksum
    if commit and not commit.strip("0"):
        raise Invalid("ADD: no commit has an id of zeros alone", commit)
    if checksum and checksum != commit:
        raise Invalid(
            f"ADD {repository.shown[:_MAX_SHOWN]}: --checksum={checksum} is another commit",
            checksum,
        )
    return commit or UNKNOWN_COMMIT


def _repository(url: str, parts: SplitResult, word: str) -> RemoteRepository:
    shown = without_secrets(word)
    if parts.query:
        raise Invalid(
            f"ADD {shown[:_MAX_SHOWN]}: a git repository takes no '?'; say which branch, tag or"
            " commit, and which directory, behind .git, like #v1.2:docs",
            word,
        )
    ref, _, subdir = unquote(parts.fragment).partition(":")
    subdir = posixpath.normpath(subdir.strip("/") or ".")
    subdir = "" if subdir == "." else subdir
    if not _is(GitRef, ref):
        raise Invalid(
            f"ADD {shown[:_MAX_SHOWN]}: {ref[:80]!r} cannot name a branch or a tag", word
        )
    if not _is(GitSubdir, subdir):
        raise Invalid(f"ADD {shown[:_MAX_SHOWN]}: {subdir[:80]!r} is no directory in it", word)
    commit = ref if _COMMIT.fullmatch(ref) else ""
    return RemoteRepository(url, "" if commit else ref, commit, subdir, shown)


def _is(kind: Any, text: str) -> bool:  # noqa: ANN401
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True


def _name(parts: SplitResult, word: str) -> str:
    name = posixpath.basename(unquote(parts.path).rstrip("/"))
    if name in ("", ".", ".."):
        return UNNAMED
    if "\0" in name or len(name.encode()) > MAX_NAME_CHARS:
        raise Invalid(f"{name[:80]!r}, as this URL ends, cannot name a file", word)
    return name
