"""What a cache tells of build steps, as records of a cache config, and which records fit a graph.

A step's record is named by its op alone. Each of its inputs may be the record of the step that
made it (as in a definition key) or the record of just the content that the op reads of it (as in
a content key). Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256

import msgspec

from filesync.digest import Digest
from solver.caches.config import (
    MAX_DEPTH,
    NO_PARENT,
    CacheConfig,
    CacheInput,
    CacheLayer,
    CacheRecord,
    CacheResult,
    ChainedResult,
    chain_of,
)
from solver.graph import Graph
from solver.keys import KEY_VERSION, content_key, definition_keys
from worker.wire.ops import ImageOp, Op, op_digest
from worker.wire.orders import Layer


class CachedStep(msgspec.Struct, frozen=True):
    """One step, as it goes into a cache.

    Attributes:
        inputs: places, among the steps, of those that it reads; each comes before it.
        contents: for each input the content that the op reads of it, None where not known.
        chain: the blobs of its result, lowest first; empty where the cache has none.
        created_s: when that was made, in seconds since the epoch.
    """

    op: Op
    inputs: tuple[int, ...] = ()
    contents: tuple[Digest | None, ...] = ()
    chain: tuple[str, ...] = ()
    created_s: float = 0.0


def op_record(op: Op) -> str:
    """Return the digest of the records of ``op``."""
    return _named(op_digest(op), "@0")


def content_record(content: Digest) -> str:
    """Return the digest of the record that any input with ``content`` is."""
    return _named(content, "@-1")


def key_record(key: Digest) -> str:
    """Return the digest of the record that has the result of a cache key, and no inputs."""
    return _named(key, "@key")


def _named(digest: Digest, output: str) -> str:
    text = KEY_VERSION + f"{digest.hex()}{output}".encode()
    return f"sha256:{sha256(text).hexdigest()}"


def inputs_of(graph: Graph, position: int) -> tuple[int, ...]:
    """Return the inputs that identify a step: an image has none, wherever it comes from."""
    vertex = graph.vertices[position]
    return () if isinstance(vertex.op, ImageOp) else vertex.inputs


def config_of(steps: Sequence[CachedStep]) -> CacheConfig:
    """Return the config that tells of ``steps``, in no particular order."""
    layers: dict[tuple[str, ...], int] = {}
    records: list[CacheRecord] = []
    contents: dict[Digest, int] = {}
    for known in sorted({one for step in steps for one in step.contents if one is not None}):
        contents[known] = len(steps) + len(contents)
    for step in steps:
        for length in range(1, len(step.chain) + 1):
            layers.setdefault(step.chain[:length], len(layers))
        alternatives = [[CacheInput(link=place)] for place in step.inputs]
        for content, links in zip(step.contents, alternatives, strict=True):
            if content is not None:
                links.append(CacheInput(link=contents[content]))
        made = datetime.fromtimestamp(int(step.created_s), UTC)
        results = (CacheResult(layers[step.chain], made),) if step.chain else ()
        inputs = tuple(map(tuple, alternatives))
        records.append(CacheRecord(results, (), op_record(step.op), inputs))
    records += [CacheRecord(digest=content_record(known)) for known in contents]
    chains = [CacheLayer(c[-1], layers.get(c[:-1], NO_PARENT)) for c in layers]
    return CacheConfig(tuple(chains), tuple(records))


def config_of_key(key: Digest, chain: Sequence[str]) -> CacheConfig:
    """Return the config that tells of one result: its blobs, lowest first, and the key that it has.

    It says no time, which would be another on each worker.
    """
    layers = tuple(CacheLayer(blob, at - 1) for at, blob in enumerate(chain))
    record = CacheRecord((CacheResult(len(chain) - 1),), (), key_record(key))
    return CacheConfig(layers, (record,))


class CacheMatch:
    """Which records of one config the steps of one graph are, as far as is known.

    Args:
        layers: by digest, the blobs that can be had. A result that needs another is none.
    """

    def __init__(self, config: CacheConfig, layers: Mapping[str, Layer], graph: Graph) -> None:
        self._config = config
        self._layers = layers
        self._graph = graph
        self._named: dict[str, list[int]] = {}
        for place, record in enumerate(config.records):
            self._named.setdefault(record.digest, []).append(place)
        self._fits: list[set[int]] = []
        for position, key in enumerate(definition_keys(graph)):
            self._fits.append(set())
            self._fits[position] = self._find(position, ()) | self._by_key(key)

    def by_definition(self, position: int) -> list[tuple[Layer, ...]]:
        """Return the results of a step by what is known before anything runs, newest first."""
        return self._results(self._fits[position])

    def by_content(self, position: int, contents: Sequence[Digest]) -> list[tuple[Layer, ...]]:
        """Return the results of a step that reads ``contents``, newest first."""
        key = content_key(self._graph.vertices[position].op, contents)
        self._fits[position] |= self._find(position, contents) | self._by_key(key)
        return self._results(self._fits[position])

    def kept(self) -> tuple[CacheConfig, frozenset[int]]:
        """Return the config and which of its records are of this graph and have what they name."""
        fitting = set().union(*self._fits)
        return self._config, frozenset(place for place in fitting if self._is_whole(place))

    def _by_key(self, key: Digest) -> set[int]:
        found = self._named.get(key_record(key), ())
        return {place for place in found if not self._config.records[place].inputs}

    def _is_whole(self, place: int) -> bool:
        record = self._config.records[place]
        results: list[CacheResult | ChainedResult] = [*record.layers, *record.chains]
        return bool(results) and all(map(self._chain, results))

    def _find(self, position: int, contents: Sequence[Digest]) -> set[int]:
        name = op_record(self._graph.vertices[position].op)
        inputs = inputs_of(self._graph, position)
        allowed = [set(self._fits[place]) for place in inputs]
        for places, content in zip(allowed, contents, strict=False):
            places.update(self._named.get(content_record(content), ()))
        return {
            place
            for place in self._named.get(name, ())
            if _fit(self._config.records[place], allowed)
        }

    def _results(self, places: Iterable[int]) -> list[tuple[Layer, ...]]:
        found: dict[tuple[Layer, ...], float] = {}
        for place in sorted(places):
            record = self._config.records[place]
            results: list[CacheResult | ChainedResult] = [*record.layers, *record.chains]
            for result in results:
                chain = self._chain(result)
                if chain:
                    when = result.created_at
                    age = 0.0 if when is None else -when.timestamp()
                    found[chain] = min(age, found.get(chain, age))
        return sorted(found, key=lambda chain: (found[chain], [one.digest for one in chain]))

    def _chain(self, result: CacheResult | ChainedResult) -> tuple[Layer, ...]:
        """Return a result's layers; none where one of them is not to be had."""
        if isinstance(result, CacheResult):
            places = chain_of(self._config, result.layer)
        else:
            places = result.layers
        blobs = [self._config.layers[place].blob for place in places]
        if len(blobs) > MAX_DEPTH or not all(blob in self._layers for blob in blobs):
            return ()
        return tuple(self._layers[blob] for blob in blobs)


def _fit(record: CacheRecord, allowed: Sequence[set[int]]) -> bool:
    """Say whether each input of a record may be what a step's input is.

    What only a selector's rest of a record is enough for is not used: an op of ours names
    what it reads itself.
    """
    return len(record.inputs) == len(allowed) and all(
        any(not one.selector and one.link in places for one in alternatives)
        for alternatives, places in zip(record.inputs, allowed, strict=True)
    )
