"""The command line that runs a program with a spec's sources mounted, and nobody else. Pure.

The mounts are made in a mount namespace of the program's own. So a killed worker leaves no
mount behind, and a source is read-only before the runtime sees it, which may create missing
mount-points in what it mounts.

A source was resolved to an open file; the kernel does not bind what was opened in another
mount namespace, so it is bound by path and must then have the device and inode of that file.
While the caller keeps the file open its inode number cannot go to another one.

The namespace is a slave of the worker's: what the worker unmounts meanwhile goes here too,
where the machine's mounts are shared ones, and is not kept alive by a run that never used it.

Secrets come on standard input, one after the other, and go into a tmpfs of that namespace: they
end with it, whatever happens to the worker. The runtime's configuration goes there too, if it has a
secret in the environment, and then the runtime's own state, if that has a copy. Nobody else finds
the container by a state that is there, so it is ended by the death of the program (``mortal``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from worker.exec.spec import (
    CONFIG,
    ROOTFS,
    SECRETS,
    Bind,
    ContainerSpec,
    Identity,
    SecretFile,
    Throwaway,
    config_of,
    secret_name,
    staged_name,
)

LOG: Final = "runtime.log"
"""Where, in the bundle, failures to stage and the runtime's own messages go."""

_APART: Final = ("unshare", "--mount", "--propagation", "slave")

_SECRET: Final = "secret"
"""A type of staging: options are the file's mode, the source its size, the identity its owner."""

# Runs in the bundle, with relative paths where an overlay's options need them, since ',' and
# ':' in them would have to be escaped. A second cgroup hierarchy of the "hybrid" kind makes
# crun refuse to work even where it is told to leave cgroups alone, so it is not shown to it.
_SCRIPT: Final = """
umount -n -l /sys/fs/cgroup/unified 2>/dev/null
while [ "$1" != -- ]; do
    if [ "$1" = secret ]; then
        : >"$4" && { [ "$3" = 0 ] || dd bs="$3" count=1 of="$4" 2>/dev/null; }
        if [ "$(stat -c %s -- "$4")" != "$3" ]; then
            echo "a secret does not fit into memory" >&2
            exit 125
        fi
        chown "$5" "$4" && chmod "$2" "$4" || exit 125
        shift 5
        continue
    fi
    mount -n -c -t "$1" -o "$2" -- "$3" "$4" || exit 125
    if [ -n "$5" ] && [ "$(stat -c %d:%i -- "$4")" != "$5" ]; then
        echo "$3 is no longer what it was" >&2
        exit 125
    fi
    shift 5
done 2>>"$0"
shift
exec "$@" </dev/null
"""


@dataclass(frozen=True, slots=True)
class InMemory:
    """A file of the tmpfs: its name in the bundle and its content."""

    name: str
    data: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


def command_line(
    program: Sequence[str], staging: Sequence[str] = (), *, log: str = "/dev/null"
) -> list[str]:
    """Return the words that stage the mounts of ``staging`` and run ``program``."""
    head = [*_APART, "sh", "-c", _SCRIPT, log]
    return [*head, *staging, "--", *program]


def mortal(program: Sequence[str]) -> list[str]:
    """Return the words that run ``program`` so that nothing it starts outlives them.

    It is the first process of a PID namespace: the kernel ends that with it, and it with them.
    """
    return [*_APART, "--pid", "--fork", "--kill-child", "--mount-proc", *program]


def staging_of(spec: ContainerSpec, in_memory: Sequence[InMemory] = ()) -> list[str]:
    """Return what to stage, five words each: type, options, source, target, identity."""
    words = ["none", "bind,nodev", str(spec.root), ROOTFS, _text(spec.root_identity)]
    for index, item in enumerate(spec.shown):
        match item:
            case Bind():
                access = "bind,nodev,ro" if item.read_only else "bind,nodev"
                target = staged_name(index)
                words += ["none", access, str(item.source), target, _text(item.identity)]
            case Throwaway():
                words += overlay_staging(item, index)
            case _:
                pass
    return words + _secret_staging(in_memory)


def in_memory_of(spec: ContainerSpec, bundle: Path) -> list[InMemory]:
    """Return what is on no disk, in the order in which standard input has it.

    That is the secrets, and the whole configuration if it has one in the environment.
    """
    files = [
        InMemory(secret_name(index), item.data, item.mode, item.uid, item.gid)
        for index, item in enumerate(spec.shown)
        if isinstance(item, SecretFile)
    ]
    if spec.secret_env:
        config = json.dumps(config_of(spec, bundle)).encode()
        files.append(InMemory(f"{SECRETS}/{CONFIG}", config))
    return files


def _secret_staging(in_memory: Sequence[InMemory]) -> list[str]:
    if not in_memory:
        return []
    words = ["tmpfs", "mode=0700,nosuid,nodev,noexec", "tmpfs", SECRETS, ""]
    for file in in_memory:
        size, owner = len(file.data), f"{file.uid}:{file.gid}"
        words += [_SECRET, f"{file.mode:o}", str(size), file.name, owner]
    return words


def overlay_staging(item: Throwaway, index: int) -> list[str]:
    """Return the staging of one overlay; ``overlay_directories`` must be there before it."""
    lower, upper, work = overlay_directories(index)
    options = f"nodev,lowerdir={lower},upperdir={upper},workdir={work}"
    bind = ["none", "bind,nodev,ro", str(item.source), lower, _text(item.identity)]
    return [*bind, "overlay", options, "overlay", staged_name(index), ""]


def overlay_directories(index: int) -> tuple[str, str, str]:
    """Return where, relative to the bundle, the lower, upper and work directories are."""
    return f"lower/{index}", f"upper/{index}", f"work/{index}"


def _text(identity: Identity) -> str:
    return f"{identity[0]}:{identity[1]}"
