"""What ``RUN --mount`` says."""

import csv
import posixpath
import re
from typing import Final

import msgspec

from solver.dockerfile.errors import Invalid
from solver.dockerfile.quantities import parse_size
from solver.dockerfile.suggestion import did_you_mean
from solver.dockerfile.variables import check_name

_ALIASES: Final = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_WRITABLE: Final = ("readonly", "readwrite")
"""A secret and an agent's socket take these, too, as with BuildKit; they change nothing there."""
_KEYS: Final = {
    "bind": ("target", "source", "from", "readonly", "readwrite"),
    "cache": ("target", "id", "sharing", "mode", "uid", "gid", "readonly", "readwrite"),
    "tmpfs": ("target", "size"),
    "secret": ("id", "source", "target", "env", "required", "mode", "uid", "gid", *_WRITABLE),
    "ssh": ("id", "target", "required", "mode", "uid", "gid", *_WRITABLE),
}
_SECRETS: Final = "/run/secrets"
_SWITCHES: Final = ("readonly", "readwrite", "required")
_TRUE: Final = ("1", "t", "true")
_FALSE: Final = ("0", "f", "false")
_MAX_ID: Final = 2**32 - 1


class MountWords(msgspec.Struct, frozen=True):
    """One ``--mount``: its type and keys, aliases resolved, before variables are put in."""

    type: str
    values: dict[str, str]

    def text(self, key: str) -> str:
        """Return the value of ``key``, '' where it is not given."""
        return self.values.get(key, "")

    @property
    def origin(self) -> str:
        """What a bind mount shows: a stage or context; empty is the main context."""
        return self.text("from")

    def is_set(self, key: str) -> bool | None:
        """Return a yes-or-no key, None where it is not given."""
        if key not in self.values:
            return None
        value = self.values[key].lower()
        if value not in (*_TRUE, *_FALSE):
            raise Invalid(f"--mount: {key} is true or false, not {value[:80]!r}", value)
        return value in _TRUE

    def is_writable(self, *, by_default: bool) -> bool:
        """Whether ``ro`` and ``rw``, of which one may be given, leave it writable."""
        readonly, readwrite = self.is_set("readonly"), self.is_set("readwrite")
        if readonly is not None and readwrite is not None:
            raise Invalid("--mount: give either ro or rw")
        if readonly is not None:
            return not readonly
        return by_default if readwrite is None else readwrite

    def number(self, key: str, *, default: int, base: int = 10) -> int:
        """Return a number, such as ``uid``."""
        text = self.text(key)
        if not text:
            return default
        digits = "[0-7]{1,12}" if base == 8 else "[0-9]{1,10}"
        if not re.fullmatch(digits, text) or int(text, base) > (
            0o7777 if base == 8 else _MAX_ID
        ):
            raise Invalid(f"--mount: {text[:80]!r} cannot be a {key}", text)
        return int(text, base)

    def size_bytes(self) -> int:
        """Return the size of a tmpfs, 0 where it is not given."""
        return parse_size(self.text("size")) if self.text("size") else 0

    def clean_target(self) -> str:
        """Return where it is shown, which must be said."""
        if not self.text("target"):
            raise Invalid(f"--mount=type={self.type} needs target=")
        return posixpath.normpath(self.text("target"))

    def secret(self) -> tuple[str, str]:
        """Return the id of a secret and where it is shown; the one stands for the other.

        A variable is shown nowhere, unless that is said, too.
        """
        target = self.text("target")
        name = self.text("source") or self.text("id") or posixpath.basename(target.rstrip("/"))
        if not name:
            raise Invalid("--mount=type=secret needs id= or target=")
        if not target and not self.env:
            target = f"{_SECRETS}/{posixpath.basename(name)}"
        return name, posixpath.normpath(target) if target else ""

    @property
    def env(self) -> str:
        """The variable that a secret is, '' where it is none."""
        if "env" in self.values:
            check_name(self.text("env"))
        return self.text("env")


def parse_mount(text: str) -> MountWords:
    """Return the words of ``--mount=text``.

    Raises:
        Invalid: no list of ``key=value``, or a type or key that is not supported.
    """
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise Invalid(f"--mount={text[:80]}: {error}", text) from error
    values: dict[str, str] = {}
    for field in rows[0] if rows else []:
        key, equals, value = field.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if not equals and key not in _SWITCHES:
            raise Invalid(f"--mount: {field[:80]!r} is not key=value", field)
        values[key] = value if equals else "true"
    kind = values.pop("type", "bind").lower()
    _check_keys(kind, values)
    return MountWords(kind, values)


def _check_keys(kind: str, values: dict[str, str]) -> None:
    known = _KEYS.get(kind)
    if known is None:
        guess = did_you_mean(kind, _KEYS)
        listed = ", ".join(_KEYS)
        raise Invalid(f"unknown mount type: {kind[:80]}{guess}; there are {listed}", kind)
    for key in values:
        if kind == "cache" and key in ("from", "source"):
            raise Invalid(f"RUN --mount=type=cache,{key}= is not supported yet", key)
        if key not in known:
            guess = did_you_mean(key, known)
            listed = ", ".join(known)
            raise Invalid(
                f"unknown key of a {kind} mount: {key[:80]}{guess}; it has {listed}", key
            )
