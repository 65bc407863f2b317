"""A cached result moved from one worker to another, as its user asks for it."""

import re

from filesync.errors import UsageError
from filesync.keys.files import KeyPair
from filesync.transfer.threads import in_thread
from solver.client.link_zmq import ManagerLink
from solver.client.progress import Progress
from solver.client.wording import human, printable
from solver.errors import BuildError
from solver.wire import CacheTransferred, Denied, EndBuild, TransferCache, TransferProgress

_KEY = re.compile(r"[0-9a-f]{8,64}")


def transfer_order(key: str, source: str, target: str, *, dry_run: bool) -> TransferCache:
    """Return what to ask of the manager.

    Raises:
        UsageError: that cannot be meant.
    """
    if not _KEY.fullmatch(key.lower()):
        raise UsageError(
            f"{key!r} is no cache key: give its hex, or 8 digits of it at least, as"
            " `filesync build --explain` and the metadata file show it"
        )
    if source == target:
        raise UsageError(f"{source} is where it is already; name another worker")
    return TransferCache(key.lower(), source, target, dry_run, progress=True)


async def run_transfer(
    order: TransferCache, manager: str, own: KeyPair | None, progress: Progress
) -> str:
    """Have it done; return what to tell in the end. Cancelled, it is stopped.

    Raises:
        ManagerLost: nobody answers.
        BuildError: it could not be done; says why.
    """
    async with ManagerLink(manager, own, progress.note) as link:
        progress.begin(None)
        try:
            await link.send(order)
            while True:
                message, _ = await link.receive()
                if isinstance(message, TransferProgress):
                    progress.event(message)
                if isinstance(message, CacheTransferred):
                    return _story(order, message)
                if isinstance(message, Denied):
                    raise BuildError(message.code, printable(message.detail))
        finally:
            await link.send(EndBuild())
            await in_thread(progress.close)


def _story(order: TransferCache, done: CacheTransferred) -> str:
    key, layers = done.key.hex()[:16], f"{done.layers} layers"
    if not done.lacking_bytes:
        return f"{key} ({layers}) is on {order.target} already; nothing to move"
    way = f"from {order.source} to {order.target}"
    if order.dry_run:
        return f"{key} ({layers}): {done.lacking_bytes} bytes at most would move {way}"
    moved = f"{done.bytes_moved} bytes ({human(done.bytes_moved)})"
    return f"{key} ({layers}): {moved} moved {way} in {done.seconds:.2f} s"
