"""BuildKit's cache config v0: how cache records and their layers are written down. Pure.

A config is a list of layers, each on top of its parent, and a list of records. A record names an
operation by a digest; for each input it lists the records that the input may be (any of them is
enough, and every input must have one); and it has the results that such an operation gave.

What is written is canonical: equal graphs give equal bytes, in whatever order they were put
together. What is read comes from anybody: it is bounded, every index is checked and no chain of
parents or of inputs runs in a circle. Fields that are not known are ignored.
"""

from collections.abc import Sequence
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.errors import LocalError
from worker.wire.caches import MAX_CACHE_BYTES, MAX_ITEMS, BadCacheConfig

MAX_DEPTH: Final = 512
"""Layers on top of each other: as many as an image may have."""
NO_PARENT: Final = -1
MAX_CHAINED: Final = 4_000_000
"""Layers that all layers and results stand on, counted anew for each: what is done with a config
takes as long as that, and 8 MiB can say a hundred times as much."""

_Digest = Annotated[str, msgspec.Meta(max_length=255)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
_Index = Annotated[int, msgspec.Meta(ge=0, lt=MAX_ITEMS)]
_Chain = tuple[str, ...]


class LayerAnnotations(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What some exporters say of a layer here; nothing is believed for it."""

    media_type: str = ""
    diff_id: str = msgspec.field(default="", name="diffID")
    size: int = 0
    created_at: _Time | None = None


class CacheLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A blob on top of the layer at ``parent``.

    As in Go, a parent that is left out is 0, and ``NO_PARENT`` is written in full.
    """

    blob: _Digest = ""
    parent: Annotated[int, msgspec.Meta(ge=NO_PARENT, lt=MAX_ITEMS)] = 0
    annotations: LayerAnnotations | None = None


class CacheResult(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A result: the layer at ``layer`` and all that it stands on."""

    layer: _Index
    created_at: _Time | None = None


class ChainedResult(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A result: exactly these layers, lowest first, whatever parents they have."""

    layers: tuple[_Index, ...]
    created_at: _Time | None = None


class CacheInput(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an input may be: the record at ``link``, or what ``selector`` leaves of it."""

    selector: _Digest = ""
    link: _Index


class CacheRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operation, what its inputs may be, and what it gave."""

    layers: tuple[CacheResult, ...] = ()
    chains: tuple[ChainedResult, ...] = ()
    digest: _Digest = ""
    inputs: tuple[tuple[CacheInput, ...], ...] = ()


class CacheConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Layers and records, which name each other by their places."""

    layers: Annotated[tuple[CacheLayer, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()
    records: Annotated[tuple[CacheRecord, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()


_decoder: Final = msgspec.json.Decoder(CacheConfig)


def encode(config: CacheConfig) -> bytes:
    """Return ``config`` in its canonical order, as JSON.

    Raises:
        BadCacheConfig: it is not consistent, or too large for anybody to read.
    """
    data = msgspec.json.encode(canonical(config))
    if len(data) > MAX_CACHE_BYTES:
        raise BadCacheConfig(f"a cache config of {len(data)} bytes; the limit is 8 MiB")
    return data


def encode_inline(config: CacheConfig) -> bytes:
    """Return just the records, as BuildKit writes them into an image; layers by place in it.

    Nothing is said of times: an image must not differ for when its steps were run.

    Args:
        config: whose results are the image's layers, from the lowest up to some layer.
    """
    config = canonical(config)
    chains = [chain_of(config, place) for place in range(len(config.layers))]
    longest = max(chains, key=len, default=())
    if any(chain != longest[: len(chain)] for chain in chains):
        raise LocalError("a result in an inline cache that is no part of the image")
    records = [
        msgspec.structs.replace(
            record,
            layers=tuple(CacheResult(len(chains[one.layer]) - 1) for one in record.layers),
        )
        for record in config.records
    ]
    return msgspec.json.encode(records)


def decode(data: bytes) -> CacheConfig:
    """Return the config that ``data`` is, in the order in which it was written.

    Raises:
        BadCacheConfig: it is none, too large, or not consistent.
    """
    if len(data) > MAX_CACHE_BYTES:
        raise BadCacheConfig(f"a cache config of {len(data)} bytes; the limit is 8 MiB")
    try:
        config = _decoder.decode(data)
    except UNDECODABLE as exc:
        raise BadCacheConfig(f"no cache config: {exc}") from exc
    check_layers(config)
    inputs_first(config)
    return config


def chain_of(config: CacheConfig, place: int) -> tuple[int, ...]:
    """Return the places of a layer of a consistent config and of its parents, lowest first."""
    chain = [place]
    while (parent := config.layers[chain[-1]].parent) != NO_PARENT:
        chain.append(parent)
    return tuple(reversed(chain))


def check_layers(config: CacheConfig) -> None:
    """Make sure that every layer's chain of parents ends, and soon enough.

    Raises:
        BadCacheConfig: a parent is not there, or stands on its own child; or they are too long.
    """
    depth = {NO_PARENT: 0}
    for place in range(len(config.layers)):
        above: list[int] = []
        at = place
        while at not in depth:
            if at >= len(config.layers):
                raise BadCacheConfig(f"layer {place} stands on layer {at}, which is not there")
            if len(above) == MAX_DEPTH:
                raise BadCacheConfig(f"layer {place} stands on itself or on too many others")
            above.append(at)
            at = config.layers[at].parent
        depth |= {one: n for n, one in enumerate(reversed(above), depth[at] + 1)}
        if depth[place] > MAX_DEPTH:
            raise BadCacheConfig(f"layer {place} stands on itself or on too many others")
    results = (result.layer for record in config.records for result in record.layers)
    if sum(depth.values()) + sum(depth.get(layer, 0) for layer in results) > MAX_CHAINED:
        raise BadCacheConfig(f"its results stand on more than {MAX_CHAINED} layers")


def inputs_first(config: CacheConfig) -> list[int]:
    """Return the places of all records, each after those that its inputs may be.

    Raises:
        BadCacheConfig: an index that names nothing, or a record that needs itself.
    """
    graph: dict[int, list[int]] = {}
    for place, record in enumerate(config.records):
        named = [result.layer for result in record.layers]
        named += [layer for chain in record.chains for layer in chain.layers]
        if any(layer >= len(config.layers) for layer in named):
            raise BadCacheConfig(f"record {place} has a layer that is not there")
        graph[place] = [one.link for alternatives in record.inputs for one in alternatives]
        if any(link >= len(config.records) for link in graph[place]):
            raise BadCacheConfig(f"record {place} has an input that is not there")
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        raise BadCacheConfig(f"a record needs itself: {exc.args[1][:5]}") from exc


# --- canonical order --------------------------------------------------------------------------


def canonical(config: CacheConfig) -> CacheConfig:
    """Return ``config`` with equal layers and records made one, in an order of their own.

    Layers are ordered by blob and what they stand on, records by digest, number of inputs and
    what the inputs may be. Of several results a record keeps the newest, and the time when it was first made.

    Raises:
        BadCacheConfig: it is not consistent.
    """
    check_layers(config)
    blobs = [
        tuple(config.layers[i].blob for i in chain_of(config, place))
        for place in range(len(config.layers))
    ]
    placed = {chain: place for place, chain in enumerate(sorted(set(blobs), key=_by_blob))}
    new_layer = [placed[chain] for chain in blobs]
    annotated = {
        new: layer.annotations
        for new, layer in sorted(
            zip(new_layer, config.layers, strict=True), key=lambda pair: repr(pair[1])
        )
    }
    layers = tuple(
        CacheLayer(chain[-1], placed.get(chain[:-1], NO_PARENT), annotated[place])
        for chain, place in placed.items()
    )
    return CacheConfig(layers, _canonical_records(config, new_layer, blobs))


def _by_blob(chain: _Chain) -> _Chain:
    return tuple(reversed(chain))


def _canonical_records(
    config: CacheConfig, new_layer: Sequence[int], blobs: Sequence[_Chain]
) -> tuple[CacheRecord, ...]:
    identity = _identities(config)
    equal: dict[str, list[CacheRecord]] = {}
    for place, record in enumerate(config.records):
        equal.setdefault(identity[place], []).append(record)
    order = sorted(equal, key=lambda name: _record_order(config, equal[name][0], name))
    placed = {name: place for place, name in enumerate(order)}
    found: list[CacheRecord] = []
    for name in order:
        first = equal[name][0]
        inputs = tuple(
            tuple(
                CacheInput(link=link, selector=selector)
                for link, selector in sorted(
                    {(placed[identity[one.link]], one.selector) for one in alternatives}
                )
            )
            for alternatives in first.inputs
        )
        results, chained = _newest(equal[name], new_layer, blobs)
        found.append(CacheRecord(results, chained, first.digest, inputs))
    return tuple(found)


def _newest(
    records: Sequence[CacheRecord], new_layer: Sequence[int], blobs: Sequence[_Chain]
) -> tuple[tuple[CacheResult, ...], tuple[ChainedResult, ...]]:
    """Return the newest result of equal records; of equally new ones the first by its blobs.

    The same layers again are no newer than they were: a cache that is imported and exported
    again stays what it is.
    """
    first: dict[_Chain, CacheResult] = {}
    for result in (result for record in records for result in record.layers):
        known = first.setdefault(blobs[result.layer], result)
        if _age(result.created_at) > _age(known.created_at):
            first[blobs[result.layer]] = result
    if first:
        best = min(first.values(), key=lambda one: (_age(one.created_at), blobs[one.layer]))
        return (CacheResult(new_layer[best.layer], best.created_at),), ()
    chained = [
        ChainedResult(tuple(new_layer[i] for i in one.layers), one.created_at)
        for record in records
        for one in record.chains
    ]
    return (), tuple(sorted(chained, key=lambda one: (_age(one.created_at), one.layers))[:1])


def _age(created_at: _Time | None) -> float:
    """Return what sorts the newest first; what says no time is oldest."""
    return 0.0 if created_at is None else -(created_at.timestamp() + (1 << 37))


def _record_order(config: CacheConfig, record: CacheRecord, name: str) -> tuple[object, ...]:
    inputs = [
        sorted({(one.selector, config.records[one.link].digest) for one in alternatives})
        for alternatives in record.inputs
    ]
    return record.digest, len(inputs), inputs, name


def _identities(config: CacheConfig) -> dict[int, str]:
    """Return what each record is, whatever its place: equal for records that mean the same."""
    found: dict[int, str] = {}
    for place in inputs_first(config):
        record = config.records[place]
        inputs = [
            sorted({(one.selector, found[one.link]) for one in alternatives})
            for alternatives in record.inputs
        ]
        found[place] = sha256(msgspec.json.encode((record.digest, inputs))).hexdigest()
    return found
