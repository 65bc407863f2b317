"""What one container is, and its OCI runtime configuration. Pure.

Nothing of the host is named by a path that the runtime would resolve: each source is first
bound into the bundle (see ``launch.py``), and the configuration names only the bundle's own.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from worker.exec.policy import (
    CAPABILITIES,
    MASKED_PATHS,
    OPEN_FILES,
    READ_ONLY_PATHS,
    STANDARD_MOUNTS,
)
from worker.exec.syscalls import profile
from worker.exec.user import ROOT, User
from worker.wire.ops import Network

Config = dict[str, Any]
"""A JSON document; its shape is the OCI runtime specification's."""

Identity = tuple[int, int]
"""Device and inode of a file: what a path must still lead to when it is mounted."""

ROOTFS: Final = "rootfs"
"""Where the bundle shows the root."""

SECRETS: Final = "secrets"
"""Where the bundle has a tmpfs with the secrets, in the program's mount namespace only."""

CONFIG: Final = "config.json"


@dataclass(frozen=True, slots=True)
class Bind:
    """Show the file or directory ``source`` at ``target``."""

    source: Path
    target: str
    identity: Identity
    directory: bool = True
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Throwaway:
    """Show ``source`` at ``target``, writable; what is written there is lost.

    A file cannot be shown so by an overlay: it is made a ``Bind`` of a copy before it is run.
    """

    source: Path
    target: str
    identity: Identity
    directory: bool = True


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """Show an empty tmpfs at ``target``; ``size_bytes`` 0 is the kernel's default."""

    target: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SecretFile:
    """Show a read-only file with ``data`` at ``target``. It is in memory, and on no disk."""

    target: str
    data: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


Shown = Bind | Throwaway | Tmpfs | SecretFile


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container.

    Attributes:
        shown: mounted in this order; the targets are resolved.
        secret_env: like ``env``, and before it. It is in memory, and on no disk.
        max_open_files: the worker's own hard limit, which only some may raise.
        machine: what its kernel runs programs of, as `uname` names it.
    """

    args: tuple[str, ...]
    root: Path
    root_identity: Identity
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    user: User = ROOT
    hostname: str = ""
    network: Network = Network.HOST
    shown: tuple[Shown, ...] = ()
    max_open_files: int = OPEN_FILES[1]
    machine: str = ""
    secret_env: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def config_of(spec: ContainerSpec, bundle: Path) -> Config:
    """Return the content of ``config.json`` for ``spec`` run from the directory ``bundle``.

    A container without network has a loopback interface that is down: no runtime brings it up.
    """
    return {
        "ociVersion": "1.0.2",
        "process": _process(spec),
        "root": {"path": str(bundle / ROOTFS)},
        "hostname": spec.hostname,
        "mounts": _mounts(spec, bundle),
        "hooks": {"createContainer": [_nodev_hook(bundle)]},
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces(spec.network)],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
            "rootfsPropagation": "private",
            "seccomp": profile(spec.machine),
        },
    }


def staged_name(index: int) -> str:
    """Return where, relative to the bundle, mount ``index`` of the spec is staged."""
    return f"mounts/{index}"


def secret_name(index: int) -> str:
    """Return where, relative to the bundle, the file of the secret that is mount ``index`` is."""
    return f"{SECRETS}/{index}"


def _process(spec: ContainerSpec) -> Config:
    capabilities = list(CAPABILITIES)
    env = dict(spec.env) | dict(spec.secret_env)
    return {
        "terminal": False,
        "user": {
            "uid": spec.user.uid,
            "gid": spec.user.gid,
            "umask": 0o022,
            # With its own: else what a file denies to a group, its members may who change theirs.
            "additionalGids": list(dict.fromkeys((spec.user.gid, *spec.user.groups))),
        },
        "args": list(spec.args),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": spec.cwd,
        # Not ambient, not inheritable: as with Docker, only root has them after the exec.
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        "rlimits": _limits(spec),
        "noNewPrivileges": False,
    }


def _limits(spec: ContainerSpec) -> list[Config]:
    soft, hard = (min(limit, spec.max_open_files) for limit in OPEN_FILES)
    return [
        {"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard},
        # A core file would be committed with the tree.
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]


def _namespaces(network: Network) -> list[str]:
    kinds = ["pid", "ipc", "uts", "mount"]
    return [*kinds, "network"] if network is Network.NONE else kinds


def _mounts(spec: ContainerSpec, bundle: Path) -> list[Config]:
    standard = [
        {"destination": target, "type": kind, "source": kind, "options": list(options)}
        for target, kind, options in STANDARD_MOUNTS
    ]
    extra = [_mount(item, bundle, index) for index, item in enumerate(spec.shown)]
    return standard + extra


def _mount(item: Shown, bundle: Path, index: int) -> Config:
    staged = bundle / staged_name(index)
    match item:
        case Tmpfs():
            options = ["nosuid", "nodev", "mode=1777"]
            if item.size_bytes:
                options.append(f"size={item.size_bytes}")
            return _entry(item.target, "tmpfs", "tmpfs", options)
        case Bind():
            access = "ro" if item.read_only else "rw"
            return _entry(item.target, "bind", str(staged), ["bind", "nodev", access])
        case Throwaway():
            return _entry(item.target, "bind", str(staged), ["bind", "nodev", "rw"])
        case SecretFile():
            options = ["bind", "nodev", "nosuid", "noexec", "ro"]
            return _entry(item.target, "bind", str(bundle / secret_name(index)), options)


def _entry(target: str, kind: str, source: str, options: list[str]) -> Config:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _nodev_hook(bundle: Path) -> Config:
    # An image may hold device nodes and there is no device cgroup: they must not open. The
    # runtime drops the flag of the staged root when it remounts it, so it is set once more,
    # in the container's mount namespace, before the root is entered. What the runtime writes
    # to a hook has to be read, or it fails where the hook ends first.
    script = 'cat >/dev/null; exec mount -n -c -t none -o remount,bind,nodev -- none "$0"'
    return {
        "path": "/bin/sh",
        "args": ["sh", "-c", script, str(bundle / ROOTFS)],
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    }
