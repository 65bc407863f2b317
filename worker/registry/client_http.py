"""Connections to registries.

Importing this takes httpx, which is slow: do it where it is needed.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Final, Self

import httpx

from filesync.transfer.threads import in_thread
from worker.registry.config import Host, Registries, tls_context
from worker.registry.errors import BadRegistry
from worker.registry.retry import Failure
from worker.registry.trouble_http import Trouble, trouble
from worker.wire.images import Credential, credential_for

# They log addresses, and a signed address is as good as a password.
for _noisy in ("httpx", "httpcore"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

CONNECT_S: Final = 10.0
SILENT_S: Final = 30.0
"""How long a registry may say nothing in the middle of an answer."""
SLOW_BYTES: Final = 4 << 10
"""Who sends less in that time is as good as silent, and could go on so for days."""
_HEADERS: Final = {"User-Agent": "filesync/0.1", "Accept-Encoding": "identity"}


class RegistryClient:
    """Connections to registries for one user. ``async with RegistryClient(…) as client``.

    Args:
        registries: how to reach which.
        credentials: each is shown to its own host, or to whom that one names as its judge.
        silent_s: see ``SILENT_S``.
    """

    def __init__(
        self,
        registries: Registries,
        credentials: tuple[Credential, ...] = (),
        *,
        silent_s: float = SILENT_S,
    ) -> None:
        self.registries = registries
        self._credentials = credentials
        self._silent_s = silent_s
        self._timeout = httpx.Timeout(silent_s, connect=CONNECT_S, pool=None)
        self._clients: dict[Host, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    def credential(self, host: str) -> Credential | None:
        """Return what may be shown to ``host``."""
        return credential_for(host, self._credentials)

    async def send(
        self, settings: Host, request: httpx.Request, *, patience_s: float = 0.0
    ) -> httpx.Response:
        """Send one request; the caller closes the answer, whose body has not been read.

        ``patience_s`` is how much longer than usual the registry may take to answer.

        Raises:
            Trouble: no answer came.
            RegistryError: none will.
        """
        client = await self._connected(settings)
        timeout = self._timeout.as_dict()
        silent_s = timeout["read"] = self._silent_s + patience_s
        request.extensions = {"timeout": timeout}
        for name, value in _HEADERS.items():
            request.headers.setdefault(name, value)
        # A body takes as long as it takes; the headers of an answer do not.
        is_short = isinstance(request.stream, httpx.ByteStream)
        try:
            async with asyncio.timeout(2 * CONNECT_S + silent_s if is_short else None):
                return await client.send(request, stream=True)
        except TimeoutError as exc:
            text = f"{request.url.netloc.decode()}: it fell silent"
            raise Trouble(Failure.STALLED, text) from exc
        except httpx.TransportError as exc:
            raise trouble(exc, request.url.netloc.decode()) from exc

    async def _connected(self, settings: Host) -> httpx.AsyncClient:
        client = self._clients.get(settings)
        if client is None:
            verify = await in_thread(tls_context, settings)
            # Two that come here at once make two, and the second is never used.
            client = self._clients.setdefault(
                settings, httpx.AsyncClient(verify=verify, timeout=self._timeout)
            )
        return client


async def pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield a body as it comes.

    Raises:
        Trouble: it trickles.
        httpx.TransportError: it broke off.
    """
    silent_s: float = response.request.extensions["timeout"]["read"]
    came, waited_s = 0, 0.0
    begun_s = time.monotonic()
    async for piece in response.aiter_raw():
        came += len(piece)
        waited_s += time.monotonic() - begun_s
        if waited_s >= silent_s:
            if came < SLOW_BYTES:
                text = f"{response.url.host}: {came} bytes came in {waited_s:.0f} s"
                raise Trouble(Failure.STALLED, text)
            came, waited_s = 0, 0.0
        yield piece
        begun_s = time.monotonic()  # what is done with a piece is not its sender's time


async def read_all(response: httpx.Response, limit: int) -> bytes:
    """Return a whole body.

    Raises:
        BadRegistry: it is longer than ``limit``.
    """
    body = bytearray()
    async for piece in pieces(response):
        body += piece
        if len(body) > limit:
            raise BadRegistry(f"{response.url.host}: an answer of more than {limit} bytes")
    return bytes(body)
