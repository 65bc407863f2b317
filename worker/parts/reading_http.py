"""Some paths of an image in a registry: what they are, and their contents into a spool.

Layers are read from the top, and no further than it takes. Where a layer has a table of contents,
that is read, and of its contents just those that are asked for; else the layer streams by, to its
end, since only then it is proved, and nothing of it is kept but what may be asked for.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import BinaryIO

import msgspec

from filesync.errors import LocalError
from filesync.transfer.threads import in_thread
from filesync.trees.select import Selector
from worker.blobs import BlobStore
from worker.layers import OWN_NAMES, limits_of, naming_layer
from worker.layers.apply import path_parts
from worker.layers.member import Member
from worker.layers.toc import Chunk
from worker.parts.candidates import Candidates
from worker.parts.chunks import BadChunk, ChunkReader, Wanted
from worker.parts.listing import Leaf
from worker.parts.spool import Spool
from worker.parts.streaming import Keep, Take, list_stream, through_pipe
from worker.parts.toc_http import get_listing
from worker.parts.topdown import Found, TopDown
from worker.registry.blobs_http import OnBytes, get_part, stream_blob
from worker.registry.errors import BadRegistry
from worker.registry.manifest import Descriptor, ImageManifest
from worker.registry.ranges import ranges
from worker.registry.repository_http import Repository, anywhere
from worker.registry.turns import at_once
from worker.wire.images import TOC_DIGEST


class _Layer(msgspec.Struct, frozen=True):
    """A layer that has been listed.

    Attributes:
        chunks: by a member's number, where its content is; None where the layer has no table.
    """

    descriptor: Descriptor
    members: Sequence[Member]
    chunks: Sequence[tuple[Chunk, ...]] | None


class ImageReader:
    """Reads paths of one image.

    Args:
        where: repositories that have it, its home last.
        blobs: a layer that is here is read from here.
        spool: gets the contents.
        expect: told how many bytes more will come.
        on_bytes: told of those that have.
    """

    def __init__(
        self,
        where: Sequence[Repository],
        image: ImageManifest,
        blobs: BlobStore,
        spool: Spool,
        *,
        expect: OnBytes,
        on_bytes: OnBytes,
    ) -> None:
        self._where = where
        self._layers = image.layers[::-1]
        self._blobs = blobs
        self._spool = spool
        self._expect = expect
        self._on_bytes = on_bytes
        self._listed: list[_Layer] = []

    async def read(self, selector: Selector) -> Found:
        """Return what ``selector`` names; the contents are in the spool.

        Raises:
            NotInParts: the image has to be taken whole.
            BadLayer: no image can be so.
            RegistryError: it is not to be had, or not right.
            StoreError: this disk.
        """
        image = TopDown(selector, len(self._layers))
        candidates = Candidates(selector)
        found = await in_thread(image.found)
        for descriptor in self._layers:
            if found is not None:
                break
            with naming_layer(descriptor.digest):
                layer = await self._list(descriptor, image, candidates)
                await in_thread(image.add, layer.members)
            self._listed.append(layer)
            found = await in_thread(image.found)
        if found is None:
            raise LocalError("all layers of an image are read, and not all is known")
        await self._bring(found.files())
        return found

    # --- listing ------------------------------------------------------------------------------

    async def _list(
        self, descriptor: Descriptor, image: TopDown, candidates: Candidates
    ) -> _Layer:
        if descriptor.digest not in self._blobs:
            listed = await anywhere(
                self._where, lambda place: get_listing(place, descriptor, self._on_bytes)
            )
            if listed is not None:
                members = [one.member for one in listed]
                await in_thread(candidates.note, members)
                return _Layer(descriptor, members, [one.chunks or () for one in listed])

        def keep(leaf: Leaf) -> bool:
            candidates.note([leaf.member])
            parts = path_parts(leaf.member.path)
            return candidates.has(parts) and not image.hides(parts)

        members = await self._stream(len(self._listed), descriptor, keep)
        return _Layer(descriptor, members, None)

    async def _stream(self, number: int, descriptor: Descriptor, keep: Keep) -> list[Member]:
        """Let a layer stream by; return its members."""
        is_estargz = bool(descriptor.annotation(TOC_DIGEST))

        def work(stream: BinaryIO) -> list[Member]:
            self._spool.clear(number)
            return list_stream(
                stream,
                number,
                limits=limits_of(descriptor.size),
                without=OWN_NAMES if is_estargz else (),
                keep=keep,
                spool=self._spool,
            )

        with self._blobs.holding([descriptor.digest]):
            if descriptor.digest in self._blobs:
                with self._blobs.open(descriptor.digest) as blob:
                    return await in_thread(work, blob)
        self._expect(descriptor.size)

        async def at(place: Repository) -> list[Member]:
            async def give(put: Take) -> None:
                await stream_blob(place, descriptor, put, self._on_bytes)

            return await through_pipe(give, work)

        return await anywhere(self._where, at)

    # --- contents -----------------------------------------------------------------------------

    async def _bring(self, leaves: Collection[Leaf]) -> None:
        """Have the contents of ``leaves`` in the spool."""
        for number, layer in enumerate(self._listed):
            own = {one for one in leaves if one.layer == number}
            if layer.chunks is None:
                if not all(map(self._spool.has, own)):
                    # Nobody could know when it passed by that it leads here.
                    await self._stream(number, layer.descriptor, own.__contains__)
            elif own:
                await self._bring_chunks(layer.descriptor, own, layer.chunks)

    async def _bring_chunks(
        self,
        descriptor: Descriptor,
        leaves: Collection[Leaf],
        chunks: Sequence[tuple[Chunk, ...]],
    ) -> None:
        wanted = [Wanted(leaf, chunk) for leaf in leaves for chunk in chunks[leaf.number]]
        wanted.sort(key=lambda one: one.chunk.begin)
        todo = ranges((one.chunk.begin, one.chunk.end) for one in wanted)
        self._expect(sum(end - begin for begin, end in todo))
        parts: list[tuple[int, int, list[Wanted]]] = [(*span, []) for span in todo]
        at = 0
        for one in wanted:
            while one.chunk.begin >= parts[at][1]:
                at += 1
            parts[at][2].append(one)
        await at_once(
            anywhere(self._where, partial(self._part, descriptor, *part)) for part in parts
        )
        for leaf in leaves:
            self._spool.complete(leaf)

    async def _part(
        self,
        descriptor: Descriptor,
        begin: int,
        end: int,
        wanted: Sequence[Wanted],
        place: Repository,
    ) -> None:
        reader = ChunkReader(wanted, begin, self._spool.write)
        try:
            await get_part(place, descriptor, begin, end, reader.take, self._on_bytes)
            reader.finish()
        except BadChunk as exc:
            raise BadRegistry(
                f"{place.name}: {descriptor.digest} is not what its table of contents says: {exc}"
            ) from exc
