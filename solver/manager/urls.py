"""Files and repositories behind URLs: what one gives now, so that a build can begin with what it reads."""

from collections.abc import Mapping
from typing import Final

from filesync.digest import Digest
from filesync.errors import Unavailable
from solver.errors import OrderFailed
from solver.graph import Graph, Vertex
from solver.keys import definition_keys, url_key
from solver.manager.cluster import Cluster
from solver.manager.images import ask_workers
from solver.manager.moving.offers import quietly
from solver.manager.shared import Shared
from solver.wire import AskGit, AskUrl, FoundCommit, FoundUrl
from worker.wire import orders
from worker.wire.ops import HttpOp
from worker.wire.orders import Ran, RefInfo
from worker.wire.urls import (
    MAX_ETAGS,
    GitFound,
    ResolveGit,
    ResolveUrl,
    UrlUnchanged,
    without_secrets,
)

_NOT_NOW: Final = "the worker that had it has just gone"


async def find_url(shared: Shared, question: AskUrl) -> FoundUrl:
    """Have a worker find out what a URL gives now. What is not here yet comes, and is kept.

    Raises:
        OrderFailed: the server's word, through the last worker that was asked.
        NoWorker: nobody is there to ask it.
        Unavailable: what it gives has just gone; ask again.
    """
    key = url_key(question.url, question.name)
    # A worker that has just joined may still be telling what it holds.
    await shared.cluster.wait_until_learnt()
    known = _held(shared, key)
    order = ResolveUrl(question.url, question.name, key, tuple(known))
    shown = without_secrets(question.url)
    worker, found = await ask_workers(shared.cluster, order, shown, "its server")
    moved = None
    match found:
        case UrlUnchanged(etag) if etag in known:
            info = known[etag]
        case Ran(info):
            shared.records.add(info)
            shared.cluster.add_ref(worker, info)
            worker.learn_tree(shared.nodes, info.tree)
            moved = sum(report.bytes_moved for report in found.inputs)
        case _:
            raise OrderFailed(worker.name, "protocol", "answered with something else")
    if info.file is None:
        raise OrderFailed(worker.name, "protocol", "does not say what it has downloaded")
    await _remember(shared, info, question)
    return FoundUrl(question.number, info.file.checksum, moved)


async def find_commit(cluster: Cluster, question: AskGit) -> FoundCommit:
    """Have a worker find out which commit a ref is now; none comes before the build needs it.

    Raises:
        OrderFailed: the server's word, through the last worker that was asked.
        NoWorker: nobody is there to ask it.
    """
    order = ResolveGit(question.url, question.ref)
    shown = without_secrets(question.url)
    worker, found = await ask_workers(cluster, order, shown, "its server")
    if not isinstance(found, GitFound):
        raise OrderFailed(worker.name, "protocol", "answered with something else")
    return FoundCommit(question.number, found.commit, found.ref)


def _held(shared: Shared, key: Digest) -> Mapping[str, RefInfo]:
    """Return by their entity tags the newest files of a URL that somebody holds."""
    found: dict[str, RefInfo] = {}
    for info in shared.records.find(key):
        is_held = info.tree in shared.nodes and shared.cluster.holders(info.ref)
        if is_held and info.file is not None and info.file.etag and len(found) < MAX_ETAGS:
            found.setdefault(info.file.etag, info)
    return found


async def _remember(shared: Shared, info: RefInfo, question: AskUrl) -> None:
    """Have a file known by the key that a build will look for."""
    assert info.file is not None
    op = HttpOp(question.url, question.name, info.file.checksum)
    keys = (*definition_keys(Graph((Vertex(op),), 0)), url_key(question.url, question.name))
    holders = shared.cluster.holders(info.ref)
    if not holders:
        raise Unavailable(f"{without_secrets(question.url)}: {_NOT_NOW}; build again")
    if set(keys) <= set(shared.records.keys(info.ref)):
        return
    shared.records.add_keys(info.ref, keys)
    for worker in holders:
        await quietly(worker.call(orders.AddKeys(info.ref, keys)))
