"""What the headers of a download mean. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from worker.wire.urls import MAX_ETAG_CHARS, UrlFile

_STRONG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
_MAX_TIME_S: Final = 1 << 33
"""A file system cannot keep every time that a server can say; this one is in the year 2242."""


class Download(msgspec.Struct, frozen=True):
    """A file that has come.

    Attributes:
        mtime_s: when its server says that it was changed; 1970 where it says nothing.
    """

    file: UrlFile
    mtime_s: int


def strong_etag(headers: Mapping[str, str]) -> str:
    """Return the entity tag of an answer if it stands for these very bytes; else ''."""
    etag = headers.get("etag", "").strip()
    return etag if len(etag) <= MAX_ETAG_CHARS and _STRONG.fullmatch(etag) else ""


def modified_s(headers: Mapping[str, str]) -> int:
    """Return the time of the header Last-Modified; 0 where there is none that could be kept."""
    try:
        when = parsedate_to_datetime(headers.get("last-modified", ""))
        seconds = int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0
    return kept_time_s(seconds)


def kept_time_s(seconds: int) -> int:
    """Return a time that a stranger has said; 0 where a file system could not keep it."""
    return seconds if 0 <= seconds <= _MAX_TIME_S else 0


def body_bytes(headers: Mapping[str, str]) -> int | None:
    """Return how long an answer says that its body is; None where it does not."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
