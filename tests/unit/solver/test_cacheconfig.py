"""Cache config v0: written in one way only, and read with suspicion."""

import json
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.caches.config import (
    NO_PARENT,
    CacheConfig,
    CacheInput,
    CacheLayer,
    CacheRecord,
    CacheResult,
    ChainedResult,
    canonical,
    decode,
    encode,
)
from worker.wire.caches import MAX_CACHE_BYTES, BadCacheConfig


def sha(start: str) -> str:
    return f"sha256:{start.ljust(64, '0')}"


GOLDEN = (
    f'{{"layers":[{{"blob":"{sha("095603")}","parent":-1}},'
    f'{{"blob":"{sha("87d54c")}","parent":-1}},'
    f'{{"blob":"{sha("d87a26")}","parent":1}}],'
    f'"records":[{{"layers":[{{"layer":0,"createdAt":"2026-09-01T00:00:01Z"}}],'
    f'"digest":"{sha("18cb36")}","inputs":[[{{"selector":"{sha("c74208")}","link":1}},'
    f'{{"link":2}}]]}},'
    f'{{"layers":[{{"layer":2,"createdAt":"2026-09-01T00:00:00Z"}}],'
    f'"digest":"{sha("80fecb")}","inputs":[[{{"link":3}}]]}},'
    f'{{"digest":"{sha("b028e0")}"}},{{"digest":"{sha("bbe40f")}"}}]}}'
).encode()
"""What BuildKit writes for FROM, RUN and COPY --from (its digests cut short)."""


def test_what_buildkit_wrote_is_read_and_written_again_as_the_same_bytes() -> None:
    config = decode(GOLDEN)
    assert config.layers[2] == CacheLayer(sha("d87a26"), 1)
    assert config.records[1].layers == (CacheResult(2, datetime(2026, 9, 1, tzinfo=UTC)),)
    assert config.records[0].inputs == (
        (CacheInput(link=1, selector=sha("c74208")), CacheInput(link=2)),
    )
    assert encode(config) == GOLDEN


def test_a_parent_that_is_left_out_is_the_first_layer() -> None:
    config = CacheConfig((CacheLayer("a", NO_PARENT), CacheLayer("b", 0)))
    assert encode(config) == b'{"layers":[{"blob":"a","parent":-1},{"blob":"b"}]}'
    assert decode(encode(config)) == config


def test_of_equal_records_the_newest_result_stays_with_the_time_it_was_first_made() -> None:
    layers = (CacheLayer("a", NO_PARENT), CacheLayer("b", NO_PARENT))
    old, new, newest = (datetime(year, 1, 1, tzinfo=UTC) for year in (2020, 2021, 2022))
    records = tuple(
        CacheRecord((CacheResult(layer, when),), digest="r")
        for layer, when in ((0, old), (1, new), (0, new), (1, newest))
    )
    (record,) = canonical(CacheConfig(layers, records)).records
    assert record.layers == (CacheResult(1, new),)


def test_what_is_not_known_is_ignored() -> None:
    value = json.loads(GOLDEN)
    value["later"] = {"a": [1]}
    value["layers"][0]["annotations"] = {"mediaType": "m", "size": -5, "later": 1}
    value["records"][2]["later"] = None
    config = decode(json.dumps(value).encode())
    assert config.records == decode(GOLDEN).records
    assert config.layers[1:] == decode(GOLDEN).layers[1:]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no cache config"),
        ("[]", "no cache config"),
        ("\xff", "no cache config"),
        ('{"layers":[{"blob":"a"}]}', "stands on itself"),
        ('{"layers":[{"blob":"a","parent":1},{"blob":"b"}]}', "stands on itself"),
        ('{"layers":[{"blob":"a","parent":1}]}', "which is not there"),
        ('{"layers":[{"blob":"a","parent":-2}]}', "no cache config"),
        ('{"layers":[{"blob":"a","parent":99999999999999999999}]}', "no cache config"),
        ('{"records":[{"layers":[{"layer":0}]}]}', "a layer that is not there"),
        ('{"records":[{"chains":[{"layers":[0]}]}]}', "a layer that is not there"),
        ('{"records":[{"inputs":[[{"link":1}]]}]}', "an input that is not there"),
        ('{"records":[{"inputs":[[{"link":0}]]}]}', "needs itself"),
        ('{"records":[{"inputs":[[{"link":1}]]},{"inputs":[[{"link":0}]]}]}', "needs itself"),
        ('{"records":[{"layers":[{"layer":0,"createdAt":"never"}]}]}', "no cache config"),
    ],
)
def test_what_is_not_consistent_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(BadCacheConfig, match=why):
        decode(text.encode("latin-1"))


