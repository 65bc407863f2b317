"""Connections to registries.

Importing this takes httpx, which is slow: do it where it is needed.
"""

import logging
from typing import Final, Self

import httpx

from filesync.transfer.threads import in_thread
from worker.registry.config import Host, Registries, tls_context
from worker.registry.errors import BadRegistry
from worker.registry.trouble_http import trouble
from worker.wire.images import Credential, credential_for

# They log addresses, and a signed address is as good as a password.
for _noisy in ("httpx", "httpcore"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

CONNECT_S: Final = 10.0
SILENT_S: Final = 30.0
"""How long a registry may say nothing in the middle of an answer."""
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

    async def send(self, settings: Host, request: httpx.Request) -> httpx.Response:
        """Send one request; the caller closes the answer, whose body has not been read.

        Raises:
            Trouble: no answer came.
            RegistryError: none will.
        """
        client = await self._connected(settings)
        request.extensions = {"timeout": self._timeout.as_dict()}
        for name, value in _HEADERS.items():
            request.headers.setdefault(name, value)
        try:
            return await client.send(request, stream=True)
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


async def read_all(response: httpx.Response, limit: int) -> bytes:
    """Return a whole body.

    Raises:
        BadRegistry: it is longer than ``limit``.
    """
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > limit:
            raise BadRegistry(f"{response.url.host}: an answer of more than {limit} bytes")
    return bytes(body)
