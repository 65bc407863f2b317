"""Keys of machines: who they are to each other, and the files that say so.

A machine's secret key is a file that only its owner can read, with one line::

    filesync-secret-key-1 0123…cdef

An allow file has the public keys of those who may connect, one a line, each with a name for
people; so has the ``.pub`` file that is written beside a secret key, which can be appended to it::

    # the build machines
    89ab…4567 big
"""

import logging
import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NewType

from filesync.command.home import own_directory
from filesync.errors import StoreError, UsageError
from filesync.process.entropy import random_name

log = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 1 << 20
KEY_NAME: Final = "key"
"""What the file of a secret key is called."""
_SECRET_KIND: Final = "filesync-secret-key-1"
_HEX: Final = re.compile(r"[0-9a-f]{64}")

PublicKey = NewType("PublicKey", bytes)
"""32 bytes; in hex for people, in files and in addresses."""
Allows = Callable[[PublicKey], bool]
"""May whoever has this key connect?"""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a machine proves itself with; the secret is never shown."""

    public: PublicKey
    secret: bytes = field(repr=False)


def default_key() -> Path:
    """Return where this user's secret key is: below XDG_CONFIG_HOME, or ~/.config.

    Raises:
        UsageError: there is no such place.
    """
    base = own_directory("XDG_CONFIG_HOME", ".config")
    if base is None:
        raise UsageError("this user has no home directory; say where the key is, or set HOME")
    return base / "filesync" / KEY_NAME


def _is_default(path: Path) -> bool:
    with suppress(UsageError):
        return path == default_key()
    return False


def public_path(secret: Path) -> Path:
    """Return where the public key of the secret key in ``secret`` is."""
    return secret.with_name(f"{secret.name}.pub")


def make_key(path: Path, *, name: str, replace: bool = False) -> KeyPair:
    """Make a key pair: the secret key in ``path``, and a line for allow files beside it.

    Raises:
        UsageError: there is a key already, and ``replace`` is not set.
        StoreError: it cannot be written.
    """
    import zmq
    from zmq.utils import z85

    public, secret = (z85.decode(key) for key in zmq.curve_keypair())
    pair = KeyPair(PublicKey(public), secret)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, f"{_SECRET_KIND} {secret.hex()}\n", mode=0o600, replace=replace)
        _write(public_path(path), line(pair.public, name), mode=0o644, replace=True)
    except FileExistsError:
        raise UsageError(
            f"{path} is there already, and {public_path(path)} has its line for allow files;"
            " --force makes a new key in its place"
        ) from None
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    return pair


def line(key: PublicKey, name: str) -> str:
    """Return the line of an allow file for ``key``."""
    return f"{key.hex()} {''.join(c if c.isprintable() else '?' for c in name)}".rstrip() + "\n"


def read_key(path: Path) -> KeyPair:
    """Return the key pair whose secret key is in ``path``.

    Raises:
        UsageError: it is not there, is no secret key, or others can read it.
    """
    import zmq
    from zmq.utils import z85

    try:
        text = _read(path, never=0o077)
    except FileNotFoundError:
        raise UsageError(f"{path} is not there; make a key with {_making(path)}") from None
    except _OpenToOthers:
        _check_not_public(path)
        raise UsageError(
            f"{path} is a secret that others can read: make a new key with "
            f"{_making(path, again=True)}, or, if nobody has read it, `chmod 600` it"
        ) from None
    lines = _lines(text)
    kind, _, digits = lines[0][1].partition(" ") if len(lines) == 1 else ("", "", "")
    if kind != _SECRET_KIND or not _HEX.fullmatch(digits):
        _check_not_public(path)
        raise UsageError(f"{path} is no secret key as `filesync keygen` makes them")
    secret = bytes.fromhex(digits)
    return KeyPair(PublicKey(z85.decode(zmq.curve_public(z85.encode(secret)))), secret)


def _making(path: Path, *, again: bool = False) -> str:
    """Return the command that makes a key in ``path``, or beside it, where it then says so."""
    if _is_default(path):
        return f"`filesync keygen{' --force' * again}`"
    made = path.with_name(KEY_NAME)
    force = " --force" * (again and path == made)
    command = f"`filesync keygen{force} {shlex.quote(str(path.parent))}`"
    return command if path == made else f"{command}, which calls it {made}"


def _check_not_public(path: Path) -> None:
    keys: dict[PublicKey, str] = {}
    with suppress(UsageError):
        keys = read_allowed(path)
    if keys:
        raise UsageError(
            f"{path} is no secret key: it has public ones, as allow files do"
        ) from None


def key_for(address: str, path: Path | None) -> KeyPair | None:
    """Return the key pair to dial ``address`` with: None if it takes none.

    It is the one in ``path``, or in ``default_key()``.

    Raises:
        UsageError: see ``read_key``.
    """
    return read_key(path or default_key()) if "@" in address else None


def read_allowed(path: Path) -> dict[PublicKey, str]:
    """Return the public keys in an allow file, and their names.

    Raises:
        UsageError: it is not there, others can write it, or a line is no key.
    """
    try:
        text = _read(path, never=0o002)
    except FileNotFoundError:
        raise UsageError(
            f"{path} is not there; write the public keys of those who may connect into it, "
            "a line for each, as `filesync keygen` prints it"
        ) from None
    except _OpenToOthers:
        raise UsageError(f"{path} says who may connect, and anyone can write it") from None
    keys: dict[PublicKey, str] = {}
    for number, words in _lines(text):
        digits, _, name = words.partition(" ")
        if not _HEX.fullmatch(digits):
            raise UsageError(f"{path}, line {number}: not a public key: 64 hex digits, a name")
        keys[PublicKey(bytes.fromhex(digits))] = name.strip()
    return keys


class AllowFile:
    """An allow file that is read again when it has changed.

    Attributes:
        keys: whom it allows, and their names.

    Raises:
        UsageError: see ``read_allowed``; a file that is broken later is logged, and what it
            said before still holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _state(path)
        self.keys = read_allowed(path)

    def allows(self, key: PublicKey) -> bool:
        """May whoever has ``key`` connect?"""
        self.refresh()
        return key in self.keys

    def refresh(self) -> bool:
        """Take up what has changed; return whether the keys are others now."""
        if (state := _state(self._path)) == self._seen:
            return False
        self._seen = state
        before = self.keys
        try:
            self.keys = read_allowed(self._path)
        except UsageError as exc:
            log.warning("allow file not read again, the last one holds: %s", exc)
        return self.keys != before


class _OpenToOthers(Exception):
    """The file's mode gives others what they must not have."""


def _read(path: Path, *, never: int) -> str:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & never:
                raise _OpenToOthers
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return data.decode()
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path}: not UTF-8 text: {exc}") from exc
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc


def _lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that say something, with their numbers."""
    lines = ((number, words.strip()) for number, words in enumerate(text.split("\n"), 1))
    return [(number, words) for number, words in lines if words and not words.startswith("#")]


def _state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write(path: Path, text: str, *, mode: int, replace: bool) -> None:
    """Write a file as a whole or not at all, never readable by more than ``mode`` says."""
    part = path.with_name(f".{path.name}.{random_name()}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            # Unlike a rename it replaces nothing.
            os.link(part, path, follow_symlinks=False)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