def test_a_config_larger_than_buildkits_own_limit_is_read_and_one_without_bound_is_not() -> (
    None
):
    many = tuple(CacheLayer(sha(f"{number:08x}"), NO_PARENT) for number in range(40_000))
    data = encode(CacheConfig(many))
    assert len(data) > 3 << 20
    assert len(decode(data).layers) == 40_000
    with pytest.raises(BadCacheConfig, match="8 MiB"):
        decode(b" " * (MAX_CACHE_BYTES + 1))


def test_a_chain_of_records_of_any_length_is_read_without_recursion() -> None:
    records = [CacheRecord(digest="0")]
    records += [
        CacheRecord(digest=str(i), inputs=((CacheInput(link=i - 1),),)) for i in range(1, 5000)
    ]
    config = CacheConfig((), tuple(records))
    assert len(decode(encode(config)).records) == 5000


names = st.sampled_from(["a", "b", "c"])
times = st.none() | st.integers(0, 3).map(lambda s: datetime.fromtimestamp(s, UTC))


@st.composite
def configs(draw: st.DrawFn) -> CacheConfig:
    layers = [
        CacheLayer(draw(names), draw(st.integers(NO_PARENT, place - 1)))
        for place in range(draw(st.integers(0, 6)))
    ]
    records: list[CacheRecord] = []
    for place in range(draw(st.integers(0, 6))):
        one = st.builds(
            CacheInput, link=st.integers(0, place - 1), selector=names | st.just("")
        )
        inputs = st.lists(st.lists(one, max_size=3).map(tuple), max_size=2)
        index = st.integers(0, len(layers) - 1)
        results = st.lists(st.builds(CacheResult, index, times), max_size=2)
        chained = st.lists(
            st.builds(ChainedResult, st.lists(index, max_size=3).map(tuple), times), max_size=2
        )
        records.append(
            CacheRecord(
                tuple(draw(results)) if layers else (),
                tuple(draw(chained)) if layers else (),
                draw(names),
                tuple(draw(inputs)) if place else (),
            )
        )
    return CacheConfig(tuple(layers), tuple(records))


@given(configs())
def test_what_is_written_reads_back_as_its_canonical_form(config: CacheConfig) -> None:
    assert decode(encode(config)) == canonical(config)
    assert encode(decode(encode(config))) == encode(config)


@given(configs(), st.randoms(use_true_random=False))
def test_the_order_in_which_a_config_was_put_together_does_not_show(
    config: CacheConfig, random: Random
) -> None:
    assert encode(shuffled(config, random)) == encode(config)


def shuffled(config: CacheConfig, random: Random) -> CacheConfig:
    """Return the same graph with everything at other places."""
    layer_at = list(range(len(config.layers)))
    record_at = list(range(len(config.records)))
    for places in (layer_at, record_at):
        random.shuffle(places)
    layers = {
        layer_at[old]: CacheLayer(
            layer.blob, NO_PARENT if layer.parent == NO_PARENT else layer_at[layer.parent]
        )
        for old, layer in enumerate(config.layers)
    }
    records = {
        record_at[old]: CacheRecord(
            tuple(CacheResult(layer_at[r.layer], r.created_at) for r in reversed(one.layers)),
            tuple(
                ChainedResult(tuple(layer_at[i] for i in r.layers), r.created_at)
                for r in reversed(one.chains)
            ),
            one.digest,
            tuple(
                tuple(
                    CacheInput(link=record_at[i.link], selector=i.selector)
                    for i in reversed(alternatives)
                )
                for alternatives in one.inputs
            ),
        )
        for old, one in enumerate(config.records)
    }
    return CacheConfig(
        tuple(layers[i] for i in sorted(layers)), tuple(records[i] for i in sorted(records))
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_a_config_or_refused(data: bytes) -> None:
    try:
        config = decode(data)
    except BadCacheConfig:
        return
    assert decode(encode(config)) == canonical(config)


def test_a_config_whose_chains_are_too_long_together_is_refused() -> None:
    chain = [{"blob": "a", "parent": at - 1} for at in range(500)]
    wide = [*chain, *({"blob": str(n), "parent": 499} for n in range(8000))]
    with pytest.raises(BadCacheConfig, match="more than"):
        decode(json.dumps({"layers": wide}).encode())
    records = [{"digest": "r", "layers": [{"layer": 499}] * 8000}]
    with pytest.raises(BadCacheConfig, match="more than"):
        decode(json.dumps({"layers": chain, "records": records}).encode())
    decode(json.dumps({"layers": wide[:7000], "records": []}).encode())


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00", "2026-01-01", "x", 5])
def test_a_time_that_is_none_is_refused(text: object) -> None:
    record = {"digest": "r", "layers": [{"layer": 0, "createdAt": text}]}
    value = {"layers": [{"blob": "a", "parent": -1}], "records": [record]}
    with pytest.raises(BadCacheConfig):
        decode(json.dumps(value).encode())
