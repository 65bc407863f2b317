"""What a peer's scan finds while it lasts, and what of that comes to a place here that is not empty."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.disk.updating.visits import check_path, depth_of
from filesync.errors import FilesyncError, MalformedManifest, StoreError
from filesync.manifest import Directory, Manifest, Nodes, is_name
from filesync.sync.additions import Additions
from filesync.sync.applying import Update, add_to
from filesync.sync.filter import Filter
from filesync.sync.owner import this_writer
from filesync.sync.part import Part
from filesync.sync.places import Place
from filesync.sync.remote import wire
from filesync.sync.remote.asking import ask
from filesync.sync.remote.earlies import Earlies
from filesync.sync.remote.fields import Begun
from filesync.sync.remote.nodes import NodeBudget, fetch_trees
from filesync.sync.remote.unasked import Unasked
from filesync.sync.scanning import Found
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.threads import in_thread

log = logging.getLogger(__name__)


class _Lacking(NamedTuple):
    """A directory that is not here: its path, its tree, and that of what stands there."""

    path: bytes
    tree: Digest
    older: Digest | None


class Adding:
    """Adds to ``place`` what a peer finds new, for as long as it scans, and has large files come.

    Args:
        channel: to the peer.
        token: what the peer knows its tree by.
        place: is not empty.
        part: what of a sync goes there.
        there: what the place holds.
        nodes: has the nodes of that, and gets those that come.
        unseen: what the scan of the place left out.
        caches: where stat caches are kept.
        deletes: what the peer's tree has not goes in the end.
        rename: what the one name that is given is called there.
        earlies: has files come to the place's ``staging``.
        unasked: refuses what was to be left out, where the peer was told so.
    """

    def __init__(
        self,
        channel: Channel,
        token: bytes,
        place: Place,
        part: Part,
        there: Found,
        nodes: Nodes,
        *,
        unseen: Filter,
        caches: Path | None,
        deletes: bool,
        rename: bytes | None,
        earlies: Earlies,
        unasked: Unasked | None = None,
    ) -> None:
        self._unasked = unasked
        self._place = place
        self._rename = rename
        self._earlies = earlies
        self._channel = channel
        self._token = token
        self._there = there
        self._nodes = nodes
        self._additions = Additions(
            there.manifest,
            nodes,
            writer=this_writer(),
            deletes=deletes,
            shut=there.unreadable.keys(),
        )
        self._takes_directories = rename is None and not place.is_of_files
        self._add_to = partial(
            add_to, place, part, nodes=self._additions.nodes, unseen=unseen, caches=caches
        )
        self._budget = NodeBudget()

    async def run(
        self, pull: Callable[[Update], Awaitable[None]], look: Callable[[], Found]
    ) -> Found:
        """Have ``pull`` finish one update after another; return what the place holds when the scan ends.

        Or before, where something could not be added: then ``look``, which blocks, says what is there.
        What was wrong is tried, and said, again when all is known. No file comes early any more then.

        Raises:
            Unavailable: the peer is gone.
            StoreError: by ``look``.
        """
        try:
            is_known = await self._run(pull)
        except FilesyncError as exc:
            if self._channel.lost is not None:
                raise
            log.info("no more is added: peer=%s why=%s", self._channel.name, exc)
            is_known = False
        finally:
            await self._earlies.stop()
        if not is_known:
            return await in_thread(look)
        manifest = await in_thread(self._additions.kept, self._there.manifest)
        return self._there._replace(manifest=manifest)

    async def _run(self, pull: Callable[[Update], Awaitable[None]]) -> bool:
        """Do so; return whether it is known what is there."""
        while (top := await self._next()) is not None:
            if top.tree == self._there.manifest.tree:
                continue
            addition = await in_thread(self._add_to, self._there.manifest, top)
            await pull(addition.update)
            if not addition.is_made:
                return False
            self._there = self._there._replace(manifest=addition.top)
        return True

    async def _next(self) -> Manifest | None:
        """Return what is to be here with what was found since the last time; None when that is all."""
        request = wire.AskDirectories(self._token, fresh=True)
        answer, _ = await ask(self._channel, request, wire.Directories)
        if answer.tree is not None:
            await self._earlies.come_all()
            return None
        begun = await in_thread(self._worth, answer.begun)
        self._earlies.begin(begun)
        lacking = await in_thread(self._lacking, answer.fresh)
        await self._earlies.come({path for path, _, _ in lacking})
        trees = {tree: older for _, tree, older in lacking}
        # With what is below them: asked for now, no node travels again when all is given.
        await fetch_trees(self._channel, self._token, trees, self._nodes, budget=self._budget)
        return await in_thread(self._add, lacking)

    def _worth(self, begun: Sequence[Begun]) -> list[Begun]:
        """Return the large files of which nothing is here, by their paths here; make room for them."""
        found: list[Begun] = []
        for path, size, mtime_ns in begun:
            names = path.split(b"/")
            if not all(map(is_name, names)):
                raise MalformedManifest(f"{shown(path)} is no path of a file")
            if self._rename is not None:
                path = b"/".join([self._rename, *names[1:]])
            if self._additions.may_come(path, size):
                found.append((path, size, mtime_ns))
        try:
            if found:
                self._place.staging.open()  # no update is open now
        except StoreError as exc:  # as where this user may not write until an update is begun
            log.info("no large file comes early: place=%r why=%s", self._place.label, exc)
            return []
        return found

    def _lacking(self, fresh: Sequence[tuple[bytes, Digest]]) -> list[_Lacking]:
        """Return those of ``fresh`` directories that are not here; not the root, which gets nothing yet."""
        found: list[_Lacking] = []
        for path, tree in fresh:
            if path and self._takes_directories and tree not in self._nodes:
                check_path(path)
                # Each on the way there may have to be made, with a path of its own.
                self._budget.take(len(path) * depth_of(path))
                found.append(_Lacking(path, tree, self._additions.older(path)))
        return found

    def _add(self, lacking: Sequence[_Lacking]) -> Manifest:
        return self._additions.add(self._directories(lacking))

    def _directories(self, lacking: Sequence[_Lacking]) -> Iterator[tuple[bytes, Directory]]:
        for path, tree, _ in lacking:
            directory = Manifest(tree, self._nodes).root
            if self._unasked is not None:
                self._unasked.refuse_in(path, directory)
            yield path, directory
