"""The table of contents of a layer in a registry, proved by what the image's manifest says of it."""

import hashlib

from worker.layers import OWN_NAMES, BadLayer, limits_of
from worker.layers.chunked import toc_place, unpacked_toc
from worker.layers.estargz import FOOTER_BYTES, toc_member, toc_offset
from worker.layers.toc import MAX_TOC_BYTES, Listed, read_toc
from worker.registry.blobs_http import OnBytes, get_part
from worker.registry.errors import BadRegistry
from worker.registry.manifest import Descriptor
from worker.registry.ranges import NoRanges
from worker.registry.repository_http import Repository
from worker.wire.images import TOC_DIGEST, ZSTD_CHUNKED


async def get_listing(
    place: Repository, layer: Descriptor, on_bytes: OnBytes
) -> list[Listed] | None:
    """Return a layer's members by its table; None where it has none, or none that is enough.

    Raises:
        BadRegistry: the table is not the one that the image's manifest speaks of.
        BadLayer: it is, and says what cannot be.
        RegistryError: this place does not give it.
    """
    try:
        if digest := layer.annotation(TOC_DIGEST):
            listed = await _estargz(place, layer, digest, on_bytes)
        else:
            listed = await _zstd_chunked(place, layer, on_bytes)
    except NoRanges:
        return None
    is_enough = listed is not None and all(one.chunks is not None for one in listed)
    return listed if is_enough else None


async def _estargz(
    place: Repository, layer: Descriptor, digest: str, on_bytes: OnBytes
) -> list[Listed] | None:
    end = layer.size - FOOTER_BYTES
    if end <= 0:
        return None
    begin = toc_offset(await _read(place, layer, end, layer.size, on_bytes))
    if begin is None or not 0 < end - begin <= MAX_TOC_BYTES:
        return None
    packed = await _read(place, layer, begin, end, on_bytes)
    try:
        toc = toc_member(packed)
    except BadLayer as exc:
        raise BadRegistry(f"{place.name}: {layer.digest}: {exc}") from exc
    if toc is None:
        return None
    _prove(place, layer, toc, digest)
    listed = read_toc(toc, end=begin, limits=limits_of(layer.size))
    return [one for one in listed if one.member.path not in OWN_NAMES]


async def _zstd_chunked(
    place: Repository, layer: Descriptor, on_bytes: OnBytes
) -> list[Listed] | None:
    said = [tuple(map(layer.annotation, names)) for names in ZSTD_CHUNKED]
    digest, position = next((pair for pair in said if all(pair)), ("", ""))
    where = toc_place(position, layer.size)
    if where is None:
        return None
    packed = await _read(place, layer, where.begin, where.end, on_bytes)
    _prove(place, layer, packed, digest)
    toc = unpacked_toc(packed, where)
    return read_toc(toc, end=where.begin, limits=limits_of(layer.size))


async def _read(
    place: Repository, layer: Descriptor, begin: int, end: int, on_bytes: OnBytes
) -> bytes:
    data = bytearray()
    await get_part(place, layer, begin, end, data.extend, on_bytes)
    return bytes(data)


def _prove(place: Repository, layer: Descriptor, data: bytes, digest: str) -> None:
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise BadRegistry(
            f"{place.name}: the table of contents of {layer.digest} is not the one that its"
            " image speaks of"
        )
