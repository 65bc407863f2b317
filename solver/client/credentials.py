"""The user's logins at registries, from docker's own file and its helpers.

They are read here, where the user is, when a build needs them, and go with the build to the one
worker that speaks to that registry. Nothing keeps or logs them.
"""

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from filesync.command.home import own_directory
from filesync.errors import UsageError
from worker.wire.images import DOCKER_HOST, Credential

MAX_FILE_BYTES: Final = 4 << 20
HELPER_S: Final = 60.0
"""A helper may ask the user to unlock a store of keys."""
_DOCKER_KEY: Final = "https://index.docker.io/v1/"
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TOKEN_USER: Final = "<token>"
_ABSENT: Final = "credentials not found"


class Logins:
    """What ``docker login`` has left: ``$DOCKER_CONFIG/config.json``, else ``~/.docker``'s."""

    def __init__(self, path: Path | None = None) -> None:
        directory = own_directory("DOCKER_CONFIG", ".docker")
        self._path = path or Path(directory or "", "config.json")
        # Who has no home directory has no logins.
        is_known = path is not None or directory is not None
        self._config: Mapping[str, Any] | None = None if is_known else {}
        self._found: dict[str, Credential | None] = {}

    def find(self, host: str) -> Credential | None:
        """Return the user's credential for a registry, None without one. Blocks.

        Raises:
            UsageError: the file or a helper is broken; no secret is in the sentence.
        """
        if host not in self._found:
            self._found[host] = self._look_for(host)
        return self._found[host]

    def _look_for(self, host: str) -> Credential | None:
        if self._config is None:
            self._config = _read(self._path)
        helpers = _table(self._config, "credHelpers")
        helper = next(
            (name for key, name in helpers.items() if _host(key) == host),
            self._config.get("credsStore"),
        )
        if isinstance(helper, str) and helper:
            found = _ask(helper, host)
            if found is not None:
                return found
        auths = _table(self._config, "auths")
        entry = next((one for key, one in auths.items() if _host(key) == host), None)
        return _from_entry(self._path, host, entry) if isinstance(entry, dict) else None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
        value = json.loads(data) if data.strip() else {}
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc
    except (ValueError, RecursionError):
        # The cause is left out: it would show a piece of the file.
        raise UsageError(f"{path}: not JSON; `docker login` writes it anew") from None
    return value if isinstance(value, dict) else {}


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _host(key: str) -> str:
    """Return the registry that a key of the file means: a host, or an address of old."""
    host = re.sub(r"^https?://", "", key).partition("/")[0]
    return DOCKER_HOST if host in ("index.docker.io", "registry-1.docker.io") else host


def _from_entry(path: Path, host: str, entry: Mapping[str, Any]) -> Credential | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credential(host, identity_token=token)
    user, secret = entry.get("username"), entry.get("password")
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            text = base64.b64decode(auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise UsageError(
                f"{path}: the login at {host} is damaged; run `docker login {host}`"
            ) from None
        user, _, secret = text.rstrip("\0").partition(":")
    if not isinstance(user, str) or not isinstance(secret, str) or not user:
        return None
    return Credential(host, user, secret)


def _ask(helper: str, host: str) -> Credential | None:
    """Ask ``docker-credential-HELPER`` for a host's credential."""
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise UsageError(f"{helper!r} in docker's config.json is no credential helper")
    key = _DOCKER_KEY if host == DOCKER_HOST else host
    try:
        done = subprocess.run(
            [program, "get"],
            input=key.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=HELPER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        reason = (
            "it does not end" if isinstance(exc, subprocess.TimeoutExpired) else exc.strerror
        )
        raise UsageError(
            f"{program}, which docker's config.json names for {host}, cannot be asked: {reason}"
        ) from None
    if done.returncode:
        if _ABSENT in done.stdout.decode(errors="replace"):
            return None
        raise UsageError(f"{program} failed for {host} with status {done.returncode}")
    try:
        answer = json.loads(done.stdout)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{program} gave no credential for {host}") from None
    if user == _TOKEN_USER:
        return Credential(host, identity_token=str(secret))
    return Credential(host, str(user), str(secret))
