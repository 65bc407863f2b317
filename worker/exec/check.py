"""What an ExecOp may ask for. Pure: refuses what no container can be, before anything is made."""

import contextlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Final

from filesync.manifest import is_name
from worker.exec.errors import BadExec, BadSecret
from worker.exec.policy import STANDARD_MOUNTS
from worker.wire.ops import CacheMount, ExecOp, SecretMount, SshMount

MAX_MOUNTS: Final = 256
"""Bound on the mounts of one op: each may keep a few descriptors open while it runs."""

MAX_OWNER: Final = (1 << 32) - 2

MAX_VARIABLE_BYTES: Final = (128 << 10) - 1
"""Linux passes no longer ``NAME=value`` to a command, where a page has 4 KiB."""

_HOSTNAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
_WHOLE_TREES: Final = ("/proc", "/sys")
_RESERVED: Final = frozenset(target for target, _, _ in STANDARD_MOUNTS) - {"/dev/shm"}


def check_op(op: ExecOp) -> None:
    """Refuse an op whose words cannot be passed to a command or shown in a container.

    Raises:
        BadExec: says which and why.
    """
    for what, text in _texts(op):
        _check_text(what, text)
    if not op.args or not op.args[0]:
        raise BadExec("there is no command to run")
    names = [name for name, _ in (*op.env, *op.proxy_env)]
    for name in (*names, *(secret.env for secret in _secrets(op) if secret.env)):
        if not name or "=" in name:
            raise BadExec(f"{name!r} is no name of an environment variable")
    if not op.cwd.startswith("/"):
        raise BadExec(f"the working directory {op.cwd!r} is not absolute")
    if not _HOSTNAME.fullmatch(op.hostname):
        raise BadExec(f"{op.hostname!r} is no host name")
    for name, _ in op.files:
        if not is_name(name.encode()):
            raise BadExec(f"{name!r} is no name of a file")
    _check_mounts(op)


def clean_target(text: str) -> str:
    """Return a mount's target as an absolute path; '..' does not leave the root."""
    return posixpath.normpath("/" + text.lstrip("/"))


def check_target(path: str) -> None:
    """Refuse to mount at ``path`` where that would hide what keeps a container apart.

    ``path`` is absolute and clean. To be asked again of what it resolves to.

    Raises:
        BadExec: the root itself, /proc and /sys with all below them, a standard mount.
    """
    if path == "/":
        raise BadExec("nothing can be mounted over the root itself")
    if path in _RESERVED or any(is_below(path, tree) for tree in _WHOLE_TREES):
        raise BadExec(f"nothing can be mounted at {path}")


def is_below(path: str, directory: str) -> bool:
    """Tell whether ``path`` is ``directory`` or lies below it; both absolute and clean."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def environment(op: ExecOp, *, home: str, path: str) -> tuple[tuple[str, str], ...]:
    """Return the command's environment: the op's, then what it lacks and commands rely on."""
    known = dict(op.env)
    for mount in op.mounts:
        if isinstance(mount, SshMount):
            known.setdefault("SSH_AUTH_SOCK", mount.target)
    for name, value in (*op.proxy_env, ("PATH", path), ("HOME", home)):
        known.setdefault(name, value)
    return tuple(known.items())


def secret_environment(op: ExecOp, secrets: Mapping[str, bytes]) -> tuple[tuple[str, str], ...]:
    """Return the variables that are secrets, to be put before those of ``environment``.

    One that was not given is empty, as with BuildKit.

    Raises:
        BadSecret: the value can be in no environment.
    """
    return tuple(
        (mount.env, _value(mount, secrets.get(mount.id, b"")))
        for mount in _secrets(op)
        if mount.env
    )


def _secrets(op: ExecOp) -> Iterable[SecretMount]:
    return (mount for mount in op.mounts if isinstance(mount, SecretMount))


def _value(mount: SecretMount, data: bytes) -> str:
    if b"\0" in data:
        raise BadSecret(mount.id, mount.env, "it has a NUL character in it")
    if len(f"{mount.env}=".encode()) + len(data) > MAX_VARIABLE_BYTES:
        raise BadSecret(mount.id, mount.env, "it is longer than 128 KiB")
    with contextlib.suppress(UnicodeDecodeError):  # which has the value
        return data.decode()
    raise BadSecret(mount.id, mount.env, "it is no UTF-8 text")


def _check_mounts(op: ExecOp) -> None:
    if len(op.mounts) > MAX_MOUNTS:
        raise BadExec(f"{len(op.mounts)} mounts are more than {MAX_MOUNTS}")
    for mount in op.mounts:
        if not (isinstance(mount, SecretMount) and mount.env and not mount.target):
            check_target(clean_target(mount.target))
        if isinstance(mount, CacheMount | SecretMount | SshMount) and not (
            0 <= mount.uid <= MAX_OWNER and 0 <= mount.gid <= MAX_OWNER
        ):
            raise BadExec(f"{mount.target} cannot belong to {mount.uid}:{mount.gid}")


def _texts(op: ExecOp) -> Iterable[tuple[str, str]]:
    yield from (("argument", text) for text in op.args)
    for pairs in (op.env, op.proxy_env):
        yield from (("environment variable", f"{name}={value}") for name, value in pairs)
    yield from (("file name", name) for name, _ in op.files)
    yield from (("mount target", mount.target) for mount in op.mounts)
    yield from (("environment variable", secret.env) for secret in _secrets(op))
    yield from (("working directory", op.cwd), ("user", op.user))


def _check_text(what: str, text: str) -> None:
    if "\0" in text:
        raise BadExec(f"the {what} {text[:100]!r} has a NUL character in it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadExec(f"the {what} {text[:100]!r} is no UTF-8") from error
