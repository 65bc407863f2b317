"""One repository of a registry: requests, redirects, and what an answer's status means."""

import contextlib
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

import httpx
import msgspec

from filesync.decoding import UNDECODABLE
from worker.registry.client_http import RegistryClient, read_all
from worker.registry.config import Host
from worker.registry.errors import BadRegistry, NotInRegistry, RegistryError
from worker.registry.login_http import Login
from worker.registry.retry import Failure, is_transient, retry_after_s
from worker.registry.trouble_http import Trouble, trouble
from worker.wire.images import DOCKER_HOST, Reference, parse_reference

log = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 5
_MAX_ANSWER_BYTES: Final = 1 << 20
_API_HOSTS: Final = {DOCKER_HOST: "registry-1.docker.io"}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

T = TypeVar("T")
Body = Callable[[], AsyncGenerator[bytes, None]]
"""Gives a request's body, from its beginning each time; whoever takes it closes it."""


def places(client: RegistryClient, reference: Reference) -> list["Repository"]:
    """Return where to pull ``reference`` from: its mirrors, then its home."""
    found: list[Repository] = []
    for mirror in client.registries.of(reference.host).mirrors:
        place = parse_reference(f"{mirror}/{reference.path}")
        found.append(Repository(client, place.host, place.path))
    return [*found, Repository(client, reference.host, reference.path)]


async def anywhere(
    where: Sequence["Repository"], take: Callable[["Repository"], Awaitable[T]]
) -> T:
    """Return what the first place gives; the last is the image's home, whose word is final.

    Raises:
        RegistryError: none gives it.
    """
    for mirror in where[:-1]:
        try:
            return await take(mirror)
        except RegistryError as exc:
            log.warning("mirror left out reason=%s", exc)
    return await take(where[-1])


