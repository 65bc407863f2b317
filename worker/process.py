"""A worker as a process: what it opens, and closes in the end."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from filesync.disk.statedir import open_state
from filesync.keys.files import PublicKey
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.threads import acquired, in_thread, until_done
from worker.exec import ExecState, NoRuntime
from worker.garbage.keeper import DiskKeeper
from worker.images import Images
from worker.link_zmq import ManagerLink
from worker.moving.arrivals import Arrivals
from worker.options import WorkerOptions
from worker.service import Service
from worker.store import Store
from worker.store.leases import Leases

log = logging.getLogger(__name__)

THREADS: Final = 64
"""For what blocks: a step that waits for its disk, or a layer, must not keep the next one from a thread."""

FLUSH_S: Final = 30.0
"""Linux begins to write what is so old by itself."""


async def run_worker(
    options: WorkerOptions,
    *,
    ready: Callable[[str], None],
    stopped: Callable[[], Awaitable[None]],
) -> None:
    """Work for a manager until ``stopped()`` returns; dials again when the manager restarts.

    ``ready`` is told the data plane's address once the worker listens.

    Raises:
        UsageError: an address cannot be used, another process has the state directory, or
            the manager refuses this worker.
        StoreError: the state directory cannot be used.
    """
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="filesync-work")
    asyncio.get_running_loop().set_default_executor(threads)
    with open_state(options.state, kind="worker") as state:
        open_store = partial(Store.open, state.path, snapshotter=options.snapshotter)
        store = await acquired(open_store, Store.close)
        slots = options.slots or os.cpu_count() or 1
        allowed = set[PublicKey]()
        try:
            exec_state, exec_missing = await _open_exec(state.path / "exec")
            async with DataPlane(
                options.listen,
                own=options.own,
                allows=allowed.__contains__ if options.own is not None else None,
                allow_insecure=options.allow_insecure,
            ) as plane:
                making = asyncio.Semaphore(os.cpu_count() or 1)
                images = Images(store, options.registries, making)
                disk = DiskKeeper(store, exec_state)
                service = Service(
                    store,
                    plane,
                    images,
                    Arrivals(store, plane),
                    exec_state,
                    exec_missing,
                    asyncio.Semaphore(slots),
                    making,
                    disk,
                    Leases(store),
                )
                link = ManagerLink(
                    options, state.instance, slots, service, plane.address, allowed
                )
                ready(plane.address)
                flushing = asyncio.create_task(_keep_flushed(store))
                try:
                    await link.run(stopped)
                finally:
                    flushing.cancel()
                    await asyncio.wait({flushing})
                    await until_done(service.close())
        finally:
            await in_thread(store.close)


async def _keep_flushed(store: Store) -> None:
    """Now and then have what is finished outlive a crash of the machine."""
    while True:
        await asyncio.sleep(FLUSH_S)
        await in_thread(store.flush)


async def _open_exec(path: Path) -> tuple[ExecState | None, str]:
    try:
        state = ExecState.open(path)
        await state.recover()
    except NoRuntime as exc:
        log.warning("this worker runs no commands reason=%s", exc)
        return None, str(exc)
    return state, ""
