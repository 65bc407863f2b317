"""A build from the client's side: offer the trees, follow the events, take what was asked for."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from filesync.disk.scanning.scan import scan
from filesync.disk.updating.update import TreeUpdate
from filesync.errors import FilesyncError, LocalError, StoreError, UsageError
from filesync.keys.files import KeyPair
from filesync.manifest import Manifest, MemoryNodes
from filesync.manifest.pack import accept_pack
from filesync.overlay import overlay
from filesync.select import Selector, select
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica
from filesync.transfer.send.offer import Offer
from solver.client.caches.local import (
    CANNOT_READ,
    check_sent,
    copy_known,
    read_cache,
    write_cache,
)
from solver.client.caches.options import CacheSource, CacheTo, InlineCache, RegistrySource
from solver.client.contexts import Context, scan_contexts
from solver.client.credentials import Logins
from solver.client.images import KnownImages, convert_with_images, credentials_for
from solver.client.layouts import Layout, Layouts
from solver.client.link_zmq import ManagerLink
from solver.client.outputs.archive import add_docker_manifest, pack_layout
from solver.client.outputs.epoch import config_at, oci_time
from solver.client.outputs.outputs import STDOUT, Output, OutputType
from solver.client.outputs.report import BuildReport, metadata
from solver.client.progress import Progress, human, printable
from solver.dockerfile import Converted, Options, with_contexts
from solver.errors import BuildError
from solver.graph import Graph
from solver.wire import (
    BuildFailed,
    Built,
    CacheFrom,
    CacheInRegistry,
    CacheMade,
    CachePush,
    CachePushed,
    Denied,
    EndBuild,
    Event,
    Exported,
    ExportRequest,
    PushRequest,
    Serve,
    StartBuild,
    StopServing,
    Warned,
)
from worker.wire import orders
from worker.wire.images import Credential
from worker.wire.ops import LocalOp
from worker.wire.orders import ExportForm

MAX_DOCKERFILE_BYTES: Final = 1 << 20
CREATED: Final = "org.opencontainers.image.created"
KEY_CHARS: Final = 16
"""Of a cache key, as people are shown it."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user asks for.

    Attributes:
        dockerfile: the file, or None for standard input.
        roots: directories behind contexts, by name (``context`` is the main one).
        layouts: images behind contexts, by name.
        tag: names for the image, with commas between them; may be empty.
    """

    dockerfile: Path
    text: str
    options: Options
    roots: Mapping[str, Path]
    layouts: Mapping[str, Layout]
    outputs: Sequence[Output] = ()
    cache_to: Sequence[CacheTo | CachePush | InlineCache] = ()
    cache_from: Sequence[CacheSource | RegistrySource] = ()
    tag: str = ""
    explain: bool = False
    build_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    @property
    def local_caches(self) -> list[CacheTo]:
        """The caches that come to this machine."""
        return [one for one in self.cache_to if isinstance(one, CacheTo)]

    @property
    def pushed_caches(self) -> list[CachePush]:
        """The caches that workers push."""
        return [one for one in self.cache_to if isinstance(one, CachePush)]

    @property
    def registry_names(self) -> list[str]:
        """What is read from registries or pushed there, beside the images of the graph."""
        pushed = [name for one in self.outputs if one.form is None for name in one.names]
        read = [one.name for one in self.cache_from if isinstance(one, RegistrySource)]
        return [*pushed, *read, *(one.name for one in self.pushed_caches)]


def read_dockerfile(path: Path) -> str:
    """Return the text of a Dockerfile.

    Raises:
        UsageError: it is not there, not text, or not of a sane size.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCKERFILE_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}; name the Dockerfile with -f") from exc
    if len(data) > MAX_DOCKERFILE_BYTES:
        raise UsageError(f"{path}: larger than {MAX_DOCKERFILE_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path}: not UTF-8 text: {exc}") from exc


async def run_build(
    request: BuildRequest, manager: str, progress: Progress, own: KeyPair | None = None
) -> dict[str, Any]:
    """Build, take the exports, and return the metadata file's content.

    ``own`` is what this client proves itself with if the manager's address takes a key.

    Raises:
        FilesyncError: one sentence about what went wrong; nothing is half-written.
    """
    began_s = time.monotonic()
    images = KnownImages(Layouts(request.layouts, request.options.platform))
    logins = Logins()
    async with ManagerLink(manager, own) as link, DataPlane(own=own) as plane:
        converted = await convert_with_images(
            request.text,
            filename=str(request.dockerfile),
            options=request.options,
            images=images,
            link=link,
            logins=logins,
        )
        for warning in converted.warnings:
            progress.note(f"warning: {warning}")
        roots = {**request.roots, **{name: one.path for name, one in request.layouts.items()}}
        contexts = await asyncio.to_thread(
            scan_contexts, roots, converted.selectors, request.dockerfile
        )
        graph = with_contexts(
            converted.graph,
            {name: (c.manifest.content, c.manifest.tree) for name, c in contexts.items()},
        )
        caches = await asyncio.to_thread(_read_caches, request, progress)
        session = _Session(request, graph, contexts, caches, link, plane, progress)
        return await session.run(converted, began_s, logins)


def _read_caches(request: BuildRequest, progress: Progress) -> "_FoundCaches":
    """Return the caches that can be read: a build must not fail for one that is not there yet."""
    found: list[CacheFrom | CacheInRegistry] = []
    contexts: list[Context] = []
    platform = request.options.platform
    for source in request.cache_from:
        if isinstance(source, RegistrySource):
            wanted = (platform.os, platform.architecture, platform.variant)
            found.append(CacheInRegistry(source.name, *wanted))
            continue
        try:
            cache, blobs = read_cache(source)
        except CANNOT_READ as exc:
            progress.note(f"warning: --cache-from {source.src} is not used: {exc}")
        else:
            found.append(cache)
            contexts.append(blobs)
    check_sent([cache for cache in found if isinstance(cache, CacheFrom)])
    return _FoundCaches(tuple(found), contexts)


@dataclass(frozen=True, slots=True)
class _FoundCaches:
    """The caches to be looked into, in their order, and the blobs of those that are here."""

    sources: tuple[CacheFrom | CacheInRegistry, ...]
    contexts: list[Context]


class _Session:
    """One build over one connection."""

    def __init__(
        self,
        request: BuildRequest,
        graph: Graph,
        contexts: Mapping[str, Context],
        caches: _FoundCaches,
        link: ManagerLink,
        plane: DataPlane,
        progress: Progress,
    ) -> None:
        self._request = request
        self._graph = graph
        served = [*contexts.values(), *caches.contexts]
        self._contexts = {c.manifest.tree: c for c in served}
        self._caches = caches.sources
        self._cache_roots = [blobs.root for blobs in caches.contexts]
        self._link = link
        self._plane = plane
        self._progress = progress
        self._report = BuildReport(graph)
        self._nodes = MemoryNodes()
        self._serving: dict[bytes, tuple[Offer, asyncio.Task[None]]] = {}

    async def run(self, converted: Converted, began_s: float, logins: Logins) -> dict[str, Any]:
        outputs = self._request.outputs
        names = self._request.registry_names
        credentials = await credentials_for(self._graph, names, logins)
        for context in self._contexts.values():
            await self._link.send_tree(context.manifest)
        self._progress.begin(self._graph)
        try:
            await self._link.send(self._start(converted, credentials))
            built = await self._follow()
            await self._take_all(built)
        finally:
            for token in list(self._serving):
                await self._stop_serving(token)
            await self._link.send(EndBuild(self._request.build_id))
            self._progress.close()
        if self._request.explain:
            self._tell_keys()
        seconds = time.monotonic() - began_s
        # What is pushed comes first in the metadata, as in ``Built``.
        images = sorted(
            (one for one in outputs if one.is_image), key=lambda one: one.form is not None
        )
        name = ",".join(images[0].names) if images else self._request.tag
        annotations = _of_descriptor(images[0]) if images else {}
        moved = (self._plane.counters.data_in, self._plane.counters.data_out)
        return metadata(
            self._report,
            built,
            name=name,
            seconds=seconds,
            client_bytes=moved,
            annotations=annotations,
        )

    def _tell_keys(self) -> None:
        """Say under which key each result can be asked for (``filesync transfer-cache``)."""
        for vertex, step in zip(self._graph.vertices, self._report.steps, strict=True):
            if not isinstance(vertex.op, LocalOp):
                self._progress.note(f"key {step.key[:KEY_CHARS]}  {step.name}")

    def _start(self, converted: Converted, credentials: tuple[Credential, ...]) -> StartBuild:
        def config(output: Output) -> bytes:
            epoch_s = output.epoch_s
            if epoch_s == self._request.options.epoch_s:
                epoch_s = None  # it is so already
            return json.dumps(config_at(converted.config, epoch_s), sort_keys=True).encode()

        exports = tuple(
            ExportRequest(
                form,
                config(output),
                ",".join(output.names),
                output.compression,
                output.level,
                dict(output.annotations),
                output.epoch_s if output.rewrite and output.is_image else None,
                dict(output.descriptor_annotations),
                None if output.is_image else output.epoch_s,
            )
            for output in self._request.outputs
            if (form := output.form) is not None
        )
        return StartBuild(
            orders.VERSION,
            self._request.build_id,
            self._graph,
            exports,
            self._request.options.no_cache,
            self._request.explain,
            credentials,
            tuple(
                PushRequest(
                    config(output),
                    output.names,
                    output.compression,
                    output.level,
                    dict(output.annotations),
                    output.epoch_s if output.rewrite else None,
                )
                for output in self._request.outputs
                if output.form is None
            ),
            self._caches,
            tuple(to.mode for to in self._request.local_caches),
            tuple(self._request.pushed_caches),
            any(isinstance(to, InlineCache) for to in self._request.cache_to),
        )

    async def _follow(self) -> Built:
        """Take the manager's messages until the build is over."""
        while True:
            message, payload = await self._link.receive()
            match message:
                case Built():
                    return message
                case BuildFailed():
                    # It ends on a terminal, and its words come from a command or a worker.
                    detail, tail = _lines(message.detail), _lines(message.tail)
                    raise BuildError(message.code, detail, message.exit_status, tail)
                case Denied(_, detail):
                    raise BuildError("denied", f"the manager refused the build: {detail}")
                case Serve(tree, address, token, part):
                    self._serve(self._contexts[tree], address, token, part)
                case StopServing(token):
                    await self._stop_serving(token)
                case orders.Nodes():
                    accept_pack(self._nodes, payload)
                case Warned(text):
                    self._progress.note(f"warning: {text}")
                case _ if isinstance(message, Event):
                    self._report.add(message)
                    self._progress.event(message)
                case _:
                    pass

    def _serve(
        self, context: Context, address: str, token: bytes, part: Selector | None
    ) -> None:
        manifest = context.manifest
        if part is not None:
            manifest = select(manifest, part, manifest.nodes)
        offer = self._plane.offer(manifest, context.root, token=token)
        task = asyncio.create_task(self._plane.serve_to(address, offer))
        self._serving[token] = (offer, task)

    async def _stop_serving(self, token: bytes) -> None:
        offer, task = self._serving.pop(token, (None, None))
        if offer is not None and task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, FilesyncError):
                await task
            offer.close()

    # --- taking exports -----------------------------------------------------------------------

    async def _take_all(self, built: Built) -> None:
        # A manager that hears nothing of its client ends the build, and with it the exports.
        staying = asyncio.create_task(self._stay())
        try:
            taken = [one for one in self._request.outputs if one.form is not None]
            for output, exported in zip(taken, built.exports, strict=True):
                await self._take(output, exported)
            pushed = [one for one in self._request.outputs if one.form is None]
            for output, push in zip(pushed, built.pushed, strict=True):
                for name in output.names:
                    sent = f"{human(push.bytes_sent)} sent"
                    if push.mounted:
                        layers = "1 layer" if push.mounted == 1 else f"{push.mounted} layers"
                        sent += f", {layers} mounted"
                    self._progress.note(f"pushed {name}@{push.manifest[0]} ({sent})")
            for to, made in zip(self._request.local_caches, built.caches, strict=True):
                await self._take_cache(to, made)
            caches = zip(self._request.pushed_caches, built.caches_pushed, strict=True)
            for asked, done in caches:
                self._tell_cache(asked, done)
        finally:
            staying.cancel()
            await asyncio.gather(staying, return_exceptions=True)

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
            await asyncio.to_thread(copy_known, made, blobs, self._cache_roots)
        except OSError as exc:
            detail = f"cannot write the cache {to.dest}: {exc.strerror or exc}"
            raise StoreError(detail) from exc
        digest = await asyncio.to_thread(write_cache, made, to)
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
        dest = Path(output.dest)
        if output.form is None:
            raise LocalError("what is pushed is not taken")
        if output.is_directory:
            await self._pull(exported, dest)
        else:
            await self._take_file(output, exported)

    async def _take_file(self, output: Output, exported: Exported) -> None:
        """Pull into a directory beside the destination, then put one file in place."""
        to_stdout = output.dest == STDOUT
        parent = None if to_stdout else os.path.dirname(output.dest) or "."
        with tempfile.TemporaryDirectory(prefix=".filesync-", dir=parent) as name:
            await self._pull(exported, Path(name) / "tree")
            tree = Path(name) / "tree"
            result = Path(name) / "result.tar"
            if output.type is OutputType.DOCKER:
                await asyncio.to_thread(add_docker_manifest, tree)
            if output.form is ExportForm.OCI:
                await asyncio.to_thread(pack_layout, tree, result)
            else:
                (tree / "tree.tar").replace(result)
            if to_stdout:
                with result.open("rb") as file:
                    await asyncio.to_thread(shutil.copyfileobj, file, sys.stdout.buffer)
            else:
                result.replace(output.dest)

    async def _pull(self, exported: Exported, dest: Path) -> None:
        """Bring an export into ``dest``; other names that are there stay."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(dest)
        top = Manifest(exported.tree, self._nodes)
        there = await asyncio.to_thread(scan, dest, self._nodes)
        basis = Manifest(there.tree, self._nodes)
        target = overlay(basis, top)
        update = TreeUpdate(dest, basis=basis, target=target, atomic=True)
        replica = Replica(exported.address, exported.token)
        await self._plane.pull(update, [replica], tree=exported.tree)


def _of_descriptor(image: Output) -> dict[str, str]:
    """Return the annotations of an image's descriptor, as the metadata file has them."""
    made = {} if image.epoch_s is None else {CREATED: oci_time(image.epoch_s)}
    return made | dict(image.descriptor_annotations)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))
