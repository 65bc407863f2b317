"""The worker's command."""

import asyncio
import logging
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from filesync.command.quantities import parse_duration, parse_size
from filesync.errors import UsageError
from filesync.keys.files import key_for
from filesync.keys.options import insecure_option, key_option
from filesync.process.lifetime import wait_for_end
from filesync.process.memory import share_arenas
from filesync.transfer.connection.address import is_everywhere, is_here, parse_address
from filesync.transfer.connection.unix import own_socket
from filesync.transfer.errors import InsecureListen
from worker.garbage.choice import default_policy
from worker.options import WorkerOptions
from worker.process import run_worker
from worker.registry import DEFAULT_FILE, read_registries
from worker.snapshots import KINDS
from worker.wire.disk import PrunePolicy

log = logging.getLogger(__name__)

LOOPBACK: Final = "tcp://127.0.0.1:0"


@click.command(
    epilog="""
\b
Examples:
  filesync worker --manager ipc:///var/lib/filesync/manager/socket --state /var/lib/w1
  filesync worker --manager tcp://127.0.0.1:7700 --state w2 --name w2 --label gpu=true
  filesync worker --manager tcp://127.0.0.1:7700 --state w3 --gc-keep-storage 20GB
  filesync worker --manager tcp://127.0.0.1:7700 --state w4 --gc-min-free 0    # remove nothing
  filesync worker --manager tcp://KEY@192.0.2.1:7700 --listen tcp://192.0.2.7:0 --state /var/lib/w1
"""
)
@click.option(
    "--manager",
    required=True,
    envvar="FILESYNC_MANAGER",
    metavar="ADDR",
    help="Whom to work for: tcp://[KEY@]host:port, or ipc://PATH, as it prints it.",
)
@click.option(
    "--listen",
    metavar="ADDR",
    help="Where other workers, and clients, take what this one has: an address of this machine by "
    f"which they reach it; port 0 is any free one.  [default: {LOOPBACK}; a socket in --state where "
    "the manager has one]",
)
@click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where it keeps what it builds; no other worker's.",
)
@click.option("--name", default="", help="Name in the cluster.  [default: the host's name]")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="For --place of a build.")
@click.option(
    "--slots", type=click.IntRange(1, 1024), help="Steps at a time.  [default: processors]"
)
@click.option(
    "--snapshotter",
    type=click.Choice(["auto", *KINDS]),
    default="auto",
    show_default=True,
    help="How trees are kept: overlayfs needs root; copy works anywhere.",
)
@key_option
@insecure_option
@click.option(
    "--registries",
    envvar="FILESYNC_REGISTRIES",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Mirrors, CAs and plain HTTP, as in buildkitd.toml.  [default: {DEFAULT_FILE}]",
)
@click.option(
    "--gc-keep-storage",
    envvar="FILESYNC_GC_KEEP_STORAGE",
    metavar="SIZE",
    help="Hold --state to so much, such as 20GB: what was used least recently goes first.",
)
@click.option(
    "--gc-min-free",
    envvar="FILESYNC_GC_MIN_FREE",
    metavar="SIZE",
    help="Let so much of the disk be free, as far as --state can go; 0 for no such bound.  "
    "[default, without another --gc-…: a tenth of the disk and 2GB at least, and --state may "
    "take as much in any case]",
)
@click.option(
    "--gc-keep-duration",
    envvar="FILESYNC_GC_KEEP_DURATION",
    metavar="TIME",
    help="Remove what was not used for so long, such as 168h.",
)
@click.option("--until-eof", is_flag=True, hidden=True)
def worker(
    manager: str,
    listen: str | None,
    state: Path,
    name: str,
    labels: Sequence[str],
    slots: int | None,
    snapshotter: str,
    key: Path | None,
    allow_insecure: bool,
    registries: Path | None,
    gc_keep_storage: str | None,
    gc_min_free: str | None,
    gc_keep_duration: str | None,
    until_eof: bool,
) -> None:
    """Run a worker: it holds trees and runs steps for a manager.

    The address of its data plane is the first line it prints. Stop it with Ctrl-C; what it
    has built stays in --state and is used again. With the manager's key in its address all is
    encrypted, and this worker lets in whom the manager does.
    """
    if listen is None:
        listen = own_socket(state) if manager.startswith("ipc://") else LOOPBACK
    _check_reachable(listen, manager)
    options = WorkerOptions(
        manager=manager,
        listen=listen,
        state=state,
        name=name or socket.gethostname(),
        labels=dict(_label(text) for text in labels),
        slots=slots or 0,
        snapshotter=None if snapshotter == "auto" else snapshotter,
        own=key_for(manager, key),
        allow_insecure=allow_insecure,
        registries=read_registries(registries),
        policies=_policies(state, gc_keep_storage, gc_min_free, gc_keep_duration),
    )
    share_arenas()  # before there are threads
    running = run_worker(
        options, ready=click.echo, stopped=lambda: wait_for_end(until_eof=until_eof)
    )
    try:
        asyncio.run(running)
    except InsecureListen as exc:
        # Whom it lets in, the manager says, to whom it has a key to believe: there is no --allow.
        raise UsageError(
            f"{listen} can be reached from other machines, and {manager} has no key: give the "
            "address that a manager with --allow prints, --manager tcp://KEY@host:port, or say "
            "--allow-insecure in a network where you trust everyone"
        ) from exc


def _check_reachable(listen: str, manager: str) -> None:
    """Check that others can dial what is listened at, if the manager is on another machine.

    Raises:
        UsageError: nobody can.
    """
    if is_here(manager):
        return
    better = f"--listen tcp://{_own_address(manager)}:0"
    if is_everywhere(listen):
        raise UsageError(
            f"--listen {listen} tells other workers no address to dial; give one of this machine's "
            f"own, such as {better}"
        )
    if is_here(listen):
        log.warning(
            "no other machine can take what this worker has, as it listens on %s: with workers or "
            "clients elsewhere give %s",
            listen,
            better,
        )


def _own_address(manager: str) -> str:
    """Return this machine's address by which it reaches the manager; nothing is sent there."""
    where = urlsplit(parse_address(manager).endpoint)
    try:
        found = socket.getaddrinfo(where.hostname, where.port, type=socket.SOCK_DGRAM)
        family, kind, _, _, there = found[0]
        with socket.socket(family, kind) as one:
            one.connect(there)
            host = str(one.getsockname()[0])
    except (OSError, ValueError):
        return "ADDRESS"
    return f"[{host}]" if ":" in host else host


def _policies(
    state: Path, keep: str | None, free: str | None, unused: str | None
) -> tuple[PrunePolicy, ...]:
    if keep is None and free is None and unused is None:
        there = next(path for path in (state, *state.absolute().parents) if path.exists())
        return (default_policy(shutil.disk_usage(there).total),)
    policies: list[PrunePolicy] = []
    if unused is not None:
        policies.append(PrunePolicy(unused_s=parse_duration(unused) / 1e9))
    if keep is not None or free is not None:
        bounds = [None if text is None else parse_size(text) for text in (keep, free)]
        policies.append(PrunePolicy(max_used_bytes=bounds[0], min_free_bytes=bounds[1]))
    return tuple(policies)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--label {text}: write it as KEY=VALUE")
    return key, value
