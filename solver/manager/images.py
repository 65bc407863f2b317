"""Names of images: some worker asks their registry, for the bytes go to workers and not here."""

import time
from typing import Final

from filesync.errors import FilesyncError, Unavailable
from solver.errors import NoWorker, OrderFailed
from solver.manager.cluster import Cluster
from solver.wire import AskImage, FoundImage
from worker.wire.images import Resolved, ResolveImage

WAIT_FOR_WORKER_S: Final = 15.0
ELSEWHERE: Final = frozenset({"registry-unavailable"})
"""Codes of failures that may be one worker's own: it cannot reach what another can."""


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
    deadline_s = time.monotonic() + WAIT_FOR_WORKER_S
    while not len(cluster):
        if not await cluster.wait_for_join(deadline_s - time.monotonic()):
            raise NoWorker(
                f"{question.name}: no worker is connected that could ask its registry; start one"
                " with `filesync worker --manager …`"
            )
    failure: FilesyncError | None = None
    for worker in sorted(cluster, key=lambda one: (one.running, one.name)):
        try:
            found = await worker.call(order)
        except OrderFailed as exc:
            if exc.reason not in ELSEWHERE:
                raise
            failure = exc
        except Unavailable as exc:
            failure = exc
        else:
            if isinstance(found, Resolved):
                return FoundImage(question.name, found.manifest, found.config)
            failure = OrderFailed(worker.name, "protocol", "answered with something else")
    assert failure is not None
    raise failure
