"""Where repositories are, and who asks. Pure."""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from worker.git.errors import BadRepository
from worker.wire.ops import MAX_PATH_CHARS
from worker.wire.urls import without_secrets

_SCHEMES: Final = ("http", "https")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:[0-9]+)?")
"""It is part of the name of a setting, where '=' would end that and begin its value."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a repository is.

    Attributes:
        url: without a login, so that all may see it who see what runs on this machine.
        origin: the beginning of it, up to the host and its port: who gets to see the login.
    """

    url: str
    origin: str
    host: str
    login: Login | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address that a URL is.

        Raises:
            BadRepository: it is none, or of what is not spoken.
        """
        shown = without_secrets(text)[:200]
        try:
            parts = urlsplit(text)
            is_address = bool(parts.hostname) and (parts.port or 0) >= 0
        except ValueError:
            parts, is_address = urlsplit(""), False
        who, _, host = parts.netloc.rpartition("@")
        if not is_address or parts.scheme not in _SCHEMES or not _HOST.fullmatch(host):
            raise BadRepository(f"{shown!r} is no address of a repository behind http or https")
        user, _, password = who.partition(":")
        login = Login(unquote(user), unquote(password)) if who else None
        # What tells git of them has a line for each.
        texts = (text, *((login.user, login.password) if login else ()))
        if not all(one.isprintable() for one in texts) or len(text) > MAX_PATH_CHARS:
            raise BadRepository(
                f"{shown!r} is no address: it is too long, or cannot be printed"
            )
        url = parts._replace(netloc=host, fragment="").geturl()
        return cls(url, f"{parts.scheme}://{host}", host, login)

    def of_submodule(self, text: str) -> "Address":
        """Return where a submodule is by the words of this repository. It has this one's login at its origin.

        Raises:
            BadRepository: nowhere, or where nobody may be led to.
        """
        found = Address.parse(self._joined(text) if text.startswith(("./", "../")) else text)
        if found.login is None and found.origin == self.origin:
            return Address(found.url, found.origin, found.host, self.login)
        return found

    def _joined(self, text: str) -> str:
        path = self.url.removeprefix(self.origin).rstrip("/")
        while text.startswith(("./", "../")):
            step, _, text = text.partition("/")
            if step == "..":
                path, slash, _ = path.rpartition("/")
                if not slash:
                    raise BadRepository("a submodule's URL leads out of its host")
        return f"{self.origin}{path}/{text}"
