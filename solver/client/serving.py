"""The trees of a build's user, served to the workers that read them."""

import asyncio
import contextlib

from filesync.errors import FilesyncError
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.send.offer import Offer
from filesync.trees.select import Selector, select
from solver.client.contexts import Context


class Serving:
    """What is being served, by the token under which a worker asks for it."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._open: dict[bytes, tuple[Offer, asyncio.Task[None]]] = {}

    def start(
        self, context: Context, address: str, token: bytes, part: Selector | None
    ) -> None:
        """Dial a worker and serve ``context`` to it, or the part of it that is named."""
        manifest = context.manifest
        if part is not None:
            manifest = select(manifest, part, manifest.nodes)
        offer = self._plane.offer(manifest, context.root, token=token)
        task = asyncio.create_task(self._plane.serve_to(address, offer))
        self._open[token] = (offer, task)

    async def stop(self, token: bytes) -> None:
        """Serve it no more. A token that is not served is no matter."""
        offer, task = self._open.pop(token, (None, None))
        if offer is not None and task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, FilesyncError):
                await task
            offer.close()

    async def stop_all(self) -> None:
        """Serve nothing more."""
        for token in list(self._open):
            await self.stop(token)
