"""Downloads a file, with the same patience and bounds as what comes from registries.

Importing this takes httpx, which is slow: do it where it is needed.
"""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import httpx

from filesync.disk.handles import NEW_FLAGS
from filesync.errors import StoreError
from filesync.transfer.threads import acquired, in_thread
from worker.registry.blobs_http import blocks
from worker.registry.client_http import RegistryClient
from worker.registry.config import Host
from worker.registry.errors import BadRegistry, NotInRegistry, RegistryDenied
from worker.registry.meter import Meter
from worker.registry.retry import Failure, is_transient, retry_after_s
from worker.registry.trouble_http import Trouble, retrying, trouble
from worker.urls.download import Download, body_bytes, modified_s, strong_etag
from worker.urls.errors import UrlNotModified, WrongChecksum
from worker.wire.urls import FromUrl, UrlFile, without_secrets

MAX_FILE_BYTES: Final = 64 << 30
"""An answer may have no end."""
MAX_REDIRECTS: Final = 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


async def download(
    client: RegistryClient,
    order: FromUrl,
    path: Path,
    meter: Meter,
    *,
    max_bytes: int = MAX_FILE_BYTES,
) -> UrlFile:
    """Make the new file ``path`` what a URL gives: 0600, and as old as its server says.

    The bytes are those that the server sends: what it compresses stays so.

    Raises:
        UrlNotModified: it is one of the contents that need not come; nothing was written.
        WrongChecksum: it is not what the order says.
        RegistryError: it cannot be had; says what to do.
        StoreError: this disk cannot take it.
    """
    try:
        with await acquired(partial(_create, path), BinaryIO.close) as file:
            one = _Download(client, order, file, meter, max_bytes)
            found = await retrying(one.once)
            file.flush()
            os.utime(file.fileno(), (found.mtime_s, found.mtime_s))
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    if order.checksum and order.checksum != found.file.checksum:
        raise WrongChecksum(one.name, order.checksum, found.file.checksum)
    return found.file


def _create(path: Path) -> BinaryIO:
    return open(os.open(path, NEW_FLAGS, 0o600), "r+b")


class _Download:
    """One download, tried until it succeeds."""

    def __init__(
        self,
        client: RegistryClient,
        order: FromUrl,
        file: BinaryIO,
        meter: Meter,
        max_bytes: int,
    ) -> None:
        self.name = without_secrets(order.url)
        self._client = client
        self._order = order
        self._file = file
        self._meter = meter
        self._max_bytes = max_bytes

    async def once(self) -> Download:
        async with self._answer() as response:
            if response.status_code == 304 and self._order.etags:
                raise UrlNotModified(self._unchanged(response))
            self._check(response)
            checksum = await self._take(response)
            file = UrlFile(checksum, strong_etag(response.headers))
            return Download(file, modified_s(response.headers))

    def _unchanged(self, response: httpx.Response) -> str:
        """Return which of the contents that were named it is that has not changed."""
        etag = strong_etag(response.headers)
        if len(self._order.etags) == 1:
            return self._order.etags[0]
        if etag not in self._order.etags:
            raise BadRegistry(f"{self.name}: it says that nothing has changed, and not what")
        return etag

    # --- asking -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _answer(self) -> AsyncIterator[httpx.Response]:
        headers = {"If-None-Match": ", ".join(self._order.etags)} if self._order.etags else {}
        url = self._url(self._order.url, None)
        for _ in range(MAX_REDIRECTS + 1):
            request = httpx.Request("GET", url, headers=headers)
            response = await self._client.send(self._settings(url), request)
            try:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                url = self._url(response.headers.get("location", ""), url)
            except httpx.TransportError as exc:
                raise trouble(exc, self.name) from exc
            finally:
                await response.aclose()
        raise BadRegistry(f"{self.name}: more than {MAX_REDIRECTS} redirects")

    def _url(self, text: str, base: httpx.URL | None) -> httpx.URL:
        """Return the address ``text``, to which ``base`` redirects if it is given."""
        try:
            url = httpx.URL(text) if base is None else base.join(text)
        except httpx.InvalidURL:
            raise BadRegistry(
                f"{self.name}: {'it redirects to' if base else 'this is'} no address"
            ) from None
        if url.scheme not in ("http", "https") or not url.host:
            raise BadRegistry(f"{self.name}: it redirects to what is no web address")
        is_worse = base is not None and base.scheme == "https" and url.scheme == "http"
        if is_worse and not self._settings(url).http:
            raise BadRegistry(
                f"{self.name}: it redirects to {url.host} in plain HTTP, where anybody can change"
                " what comes; say that address in the Dockerfile if it is meant"
            )
        return url

    def _settings(self, url: httpx.URL) -> Host:
        return self._client.registries.of_named(url.netloc.decode())

    # --- what comes ---------------------------------------------------------------------------

    def _check(self, response: httpx.Response) -> None:
        """Raise what a status means that is no success."""
        status = response.status_code
        text = f"{self.name}: status {status}"
        if status == 200:
            return
        if status in (404, 410):
            raise NotInRegistry(f"{self.name}: not found (status {status}); is the URL right?")
        if status in (401, 403):
            raise RegistryDenied(
                f"{self.name}: it may not be read (status {status}); have a RUN fetch it with a"
                " --mount=type=secret, or put it into the context"
            )
        if is_transient(status):
            asked_s = retry_after_s(
                response.headers.get("retry-after", ""), now=datetime.now(UTC)
            )
            raise Trouble(Failure.ANSWERED, text, status=status, asked_s=asked_s)
        raise BadRegistry(f"{text}, which brings no file")

    async def _take(self, response: httpx.Response) -> str:
        """Write the body from the beginning; return its checksum."""
        length = body_bytes(response.headers)
        if (length or 0) > self._max_bytes:
            raise BadRegistry(
                f"{self.name}: {length} bytes; more than {self._max_bytes} are not taken"
            )
        sha256 = hashlib.sha256()
        size = 0

        def take(block: memoryview) -> None:
            self._file.write(block)
            sha256.update(block)

        self._file.seek(0)
        self._file.truncate()
        self._meter.done, self._meter.total = 0, length or 0
        async for block in blocks(response):
            size += len(block)
            if size > self._max_bytes:
                raise BadRegistry(f"{self.name}: it does not end after {self._max_bytes} bytes")
            await in_thread(take, block)
            if length is None:
                self._meter.expect(len(block))
            self._meter.add(len(block))
        return f"sha256:{sha256.hexdigest()}"
