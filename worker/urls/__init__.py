"""Files behind URLs, brought here. The module ``download_http`` takes httpx: import it late."""

from worker.urls.errors import UrlNotModified, WrongChecksum

__all__ = ["UrlNotModified", "WrongChecksum"]
