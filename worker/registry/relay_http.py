"""A blob's bytes from one registry, for another: through this worker, and never on its disk."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from worker.registry.blobs_http import OnBytes, body_begin
from worker.registry.client_http import pieces
from worker.registry.errors import RegistryError
from worker.registry.manifest import Descriptor
from worker.registry.ranges import range_header
from worker.registry.repository_http import Repository
from worker.registry.trouble_http import ended_early
from worker.registry.upload_http import Content


def content_at(where: Sequence[Repository], blob: Descriptor, on_bytes: OnBytes) -> Content:
    """Return how to have a blob's bytes from the first of ``where`` that gives them.

    Who takes them proves them by the blob's digest. A cut is ``Trouble``: the taker asks anew.
    """

    async def content(start: int, end: int) -> AsyncGenerator[bytes, None]:
        if start == end:
            return
        for place in where[:-1]:
            try:
                await _probe(place, blob)
            except RegistryError:
                continue
            break
        else:
            place = where[-1]
        async with aclosing(_pieces(place, blob, start, end)) as coming:
            async for piece in coming:
                yield piece
                on_bytes(len(piece))

    return content


async def _probe(place: Repository, blob: Descriptor) -> None:
    async with place.exchange("HEAD", f"blobs/{blob.digest}"):
        pass


async def _pieces(
    place: Repository, blob: Descriptor, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    headers = range_header(start)
    async with place.exchange("GET", f"blobs/{blob.digest}", headers=headers) as response:
        at = body_begin(place, response, at=start, size=blob.size)
        async for piece in pieces(response):
            # A registry that knows no ranges begins at the beginning.
            wanted = piece[max(0, start - at) : max(0, end - at)]
            at += len(piece)
            if wanted:
                yield wanted
            if at >= end:
                return
        raise ended_early(response, f"{place.name}: {blob.digest} ends after {at} bytes")
