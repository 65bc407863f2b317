"""What ADD takes that is neither in a context nor in a stage: files behind URLs."""

import posixpath
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from solver.dockerfile.errors import Invalid
from solver.dockerfile.vertices import UNKNOWN_CHECKSUM
from worker.wire.ops import MAX_NAME_CHARS, MAX_PATH_CHARS
from worker.wire.urls import without_secrets

UNNAMED: Final = "__unnamed__"
"""What BuildKit calls a file whose URL has no name for it."""
_REMOTE: Final = re.compile(r"(https?|git|ssh)://|git@[^/]*:", re.IGNORECASE)
_CHECKSUM: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file behind a URL.

    Attributes:
        name: by which it goes into a directory; ``UNNAMED`` where the URL says none.
        shown: the URL as people see it.
    """

    url: str
    name: str
    shown: str


def is_remote(word: str) -> bool:
    """Whether a source is a URL or a git repository."""
    return _REMOTE.match(word) is not None


def parse_remote(word: str, keyword: str) -> RemoteFile:
    """Return the file that a source means.

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
    if parts.scheme not in ("http", "https") or parts.path.endswith(".git"):
        raise Invalid(
            f"ADD {shown}: git repositories are not supported yet; clone it beside the"
            " Dockerfile and COPY it, or `RUN git clone` it where git is installed",
            word,
        )
    if not is_address or not word.isprintable() or " " in word:
        raise Invalid(f"ADD {shown}: not an address", word)
    url = parts._replace(scheme=parts.scheme.lower(), fragment="").geturl()
    if len(url) > MAX_PATH_CHARS:
        raise Invalid(f"ADD {shown}: longer than {MAX_PATH_CHARS} characters", word)
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


def _name(parts: SplitResult, word: str) -> str:
    name = posixpath.basename(unquote(parts.path).rstrip("/"))
    if name in ("", ".", ".."):
        return UNNAMED
    if "\0" in name or len(name.encode()) > MAX_NAME_CHARS:
        raise Invalid(f"{name[:80]!r}, as this URL ends, cannot name a file", word)
    return name
