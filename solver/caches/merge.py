"""Putting caches together: what several of them tell of one graph, told once. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

import msgspec

from solver.caches.config import (
    NO_PARENT,
    CacheConfig,
    CacheInput,
    CacheLayer,
    CacheRecord,
    CacheResult,
    ChainedResult,
    chain_of,
    inputs_first,
)
from worker.wire.orders import Layer

Alternatives = set[tuple[str, int]]
"""What an input may be: selectors and records."""
MAX_ALIKE: Final = 50
"""Steps of one op that another is compared with; a hostile cache could have a hundred thousand."""
MAX_PASSES: Final = 10


def merged(parts: Iterable[tuple[CacheConfig, Collection[int]]]) -> CacheConfig:
    """Return one config with some records of each of ``parts``, and all that these name.

    What is only named by them has no result there.
    """
    layers: list[CacheLayer] = []
    records: list[CacheRecord] = []
    for config, wanted in parts:
        named = _named_by(config, wanted)
        used = sorted({at for place in wanted for at in _layers_of(config, place)})
        layer_at = {old: len(layers) + n for n, old in enumerate(used)}
        record_at = {old: len(records) + n for n, old in enumerate(named)}
        for old in used:
            parent = config.layers[old].parent
            layers.append(CacheLayer(config.layers[old].blob, layer_at.get(parent, NO_PARENT)))
        for old in named:
            record = config.records[old]
            inputs = tuple(
                tuple(CacheInput(link=record_at[i.link], selector=i.selector) for i in one)
                for one in record.inputs
            )
            results: tuple[CacheResult, ...] = ()
            chained: tuple[ChainedResult, ...] = ()
            if old in wanted:
                results = tuple(
                    CacheResult(layer_at[one.layer], one.created_at) for one in record.layers
                )
                chained = tuple(
                    ChainedResult(tuple(layer_at[at] for at in one.layers), one.created_at)
                    for one in record.chains
                )
            records.append(CacheRecord(results, chained, record.digest, inputs))
    return CacheConfig(tuple(layers), tuple(records))


def _named_by(config: CacheConfig, wanted: Iterable[int]) -> list[int]:
    found: set[int] = set()
    todo = list(wanted)
    while todo:
        place = todo.pop()
        if place not in found:
            found.add(place)
            todo.extend(one.link for links in config.records[place].inputs for one in links)
    return sorted(found)


def _layers_of(config: CacheConfig, place: int) -> set[int]:
    record = config.records[place]
    tops = [one.layer for one in record.layers]
    tops += [at for one in record.chains for at in one.layers]
    found = {NO_PARENT}
    for at in tops:
        while at not in found:
            found.add(at)
            at = config.layers[at].parent
    return found - {NO_PARENT}


def joined(config: CacheConfig) -> CacheConfig:
    """Return ``config`` with the records of one step made one.

    Two records of an op are of one step if each input may be something that they agree on: then
    it may be whatever either says. One of them may have been written by who knew the content of
    an input, and the other by who had never seen that input.
    """
    first = list(range(len(config.records)))
    order = inputs_first(config)
    # What two records say together may be what a third agrees with: then it takes another pass.
    for _ in range(MAX_PASSES):
        if not _join(config, _inputs_by_step(config, order, first), first):
            break
    return _relinked(config, _in_order(_inputs_by_step(config, order, first)), first)


def _inputs_by_step(
    config: CacheConfig, order: Sequence[int], first: Sequence[int]
) -> dict[int, list[Alternatives]]:
    known: dict[int, list[Alternatives]] = {}
    for place in order:
        inputs = config.records[place].inputs
        found = [{(one.selector, _step(first, one.link)) for one in some} for some in inputs]
        mine = known.setdefault(_step(first, place), found)
        for alternatives, more in zip(mine, found, strict=True):
            alternatives |= more
    return known


def _join(config: CacheConfig, known: dict[int, list[Alternatives]], first: list[int]) -> bool:
    """Note in ``first`` which of the steps ``known``, inputs first, are one; say if any are."""
    steps: dict[str, list[int]] = {}
    found = False
    for step, inputs in known.items():
        # Inputs that became one a moment ago count as one here.
        mine = [{(selector, _step(first, link)) for selector, link in one} for one in inputs]
        same = steps.setdefault(config.records[step].digest, [])
        other = next((one for one in same[:MAX_ALIKE] if _agree(known[one], mine)), None)
        known[step] = mine
        if other is None:
            same.append(step)
            continue
        first[step], found = other, True
        for alternatives, more in zip(known[other], mine, strict=True):
            alternatives |= more
    return found


def _in_order(known: Mapping[int, list[Alternatives]]) -> dict[int, list[Alternatives]]:
    """Return ``known`` without what has a step need itself: one that reads an equal one is it now.

    Steps come here in the order of the first record of each, which needs only what comes before:
    whatever else is left out, an input may still be something.
    """
    at = {step: place for place, step in enumerate(known)}
    others = {
        step: [{one for one in some if one[1] != step} for some in inputs]
        for step, inputs in known.items()
    }
    links = {
        step: {link for some in inputs for _, link in some} for step, inputs in others.items()
    }
    try:
        TopologicalSorter(links).prepare()
    except CycleError:
        return {
            step: [{one for one in some if at[one[1]] < at[step]} for some in inputs]
            for step, inputs in known.items()
        }
    return others


def _step(first: Sequence[int], place: int) -> int:
    while first[place] != place:
        place = first[place]
    return place


def _agree(one: list[Alternatives], other: list[Alternatives]) -> bool:
    return len(one) == len(other) and all(a & b for a, b in zip(one, other, strict=True))


def _relinked(
    config: CacheConfig, known: Mapping[int, list[Alternatives]], first: Sequence[int]
) -> CacheConfig:
    placed = {place: at for at, place in enumerate(known)}
    results: dict[int, tuple[list[CacheResult], list[ChainedResult]]] = {}
    for place, record in enumerate(config.records):
        layers, chains = results.setdefault(_step(first, place), ([], []))
        layers += record.layers
        chains += record.chains
    records = [
        CacheRecord(
            tuple(results[place][0]),
            tuple(results[place][1]),
            config.records[place].digest,
            tuple(
                tuple(
                    CacheInput(link=placed[link], selector=selector)
                    for selector, link in sorted(alternatives)
                )
                for alternatives in inputs
            ),
        )
        for place, inputs in known.items()
    ]
    return CacheConfig(config.layers, tuple(records))


def in_image(
    config: CacheConfig,
    layers: Mapping[str, Layer],
    image: Sequence[tuple[str, str]],
) -> CacheConfig:
    """Return ``config`` with only those results that are an image's layers, from the lowest up.

    Args:
        config: a consistent one.
        layers: what is known of its blobs.
        image: for each layer, lowest first, its diffID and the name that it is to have.
    """
    diff_ids = [diff_id for diff_id, _ in image]

    def place_in_image(chain: Sequence[int]) -> int | None:
        blobs = [layers.get(config.layers[place].blob) for place in chain]
        found = [blob.diff_id for blob in blobs if blob is not None]
        is_there = len(found) == len(blobs) and found == diff_ids[: len(found)]
        return len(found) - 1 if found and is_there else None

    records: list[CacheRecord] = []
    for record in config.records:
        chains = [(chain_of(config, one.layer), one.created_at) for one in record.layers]
        chains += [(one.layers, one.created_at) for one in record.chains]
        places = {
            place: when
            for chain, when in chains
            if (place := place_in_image(chain)) is not None
        }
        results = tuple(CacheResult(place, when) for place, when in places.items())
        records.append(msgspec.structs.replace(record, layers=results, chains=()))
    named = tuple(CacheLayer(name, at - 1) for at, (_, name) in enumerate(image))
    return CacheConfig(named, tuple(records))