class Repository:
    """One repository of one registry.

    Attributes:
        name: host and path, for people.
    """

    def __init__(
        self, client: RegistryClient, host: str, path: str, scopes: tuple[str, ...] = ()
    ) -> None:
        self.name = f"{host}/{path}"
        self._client = client
        self._settings = client.registries.of(host)
        scheme = "http" if self._settings.http else "https"
        self._base = httpx.URL(f"{scheme}://{_API_HOSTS.get(host, host)}")
        self._root = f"{self._base}/v2/{path}"
        scopes = scopes or (f"repository:{path}:pull",)
        self._login = Login(client, self._base, self.name, scopes, self._settings_for)

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        method: str,
        where: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        allowed: tuple[int, ...] = (),
        patience_s: float = 0.0,
    ) -> AsyncIterator[httpx.Response]:
        """Make a request and give its answer, whose body has not been read.

        ``where`` is relative to the repository (``blobs/…``) or an address that it gave out;
        ``patience_s`` is how much longer than usual it may take to answer.

        Raises:
            Trouble: it failed in a way that may pass.
            RegistryError: its status is an error that is not among ``allowed``.
        """
        url = self._url(where)
        response = await self._authorized(_Ask(method, headers or {}, body, patience_s), url)
        try:
            if response.status_code not in allowed:
                await self._check(response, where)
            yield response
        except httpx.TransportError as exc:
            raise trouble(exc, self.name) from exc
        finally:
            await response.aclose()

    def _url(self, where: str) -> httpx.URL:
        try:
            if where.startswith(("http://", "https://", "/")):
                return self._base.join(where)
            return httpx.URL(f"{self._root}/{where}")
        except httpx.InvalidURL as exc:
            raise BadRegistry(f"{self.name}: it gave out no address: {exc}") from exc

    # --- sending ------------------------------------------------------------------------------

    async def _authorized(self, ask: "_Ask", url: httpx.URL) -> httpx.Response:
        """Send a request; show who asks when the registry wants to know."""
        shown = self._login.authorization
        response = await self._follow(ask, url)
        # Where it redirects to may not ask: it would name its own judge.
        if response.status_code != 401 or _origin(response.url) != _origin(self._base):
            return response
        header = response.headers.get("www-authenticate", "")
        await response.aclose()
        await self._login.renew(header, shown)
        return await self._follow(ask, url)

    async def _follow(self, ask: "_Ask", url: httpx.URL) -> httpx.Response:
        for _ in range(MAX_REDIRECTS):
            response = await self._send(ask, url)
            if response.status_code not in _REDIRECTS:
                return response
            await response.aclose()
            to = response.headers.get("location", "")
            if ask.method not in ("GET", "HEAD") and response.status_code not in (307, 308):
                raise BadRegistry(
                    f"{self.name}: {ask.method} was sent elsewhere, which it may not be"
                )
            try:
                url = url.join(to)
            except httpx.InvalidURL as exc:
                raise BadRegistry(f"{self.name}: it redirects to no address: {exc}") from exc
        raise BadRegistry(f"{self.name}: more than {MAX_REDIRECTS} redirects")

    async def _send(self, ask: "_Ask", url: httpx.URL) -> httpx.Response:
        sent = dict(ask.headers)
        # Where it redirects to must not see what was meant for the registry.
        if self._login.authorization and _origin(url) == _origin(self._base):
            sent["Authorization"] = self._login.authorization
        settings = self._settings_for(url)
        if ask.body is None:
            request = httpx.Request(ask.method, url, headers=sent)
            return await self._client.send(settings, request, patience_s=ask.patience_s)
        # What it reads from is closed now, and not when somebody collects it.
        async with contextlib.aclosing(ask.body()) as content:
            request = httpx.Request(ask.method, url, headers=sent, content=content)
            return await self._client.send(settings, request, patience_s=ask.patience_s)

    def _settings_for(self, url: httpx.URL) -> Host:
        """Return how to speak to whom this registry has named.

        Raises:
            BadRegistry: it is in plain HTTP, and nobody allowed that.
        """
        if _origin(url) == _origin(self._base):
            return self._settings
        settings = self._client.registries.of_named(url.netloc.decode())
        if url.scheme != "https" and not (url.scheme == "http" and settings.http):
            raise BadRegistry(
                f"{self.name}: it sends us to {url.scheme}://{url.netloc.decode()}, which is"
                " not encrypted and not configured with `http = true`"
            )
        return settings

    # --- what an answer means -----------------------------------------------------------------

    async def _check(self, response: httpx.Response, where: str) -> None:
        """Raise what an error status means."""
        status = response.status_code
        if status < 400:
            return
        said = await _said(response)
        if status == 404:
            raise NotInRegistry(f"{self._shown(where)}: not found{said}")
        if status in (401, 403):
            raise self._login.denied(said)
        if status == 400 and not said and self._base.scheme == "http":
            said = " in plain HTTP; if it speaks TLS, configure it with `http = false`"
        text = f"{self.name}: status {status}{said}"
        if is_transient(status):
            asked_s = retry_after_s(
                response.headers.get("retry-after", ""), now=datetime.now(UTC)
            )
            raise Trouble(Failure.ANSWERED, text, status=status, asked_s=asked_s)
        raise BadRegistry(text)

    def _shown(self, where: str) -> str:
        """Return the name of an image for its manifest, of a blob, of the repository for all else."""
        kind, _, reference = where.partition("/")
        if kind == "blobs" and reference.startswith("sha256:"):
            return f"{self.name}: the blob {reference}"
        if kind != "manifests":
            return self.name
        return f"{self.name}{'@' if ':' in reference else ':'}{reference}"


class _Ask(NamedTuple):
    """A request, wherever it goes; see ``Repository.exchange``."""

    method: str
    headers: Mapping[str, str]
    body: Body | None
    patience_s: float


class _Said(msgspec.Struct):
    errors: list[dict[str, object]] = []


async def _said(response: httpx.Response) -> str:
    """Return a registry's own words on an error, if it has some and they can be shown."""
    try:
        answer = msgspec.json.decode(await read_all(response, _MAX_ANSWER_BYTES), type=_Said)
        first = answer.errors[0]
        text = str(first.get("message") or first.get("code") or "")
    except (*UNDECODABLE, BadRegistry, IndexError, httpx.TransportError):
        return ""
    shown = "".join(char for char in text if char.isprintable())[:200]
    return f": {shown}" if shown else ""


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    port = url.port or {"https": 443, "http": 80}.get(url.scheme)
    return url.scheme, url.host, port
