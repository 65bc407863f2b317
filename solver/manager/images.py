"""Names of images: some worker asks their registry, for the bytes go to workers and not here."""

import time
from typing import Final, TypeVar

from filesync.digest import Digest
from filesync.errors import FilesyncError, Unavailable
from solver.errors import WORKERS_OWN, NoWorker, OrderFailed, WorkerLost
from solver.manager.cluster import Cluster
from solver.manager.workers import WorkerLink
from solver.wire import AskImage, FoundImage, PushRequest, StartBuild
from worker.wire.caches import CacheFound, ReadCache
from worker.wire.images import (
    Credential,
    FromRegistry,
    PushImage,
    RelayImage,
    Resolved,
    ResolveImage,
    credential_for,
    parse_reference,
)
from worker.wire.ops import ImageOp
from worker.wire.orders import Result
from worker.wire.urls import ResolveGit, ResolveUrl

WAIT_FOR_WORKER_S: Final = 15.0
TRIES: Final = 4
"""So often all workers are asked, if the last of them is lost as it asks."""
T = TypeVar("T", Resolved, CacheFound)


def push_order(ref: Digest, asked: PushRequest, request: StartBuild) -> PushImage:
    """Return the order to push ``ref``, with the credentials that it needs and no others."""
    hosts = _hosts(asked)
    images = [
        (vertex.op.repository, vertex.op.manifest)
        for vertex in request.graph.vertices
        if isinstance(vertex.op, ImageOp) and vertex.op.repository.partition("/")[0] in hosts
    ]
    return PushImage(
        ref,
        asked.config,
        asked.names,
        asked.compression,
        asked.level,
        _shown(request, hosts),
        tuple(images),
        asked.annotations,
        asked.newest_s,
    )


def relay_order(image: ImageOp, asked: PushRequest, request: StartBuild) -> RelayImage:
    """Return the order to push an image that is in a registry, without bringing it to a worker."""
    credential = credential_for(image.repository.partition("/")[0], request.credentials)
    source = FromRegistry(image.repository, image.manifest, credential)
    shown = _shown(request, _hosts(asked))
    return RelayImage(source, asked.config, asked.names, shown, asked.annotations)


def _hosts(asked: PushRequest) -> set[str]:
    return {parse_reference(name).host for name in asked.names}


def _shown(request: StartBuild, hosts: set[str]) -> tuple[Credential, ...]:
    return tuple(one for one in request.credentials if one.host in hosts)


def only_pushed(request: StartBuild) -> ImageOp | None:
    """Return the image in a registry that a build's target is, if it is pushed on and no more."""
    op = request.graph.vertices[request.graph.target].op
    caches = request.cache_modes or request.cache_pushes
    if request.exports or caches or not request.pushes:
        return None
    return op if isinstance(op, ImageOp) and op.repository else None


async def find_image(cluster: Cluster, question: AskImage) -> FoundImage:
    """Have a worker find out what an image's name means now; try others if it cannot.

    Raises:
        OrderFailed: the registry's word, through the last worker that was asked.
        NoWorker: nobody is there to ask it.
    """
    order = ResolveImage(
        question.name,
        question.os,
        question.architecture,
        question.variant,
        question.credential,
    )
    found = await ask_any(cluster, order, Resolved)
    return FoundImage(question.name, found.manifest, found.config)


async def ask_any(cluster: Cluster, order: ResolveImage | ReadCache, answer: type[T]) -> T:
    """Have a worker ask a registry; try others if it cannot reach it.

    Raises:
        OrderFailed: the registry's word, through the last worker that was asked.
        NoWorker: nobody is there to ask it.
    """
    worker, found = await ask_workers(cluster, order, order.name, "its registry")
    if isinstance(found, answer):
        return found
    raise OrderFailed(worker.name, "protocol", "answered with something else")


async def ask_workers(
    cluster: Cluster,
    order: ResolveImage | ReadCache | ResolveUrl | ResolveGit,
    name: str,
    whom: str,
) -> tuple[WorkerLink, Result]:
    """Have a worker ask ``whom`` about ``name``; return which one did, and its answer.

    One that cannot reach it, or has no room for what it gives, is no reason to give up while
    there are others; nor is one that is lost, which may come back.

    Raises:
        OrderFailed: the word of who was asked, through the last worker that asked.
        NoWorker: nobody is there to ask.
    """
    for _ in range(TRIES - 1):
        try:
            return await _ask_each(cluster, order, name, whom)
        except WorkerLost:
            continue  # it may be back at once, as where there is one only and it restarts
    return await _ask_each(cluster, order, name, whom)


async def _ask_each(
    cluster: Cluster,
    order: ResolveImage | ReadCache | ResolveUrl | ResolveGit,
    name: str,
    whom: str,
) -> tuple[WorkerLink, Result]:
    """Ask the workers in turn, once there are any; raise what the last one failed with."""
    deadline_s = time.monotonic() + WAIT_FOR_WORKER_S
    while not len(cluster):
        if not await cluster.wait_for_join(deadline_s - time.monotonic()):
            raise NoWorker(
                f"{name}: no worker is connected that could ask {whom}; start one"
                " with `filesync worker --manager …`"
            )
    failure: FilesyncError | None = None
    for worker in sorted(cluster, key=lambda one: (one.running, one.name)):
        try:
            return worker, await worker.call(order)
        except OrderFailed as exc:
            if exc.reason not in WORKERS_OWN:
                raise
            failure = exc
        except Unavailable as exc:
            failure = exc
    assert failure is not None
    raise failure
