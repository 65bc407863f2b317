"""What a build made, taken to where its user wants it."""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from filesync.disk.scanning.scan import scan
from filesync.disk.updating.update import TreeUpdate
from filesync.errors import FilesyncError, StoreError, Unavailable
from filesync.manifest import Manifest, MemoryNodes
from filesync.transfer.errors import NotLetIn, Refused, UnknownHost, VersionMismatch
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica
from filesync.transfer.threads import in_thread
from filesync.trees.overlay import overlay, with_root_of
from solver.client.caches.local import copy_known, write_cache
from solver.client.caches.options import CacheTo
from solver.client.link_zmq import ManagerLink
from solver.client.outputs.archive import add_docker_manifest, pack_layout
from solver.client.outputs.files import making_beside, put_file
from solver.client.outputs.outputs import STDOUT, Output, OutputType, place_of
from solver.client.progress import Progress
from solver.client.request import BuildRequest
from solver.client.wording import human
from solver.errors import CutOff
from solver.wire import Built, CacheMade, CachePush, CachePushed, Exported
from worker.wire.orders import ExportForm

PAUSES_S: Final = (0.5, 2.0, 5.0)
"""Before a worker that could not be reached is dialled again."""


class Taking:
    """Takes what was asked for from the workers that have made it ready.

    Args:
        nodes: where the manager's manifests of the exports are.
        cache_roots: the blobs of the caches on this machine, from which known ones are copied.
    """

    def __init__(
        self,
        request: BuildRequest,
        link: ManagerLink,
        plane: DataPlane,
        nodes: MemoryNodes,
        progress: Progress,
        cache_roots: Sequence[Path],
    ) -> None:
        self._request = request
        self._link = link
        self._plane = plane
        self._nodes = nodes
        self._progress = progress
        self._cache_roots = cache_roots

    async def take(self, built: Built) -> None:
        """Take all exports and caches, and tell of what workers have pushed.

        Raises:
            FilesyncError: one could not be taken; nothing of it is half-written.
        """
        # A manager that hears nothing of its client ends the build, and with it the exports.
        staying = asyncio.create_task(self._stay())
        try:
            taken = [one for one in self._request.outputs if one.form is not None]
            for output, exported in zip(taken, built.exports, strict=True):
                await self._take(output, exported)
                self._tell_taken(output, exported)
            self._tell_pushed(built)
            for to, made in zip(self._request.local_caches, built.caches, strict=True):
                await self._take_cache(to, made)
            caches = zip(self._request.pushed_caches, built.caches_pushed, strict=True)
            for asked, done in caches:
                self._tell_cache(asked, done)
        finally:
            staying.cancel()
            await asyncio.gather(staying, return_exceptions=True)

    def _tell_taken(self, output: Output, exported: Exported) -> None:
        of_image = [*output.names, f"ID {exported.config}"] if output.is_image else []
        self._progress.note(
            f"wrote {place_of(output)}{': ' if of_image else ''}{', '.join(of_image)}"
        )

    def _tell_pushed(self, built: Built) -> None:
        pushed = [one for one in self._request.outputs if one.form is None]
        for output, push in zip(pushed, built.pushed, strict=True):
            for name in output.names:
                sent = f"{human(push.bytes_sent)} sent"
                if push.mounted:
                    layers = "1 layer" if push.mounted == 1 else f"{push.mounted} layers"
                    sent += f", {layers} mounted"
                self._progress.note(f"pushed {name}@{push.manifest[0]} ({sent})")

    async def _stay(self) -> None:
        """Show the manager that this client is there, and drop what it says."""
        while True:
            await self._link.receive()

    def _tell_cache(self, asked: CachePush, done: CachePushed) -> None:
        if done.failure:
            reason = f"--cache-to {asked.name} was not written: {done.failure}"
            self._progress.note(f"warning: {reason}")
            return
        sent = f"{done.layers} layers, {human(done.bytes_sent)} sent"
        self._progress.note(f"cache {asked.name}@{done.manifest} ({sent})")

    async def _take_cache(self, to: CacheTo, made: CacheMade) -> None:
        try:
            await self._write_cache(to, made)
        except FilesyncError as exc:
            if not to.ignore_error:
                raise
            self._progress.note(f"warning: --cache-to {to.dest} was not written: {exc}")

    async def _write_cache(self, to: CacheTo, made: CacheMade) -> None:
        """Bring a cache's blobs into its layout, and then what names them."""
        try:
            blobs = to.dest / "blobs" / "sha256"
            blobs.mkdir(parents=True, exist_ok=True)
            for exported in made.blobs:
                await self._pull(exported, blobs)
            await in_thread(copy_known, made, blobs, self._cache_roots)
        except OSError as exc:
            detail = f"cannot write the cache {to.dest}: {exc.strerror or exc}"
            raise StoreError(detail) from exc
        digest = await in_thread(write_cache, made, to)
        self._progress.note(f"cache {to.dest}@{digest} ({len(made.layers)} layers)")

    async def _take(self, output: Output, exported: Exported) -> None:
        try:
            await self._take_as_asked(output, exported)
        except OSError as exc:
            raise StoreError(
                f"cannot write {output.dest}: {exc.strerror or exc}; what was built is kept:"
                " give another dest"
            ) from exc

    async def _take_as_asked(self, output: Output, exported: Exported) -> None:
        if output.is_directory:
            await self._pull(exported, Path(output.dest))
        else:
            await self._take_file(output, exported)

    async def _take_file(self, output: Output, exported: Exported) -> None:
        """Pull into a directory beside the destination, then put one file in place."""
        to_stdout = output.dest == STDOUT
        with making_beside(None if to_stdout else Path(output.dest)) as directory:
            tree = directory / "tree"
            result = directory / "result.tar"
            await self._pull(exported, tree)
            if output.type is OutputType.DOCKER:
                await in_thread(add_docker_manifest, tree)
            if output.form is ExportForm.OCI:
                await in_thread(pack_layout, tree, result)
            else:
                (tree / "tree.tar").replace(result)
            if to_stdout:
                with result.open("rb") as file:
                    await in_thread(shutil.copyfileobj, file, sys.stdout.buffer)
            else:
                await in_thread(put_file, result, Path(output.dest))

    async def _pull(self, exported: Exported, dest: Path) -> None:
        """Bring an export into ``dest``; other names that are there stay.

        So do the owner and the mode of ``dest`` itself if that was there: it may be a home, or ``/tmp``.
        A connection that breaks is made again, and goes on with what has come: the build may have
        taken hours.
        """
        is_new = True
        try:
            os.mkdir(dest)
        except FileExistsError:
            is_new = False
        for pause_s in (*PAUSES_S, None):
            try:
                await self._pull_once(exported, dest, is_new=is_new)
                return
            except (NotLetIn, UnknownHost, VersionMismatch):
                raise
            except Unavailable as exc:
                if pause_s is None or isinstance(exc, Refused):
                    what = f"the result cannot be taken from worker {exported.worker}: {exc}"
                    raise CutOff(what, "run it again") from exc
                self._progress.note(
                    f"warning: the result is taken from worker {exported.worker} again: {exc}"
                )
                await asyncio.sleep(pause_s)

    async def _pull_once(self, exported: Exported, dest: Path, *, is_new: bool) -> None:
        top = Manifest(exported.tree, self._nodes)
        there = await in_thread(scan, dest, self._nodes)
        basis = Manifest(there.tree, self._nodes)
        target = overlay(basis, top)
        if not is_new:
            target = with_root_of(target, basis)
        update = TreeUpdate(dest, basis=basis, target=target, atomic=True)
        replica = Replica(exported.address, exported.token)
        await self._plane.pull(update, [replica], tree=exported.tree)
