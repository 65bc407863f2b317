"""What can go wrong with a URL beside what can with any web server (``worker.registry.errors``)."""

from filesync.errors import FilesyncError, PeerError


class WrongChecksum(PeerError):
    """A URL gives something else than it should."""

    code = "url-checksum"

    def __init__(self, url: str, expected: str, actual: str) -> None:
        super().__init__(url, expected, actual)
        self.url = url
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return (
            f"{self.url}: it gives {self.actual}, and {self.expected} was expected; if its file"
            " is meant to have changed, change --checksum, or build again where there is none"
        )


class UrlNotModified(FilesyncError):
    """A URL gives a content that need not come: the one that its server calls ``etag``."""

    code = "url-not-modified"

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag
