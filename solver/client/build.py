"""A build from the client's side: offer the trees, follow the events, take what was asked for."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from filesync.errors import UsageError
from filesync.keys.files import KeyPair
from filesync.manifest import MemoryNodes
from filesync.manifest.pack import accept_pack
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.threads import in_thread, while_wanted
from solver.client.agents import Agents
from solver.client.caches.local import CANNOT_READ, check_sent, read_cache
from solver.client.caches.options import RegistrySource
from solver.client.contexts import Context, NotInContext, cache_home, scan_contexts
from solver.client.credentials import Logins
from solver.client.images import KnownImages, convert_with_images, credentials_for
from solver.client.layouts import Layouts
from solver.client.link_zmq import ManagerLink
from solver.client.outputs.epoch import oci_time
from solver.client.outputs.outputs import Output, place_of
from solver.client.outputs.report import BuildReport, metadata
from solver.client.progress import Progress, told_if_long
from solver.client.request import STDIN_NAME, BuildRequest, start_order
from solver.client.serving import Serving
from solver.client.taking import Taking
from solver.client.urls import with_urls
from solver.client.wording import printable
from solver.client.workers import KnownWorkers
from solver.dockerfile import Converted, reader_of, with_contexts
from solver.errors import BuildError
from solver.wire import (
    AskAgent,
    BuildFailed,
    Built,
    CacheFrom,
    CacheInRegistry,
    Denied,
    EndBuild,
    Event,
    ListWorkers,
    Serve,
    StepDone,
    StopServing,
    Warned,
    Workers,
)
from worker.wire import orders
from worker.wire.ops import LocalOp

CREATED: Final = "org.opencontainers.image.created"
KEY_CHARS: Final = 16
"""Of a cache key, as people are shown it."""
LEAVES_NOTHING: Final = (
    "warning: nothing was written, as no -o or --push says where to: the result stays in the "
    "workers' cache. An image goes to a file with -o type=oci,dest=app.tar, its files to a "
    "directory with -o out; -o type=cacheonly says that nothing is wanted"
)


async def run_once(
    request: BuildRequest,
    manager: str,
    progress: Progress,
    own: KeyPair | None,
    seen: set[str],
) -> dict[str, Any]:
    """Build, take the exports, and return the metadata file's content.

    Args:
        request: what to build.
        manager: its address.
        progress: is told of it, and closed.
        own: what this client proves itself with if the manager's address takes a key.
        seen: the workers that have built something are added. The manager is given time to
            hear from as many first: if it has restarted it does not know what they have.

    Raises:
        CutOff: the manager, or who had the result, is gone; what was built is kept.
        FilesyncError: one sentence about what went wrong; nothing is half-written.
    """
    began_s = time.monotonic()
    images = KnownImages(Layouts(request.layouts, request.options.platform))
    logins = Logins()
    workers = KnownWorkers(cache_home() / "workers", manager)
    async with (
        ManagerLink(manager, own, progress.note) as link,
        DataPlane(own=own) as plane,
    ):
        workers.dial(plane)
        if seen:
            await link.ask(ListWorkers(at_least=len(seen)), Workers)
        converted = await convert_with_images(
            request.text,
            filename=str(request.dockerfile or STDIN_NAME),
            options=request.options,
            images=images,
            link=link,
            logins=logins,
            on_wait=progress.note,
        )
        for warning in converted.warnings:
            progress.note(f"warning: {warning}")
        contexts = await _scanned(request, converted, progress)
        digests = {n: (c.manifest.content, c.manifest.tree) for n, c in contexts.items()}
        converted = msgspec.structs.replace(
            converted, graph=with_contexts(converted.graph, digests)
        )
        converted = await with_urls(converted, link, progress.note)
        caches = await in_thread(_read_caches, request, progress)
        session = _Session(
            request, converted, contexts, caches, link, plane, workers, progress, seen
        )
        try:
            return await session.run(began_s, logins)
        finally:
            workers.keep()


async def _scanned(
    request: BuildRequest, converted: Converted, progress: Progress
) -> dict[str, Context]:
    """Return the contexts by name, as far as a step reads them."""
    roots = {**request.roots, **{name: one.path for name, one in request.layouts.items()}}
    scan = partial(scan_contexts, layouts=request.layouts)
    scanned = ", ".join(str(roots[name]) for name in converted.selectors)
    with told_if_long(progress.note, f"scanning {scanned}"):
        try:
            return await while_wanted(scan, roots, converted.selectors, request.dockerfile)
        except NotInContext as exc:
            reader = reader_of(converted.graph, exc.context, exc.path)
            raise UsageError(converted.placed(str(exc), reader)) from exc


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


class _FoundCaches(msgspec.Struct, frozen=True):
    """The caches to be looked into, in their order, and the blobs of those that are here."""

    sources: tuple[CacheFrom | CacheInRegistry, ...]
    contexts: list[Context]


class _Session:
    """One build over one connection."""

    def __init__(
        self,
        request: BuildRequest,
        converted: Converted,
        contexts: Mapping[str, Context],
        caches: _FoundCaches,
        link: ManagerLink,
        plane: DataPlane,
        workers: KnownWorkers,
        progress: Progress,
        seen: set[str],
    ) -> None:
        self._request = request
        self._converted = converted
        self._graph = converted.graph
        served = [*contexts.values(), *caches.contexts]
        self._contexts = {c.manifest.tree: c for c in served}
        self._caches = caches.sources
        self._link = link
        self._plane = plane
        self._workers = workers
        self._progress = progress
        self._seen = seen
        self._report = BuildReport(converted.graph)
        self._nodes = MemoryNodes()
        self._serving = Serving(plane)
        self._agents = Agents(request.agents, link.send)
        roots = [blobs.root for blobs in caches.contexts]
        self._taking = Taking(request, link, plane, self._nodes, progress, roots)

    async def run(self, began_s: float, logins: Logins) -> dict[str, Any]:
        names = self._request.registry_names
        credentials = await credentials_for(self._graph, names, logins)
        await self._link.send_trees(one.manifest for one in self._contexts.values())
        self._progress.begin(self._graph)
        try:
            await self._link.send(
                start_order(
                    self._request,
                    self._graph,
                    self._converted.config,
                    self._caches,
                    credentials,
                )
            )
            built = await self._follow()
            for exported in built.exports:
                self._workers.need(exported.address)
            await self._taking.take(built)
        finally:
            await self._serving.stop_all()
            await self._agents.close()
            await self._link.send(EndBuild())
            await in_thread(self._progress.close)  # it may have to wait for its reader
        self._tell_unneeded()
        if self._request.explain:
            self._tell_keys()
        if self._request.leaves_nothing:
            self._progress.note(LEAVES_NOTHING)
        return self._metadata(built, time.monotonic() - began_s)

    def _metadata(self, built: Built, seconds: float) -> dict[str, Any]:
        # What is pushed comes first in the metadata, as in ``Built``.
        images = sorted(
            (one for one in self._request.outputs if one.is_image),
            key=lambda one: one.form is not None,
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

    def _take_note(self, event: Event) -> None:
        self._report.add(event)
        self._progress.event(event)
        if isinstance(event, StepDone):
            self._seen.add(event.worker)
            self._tell_export(event.position)

    def _tell_export(self, position: int) -> None:
        """Say what is made of the result once it is there: that can take longer than the steps."""
        if position == self._graph.target:
            for output in self._request.outputs:
                if output.form is not None:
                    what = "image" if output.is_image else "files"
                    self._progress.note(f"exporting {what} to {place_of(output)}")

    def _tell_unneeded(self) -> None:
        """Account for the steps that no event was about."""
        steps = zip(self._graph.vertices, self._report.steps, strict=True)
        are_done = [step.done for vertex, step in steps if not isinstance(vertex.op, LocalOp)]
        if count := are_done.count(False):
            why = "not looked at, as what is made of them is CACHED"
            self._progress.note(f"{why}: {count} of {len(are_done)} steps")

    def _tell_keys(self) -> None:
        """Say under which key each result can be asked for (``filesync transfer-cache``)."""
        for vertex, step in zip(self._graph.vertices, self._report.steps, strict=True):
            if not isinstance(vertex.op, LocalOp):
                self._progress.note(f"key {step.key[:KEY_CHARS]}  {step.name}")

    async def _help(self, message: Serve | StopServing | AskAgent) -> None:
        """Do what steps need of their client while they run."""
        match message:
            case Serve(tree, address, token, part):
                self._workers.need(address)
                self._serving.start(self._contexts[tree], address, token, part)
            case StopServing(token):
                await self._serving.stop(token)
            case AskAgent():
                self._agents.ask(message)

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
                    detail = self._converted.placed(detail, message.position)
                    raise BuildError(message.code, detail, message.exit_status, tail)
                case Denied(_, detail):
                    raise BuildError("denied", f"the manager refused the build: {detail}")
                case Serve() | StopServing() | AskAgent():
                    await self._help(message)
                case orders.Nodes():
                    accept_pack(self._nodes, payload)
                case Warned(text):
                    self._progress.note(f"warning: {text}")
                case _ if isinstance(message, Event):
                    self._take_note(message)
                case _:
                    pass


def _of_descriptor(image: Output) -> dict[str, str]:
    """Return the annotations of an image's descriptor, as the metadata file has them."""
    made = {} if image.epoch_s is None else {CREATED: oci_time(image.epoch_s)}
    return made | dict(image.descriptor_annotations)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))
