"""The option ``--secret``: what it can say, in BuildKit's words, and what it names."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from filesync.errors import UsageError
from worker.wire.ops import MAX_PATH_CHARS
from worker.wire.secrets import MAX_SECRET_BYTES, MAX_SECRETS, Secret

MAX_ALL_BYTES: Final = 8 << 20
"""Bound on all secrets of a build: they travel in one message, with the graph."""

_ALIASES: Final = {"source": "src"}
_KEYS: Final = ("id", "src", "env", "type")
_TYPES: Final = ("", "file", "env")


def read_secrets(texts: Sequence[str]) -> tuple[Secret, ...]:
    """Return what the ``--secret`` options name; of two with one id the last counts.

    Raises:
        UsageError: one cannot be understood, is not there, or there is too much.
    """
    secrets = {one.id: one for one in map(_read_secret, texts)}
    if len(secrets) > MAX_SECRETS:
        raise UsageError(f"--secret: {len(secrets)} secrets are more than {MAX_SECRETS}")
    size = sum(len(one.data) for one in secrets.values())
    if size > MAX_ALL_BYTES:
        raise UsageError(
            f"--secret: {size} bytes in all are more than {MAX_ALL_BYTES}; secrets are for keys "
            "and logins"
        )
    return tuple(secrets.values())


def _read_secret(text: str) -> Secret:
    option = f"--secret {text}"
    fields = _fields(option, text)
    name = fields.get("id", "")
    if not name:
        raise UsageError(f"{option}: say which: id=NAME,src=FILE")
    if len(name) > MAX_PATH_CHARS or not name.isprintable():
        raise UsageError(f"--secret: an id is text of at most {MAX_PATH_CHARS} characters")
    path, variable = _source(option, name, fields)
    data = _of_variable(option, variable) if variable else _of_file(option, path)
    if len(data) > MAX_SECRET_BYTES:
        raise UsageError(f"{option}: it is larger than {MAX_SECRET_BYTES} bytes")
    return Secret(name, data)


def _fields(option: str, text: str) -> dict[str, str]:
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        raise UsageError(f"{option}: write it as id=NAME,src=FILE or id=NAME,env=NAME") from exc
    fields: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if not equals or key not in _KEYS:
            raise UsageError(f"{option}: {part!r} is none of {', '.join(_KEYS)}=…")
        fields[key] = value
    return fields


def _source(option: str, name: str, fields: Mapping[str, str]) -> tuple[str, str]:
    """Return the file and the environment's variable, of which one is empty."""
    path, variable, kind = (fields.get(key, "") for key in ("src", "env", "type"))
    if kind not in _TYPES:
        raise UsageError(f"{option}: the type is file or env")
    if path and variable:
        raise UsageError(f"{option}: give src= or env=, not both")
    if kind == "file" and variable:
        raise UsageError(f"{option}: a file is given with src=")
    if kind == "env":
        return "", variable or path or name
    if not path and not variable and kind != "file" and name in os.environ:
        return "", name
    return ("", variable) if variable else (path or name, "")


def _of_variable(option: str, name: str) -> bytes:
    if name not in os.environ:
        raise UsageError(f"{option}: there is no environment variable {name}")
    return os.fsencode(os.environ[name])


def _of_file(option: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UsageError(f"{option}: {path}: {reason}; name the file with src=") from exc
