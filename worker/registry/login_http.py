"""Showing a registry who asks: passwords, and tokens of the judge that it names."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import msgspec

from filesync.decoding import UNDECODABLE
from worker.registry.challenge import Challenge, pick_challenge
from worker.registry.client_http import RegistryClient, read_all
from worker.registry.config import Host
from worker.registry.errors import BadRegistry, RegistryDenied
from worker.registry.retry import Failure, is_transient, retry_after_s
from worker.registry.trouble_http import Trouble, trouble
from worker.wire.images import Credential

_MAX_ANSWER_BYTES = 1 << 20


class Login:
    """What is shown to one registry for one repository.

    Attributes:
        authorization: the header's value; empty until the registry has asked for one.
    """

    def __init__(
        self,
        client: RegistryClient,
        base: httpx.URL,
        name: str,
        scopes: tuple[str, ...],
        settings_for: Callable[[httpx.URL], Host],
    ) -> None:
        self.authorization = ""
        self._client = client
        self._base = base
        self._name = name
        self._scopes = scopes
        self._settings_for = settings_for
        self._credential: Credential | None = client.credential(name.partition("/")[0])
        self._asking = asyncio.Lock()

    async def renew(self, header: str, shown: str) -> None:
        """Get what the registry wants to see, unless another request just has.

        Args:
            header: its ``WWW-Authenticate``.
            shown: what it was shown, in vain.

        Raises:
            RegistryDenied: it cannot be had.
        """
        async with self._asking:
            if self.authorization != shown:
                return
            challenge = pick_challenge(header)
            if challenge is None:
                raise BadRegistry(
                    f"{self._name}: it denies access and does not say what it wants"
                )
            if challenge.scheme == "basic":
                # An identity token is for token servers; a registry that asks this way has none.
                if self._credential is None or not self._credential.user or shown:
                    raise self.denied("")
                self.authorization = _basic(self._credential)
            else:
                self.authorization = f"Bearer {await self._token(challenge)}"

    async def _token(self, challenge: Challenge) -> str:
        """Ask the judge that the registry names for a token."""
        request = self._request(challenge)
        response = await self._client.send(self._settings_for(request.url), request)
        try:
            self._check(response)
            answer = await read_all(response, _MAX_ANSWER_BYTES)
        except httpx.TransportError as exc:
            raise trouble(exc, request.url.netloc.decode()) from exc
        finally:
            await response.aclose()
        try:
            found = msgspec.json.decode(answer, type=_TokenAnswer)
        except UNDECODABLE as exc:
            raise BadRegistry(f"{self._name}: its token server gave no token: {exc}") from exc
        token = found.token or found.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise BadRegistry(f"{self._name}: its token server gave no token")
        return token

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (400, 401, 403):
            raise self.denied(" by its token server")
        if is_transient(status):
            text = f"{self._name}: status {status} of its token server"
            asked_s = retry_after_s(
                response.headers.get("retry-after", ""), now=datetime.now(UTC)
            )
            raise Trouble(Failure.ANSWERED, text, status=status, asked_s=asked_s)
        if status != 200:
            raise BadRegistry(f"{self._name}: status {status} of its token server")

    def _request(self, challenge: Challenge) -> httpx.Request:
        asked = {"service": challenge.parameters.get("service", "")}
        credential = self._credential
        try:
            realm = self._base.join(challenge.parameters["realm"])
            if credential is not None and credential.identity_token:
                form = {
                    **asked,
                    "grant_type": "refresh_token",
                    "client_id": "filesync",
                    "scope": " ".join(self._scopes),
                    "refresh_token": credential.identity_token,
                }
                return httpx.Request("POST", realm, data=form)
            scopes = [("scope", scope) for scope in self._scopes]
            params = [*realm.params.multi_items(), *asked.items(), *scopes]
            shown = {} if credential is None else {"Authorization": _basic(credential)}
            url = realm.copy_with(params=params)
            return httpx.Request("GET", url, headers=shown)
        except httpx.InvalidURL as exc:
            raise BadRegistry(f"{self._name}: its token server has no address: {exc}") from exc

    def denied(self, said: str) -> RegistryDenied:
        """Return what to say when access is denied; ``said`` are the registry's own words."""
        host = self._name.partition("/")[0]
        if self._credential is not None:
            return RegistryDenied(
                f"{self._name}: access denied{said} to the user of your login at {host}, or it"
                " does not exist"
            )
        return RegistryDenied(
            f"{self._name}: access denied{said}; it does not exist, or it needs a login: run"
            f" `docker login {host}` where you run the build"
        )


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""

    def __repr__(self) -> str:
        return "_TokenAnswer()"


def _basic(credential: Credential) -> str:
    request = httpx.Request("GET", "http://localhost")
    auth = httpx.BasicAuth(credential.user, credential.secret)
    header: str = next(auth.auth_flow(request)).headers["Authorization"]
    return header
