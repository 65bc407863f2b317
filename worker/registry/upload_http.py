"""One blob on its way into a registry: whole, or in chunks, of which a cut costs one at most."""

import re
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Final

import httpx

from worker.registry.errors import BadRegistry, NotInRegistry, RegistryError
from worker.registry.repository_http import Repository
from worker.registry.retry import Failure
from worker.registry.trouble_http import Trouble

CHUNK_BYTES: Final = 64 << 20
MIN_CHUNK_BYTES: Final = 1 << 20
"""What every proxy lets through that says nothing else (nginx's ``client_max_body_size``)."""
COMMIT_BYTES_PER_S: Final = 20e6
"""How fast a registry is at least with a blob that has come: object stores copy it once more."""
DIGEST_HEADER: Final = "docker-content-digest"
_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_NO_SESSION: Final = (400, 404, 410, 416)
_FORGOTTEN: Final = (404, 410, 416)
_NO_METHOD: Final = (405, 501)
_TOO_LARGE: Final = 413
_OCTETS: Final = {"Content-Type": "application/octet-stream"}

Content = Callable[[int, int], AsyncGenerator[bytes, None]]
"""Gives the bytes of a blob from one offset to another, each time anew."""


class Upload:
    """An upload that may be tried more than once, and goes on where the last try ended.

    Attributes:
        at: how much of it the registry has for certain.
    """

    def __init__(
        self, place: Repository, digest: str, size: int, content: Content, *, mount_from: str
    ) -> None:
        self._place = place
        self._digest = digest
        self._size = size
        self._content = content
        self._mount_from = mount_from
        self._chunk_bytes = CHUNK_BYTES
        self._takes_chunks = True
        self._may_be_there = False
        self._was_cut = False
        self._to = ""
        self.at = 0

    async def once(self) -> bool:
        """Do what is left to do; return False where the registry took the blob from elsewhere.

        Raises:
            Trouble: it may go better the next time.
            RegistryError: the registry does not take it.
        """
        # Where only the answer to the last request was lost, nothing has to go again.
        if self._may_be_there and await is_there(self._place, self._digest):
            return True
        self._may_be_there = False
        try:
            return await self._go_on()
        except Trouble as exc:
            self._was_cut = exc.failure in (Failure.CUT, Failure.STALLED)
            raise

    async def _go_on(self) -> bool:
        had = self.at
        if self._to:
            await self._ask()
        # What cuts requests may do so for their length, or for how long they take.
        if self._was_cut and self.at <= had:
            self._shrink()
        if not self._to and await self._is_mounted():
            return False
        if self._in_chunks:
            await self._send_chunks()
            await self._finish(self._size)
        else:
            # Who has half of a small blob is not asked for the rest: it is begun anew.
            to, self._to = self._to, ""
            await self._finish(0, to)
        return True

    @property
    def _in_chunks(self) -> bool:
        return self._takes_chunks and self._size > self._chunk_bytes

    def _shrink(self) -> None:
        whole = min(self._chunk_bytes, self._size)
        self._chunk_bytes = min(self._chunk_bytes, max(MIN_CHUNK_BYTES, whole // 4))

    async def _is_mounted(self) -> bool:
        """Begin a session, unless the registry has the blob elsewhere and takes it from there."""
        mount = f"?mount={self._digest}&from={self._mount_from}" if self._mount_from else ""
        where, headers = f"blobs/uploads/{mount}", {"Content-Length": "0"}
        async with self._place.exchange("POST", where, headers=headers) as response:
            if response.status_code == 201 and mount:
                return True
            self._to, self.at = self._location(response), 0
        if not self._to:
            raise BadRegistry(f"{self._place.name}: it does not say where to send a blob")
        return False

    def _location(self, response: httpx.Response) -> str:
        """Return where the session goes on; what is relative is so to what was asked."""
        to: str = response.headers.get("location", "")
        try:
            return str(response.url.join(to)) if to else self._to
        except httpx.InvalidURL as exc:
            raise BadRegistry(f"{self._place.name}: it gave out no address: {exc}") from exc

    async def _ask(self) -> None:
        """Learn what there is of the session; one that the registry forgot is begun anew."""
        exchange = self._place.exchange("GET", self._to, allowed=(*_NO_SESSION, *_NO_METHOD))
        async with exchange as response:
            found = _RANGE.fullmatch(response.headers.get("range", ""))
            at = 0 if found is None else int(found[1]) + 1
            if response.status_code == 204 and at <= self._size:
                # A session with nothing in it says 0-0, and so does one with a byte.
                self.at = 0 if at == 1 else at
                self._to = self._location(response)
            else:
                self._to, self.at = "", 0

    async def _send_chunks(self) -> None:
        while self._in_chunks and self.at < self._size:
            end = min(self.at + self._chunk_bytes, self._size)
            headers = {
                **_OCTETS,
                "Content-Length": str(end - self.at),
                "Content-Range": f"{self.at}-{end - 1}",
            }
            async with self._place.exchange(
                "PATCH",
                self._to,
                headers=headers,
                body=partial(self._content, self.at, end),
                allowed=(*_NO_SESSION, *_NO_METHOD, _TOO_LARGE),
            ) as response:
                status = response.status_code
                self._to = self._location(response)
            if status in _NO_METHOD:
                self._takes_chunks, self._to = False, ""
            if status == _TOO_LARGE:
                raise self._too_large(end - self.at)
            if status >= 400:
                raise Trouble(Failure.CUT, f"{self._place.name}: a chunk was not taken")
            self.at = end

    async def _finish(self, sent: int, to: str = "") -> None:
        to = to or self._to
        target = f"{to}{'&' if '?' in to else '?'}digest={self._digest}"
        headers = {**_OCTETS, "Content-Length": str(self._size - sent)}
        self._may_be_there = True
        async with self._place.exchange(
            "PUT",
            target,
            headers=headers,
            body=partial(self._content, sent, self._size),
            allowed=(*_FORGOTTEN, _TOO_LARGE),
            patience_s=self._size / COMMIT_BYTES_PER_S,
        ) as response:
            if response.status_code == _TOO_LARGE:
                raise self._too_large(self._size - sent)
            if response.status_code in _FORGOTTEN:
                self._to, self.at = "", 0
                text = f"{self._place.name}: it forgot an upload"
                raise Trouble(Failure.ANSWERED, text)
            check_digest(self._place, self._digest, response.headers.get(DIGEST_HEADER, ""))

    def _too_large(self, sent: int) -> Trouble | RegistryError:
        text = (
            f"{self._place.name}: a request of {sent} bytes was too large (status 413); allow"
            " more where that is limited (nginx: client_max_body_size)"
        )
        can_shrink = self._takes_chunks and sent > MIN_CHUNK_BYTES
        return Trouble(Failure.CUT, text) if can_shrink else BadRegistry(text)


async def is_there(place: Repository, digest: str) -> bool:
    """Whether the registry has a blob in this repository, as far as it says."""
    try:
        async with place.exchange("HEAD", f"blobs/{digest}", allowed=_NO_METHOD) as response:
            return response.status_code not in _NO_METHOD
    except NotInRegistry:
        return False


def check_digest(place: Repository, sent: str, told: str) -> None:
    """Refuse a registry that says that it took something else.

    Raises:
        BadRegistry: it does.
    """
    if told.startswith("sha256:") and told != sent:
        raise BadRegistry(f"{place.name}: it took {sent} as {told}")
