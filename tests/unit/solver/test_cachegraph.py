"""Steps as cache records, and back: a record fits what a cache key would fit."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.caches import merge
from solver.caches.config import (
    MAX_DEPTH,
    CacheConfig,
    CacheInput,
    CacheRecord,
    ChainedResult,
    canonical,
    decode,
    encode,
    encode_inline,
)
from solver.caches.graph import (
    CachedStep,
    CacheMatch,
    config_of,
    config_of_key,
    content_record,
    op_record,
)
from solver.caches.merge import in_image, joined, merged
from solver.graph import Graph, Vertex
from solver.keys import content_key
from tests.unit.solver.fakes import IMAGE, digest
from worker.wire.caches import INLINE, parse_inline
from worker.wire.ops import Copy, ExecOp, FileOp, ImageOp, LocalOp, Op
from worker.wire.orders import Layer

BASE = ImageOp(IMAGE, "registry.example/base")
RUN = ExecOp(("make",))
TAKE = FileOp((Copy(0, "/out", "/"),), scratch=True)
CONTEXT = LocalOp("context", digest("content"), digest("tree"))


def layer(name: str) -> Layer:
    return Layer("application/tar", f"sha256:{name.ljust(64, '0')}", 5, f"sha256:{'d' * 64}")


A, B, C = layer("a"), layer("b"), layer("c")
LAYERS = {one.digest: one for one in (A, B, C)}


def graph(*ops: Op, inputs: tuple[tuple[int, ...], ...]) -> Graph:
    vertices = tuple(Vertex(op, links) for op, links in zip(ops, inputs, strict=True))
    return Graph(vertices, len(vertices) - 1)


BUILD = graph(BASE, RUN, TAKE, inputs=((), (0,), (1,)))
OUT = digest("what is read of the run's result")


def written() -> CacheConfig:
    steps = (
        CachedStep(BASE),
        CachedStep(RUN, (0,), (digest("base"),), (A.digest, B.digest), 7.9),
        CachedStep(TAKE, (1,), (OUT,), (C.digest,), 8),
    )
    return decode(encode(config_of(steps)))


def test_each_step_is_found_again_by_its_definition() -> None:
    match = CacheMatch(written(), LAYERS, BUILD)
    assert match.by_definition(0) == []  # a root is named, and has no result
    assert match.by_definition(1) == [(A, B)]
    assert match.by_definition(2) == [(C,)]


def test_the_records_say_what_an_input_may_be_instead() -> None:
    config = written()
    places = {record.digest: place for place, record in enumerate(config.records)}
    take = config.records[places[op_record(TAKE)]]
    assert {one.link for one in take.inputs[0]} == {
        places[op_record(RUN)],
        places[content_record(OUT)],
    }
    assert [config.layers[one.layer].blob for one in take.layers] == [C.digest]


def test_a_changed_step_is_not_found_and_what_reads_the_same_of_it_is() -> None:
    other = graph(BASE, ExecOp(("make", "-j2")), TAKE, inputs=((), (0,), (1,)))
    match = CacheMatch(written(), LAYERS, other)
    assert match.by_definition(1) == match.by_definition(2) == []
    assert match.by_content(1, [digest("another base")]) == []
    assert match.by_content(2, [digest("another output")]) == []
    assert match.by_content(2, [OUT]) == [(C,)]


def test_what_follows_a_step_found_by_content_is_found_by_its_definition() -> None:
    steps = (
        CachedStep(CONTEXT),
        CachedStep(TAKE, (0,), (OUT,), (A.digest,)),
        CachedStep(RUN, (1,), (None,), (A.digest, B.digest)),
    )
    changed = LocalOp("context", digest("changed"), digest("tree"))
    match = CacheMatch(
        config_of(steps), LAYERS, graph(changed, TAKE, RUN, inputs=((), (0,), (1,)))
    )
    assert match.by_content(1, [OUT]) == [(A,)]
    assert match.by_content(2, [digest("whole tree")]) == [(A, B)]


def test_an_input_in_another_place_or_one_more_of_it_is_another_step() -> None:
    two = FileOp((Copy(0, "/a", "/"), Copy(1, "/b", "/")), scratch=True)
    steps = (
        CachedStep(BASE),
        CachedStep(RUN),
        CachedStep(two, (0, 1), (None, None), (A.digest,)),
    )
    config = config_of(steps)
    for inputs, found in (((0, 1), [(A,)]), ((1, 0), []), ((0,), []), ((0, 1, 1), [])):
        tried = graph(BASE, RUN, two, inputs=((), (), inputs))
        assert CacheMatch(config, LAYERS, tried).by_definition(2) == found


def test_an_image_is_one_step_whether_it_is_in_a_layout_or_in_a_registry() -> None:
    in_layout = graph(CONTEXT, ImageOp(IMAGE), RUN, inputs=((), (0,), (1,)))
    assert CacheMatch(written(), LAYERS, in_layout).by_definition(2) == [(A, B)]


def test_what_a_selector_leaves_of_a_record_is_not_taken_for_all_of_it() -> None:
    config = written()
    place = next(p for p, one in enumerate(config.records) if one.digest == op_record(RUN))
    record = config.records[place]
    links = tuple(CacheInput(link=one.link, selector="/a") for one in record.inputs[0])
    records = list(config.records)
    records[place] = msgspec.structs.replace(record, inputs=(links,))
    match = CacheMatch(CacheConfig(config.layers, tuple(records)), LAYERS, BUILD)
    assert match.by_definition(1) == []
    assert match.by_content(1, [digest("base")]) == []


def test_the_result_of_a_key_needs_no_inputs_and_a_record_that_has_some_is_none() -> None:
    contents = [digest("any base")]
    config = config_of_key(content_key(RUN, contents), (A.digest, B.digest))
    assert CacheMatch(config, LAYERS, BUILD).by_content(1, contents) == [(A, B)]
    needing = msgspec.structs.replace(config.records[0], inputs=((CacheInput(link=1),),))
    config = CacheConfig(config.layers, (needing, CacheRecord(digest="another")))
    assert CacheMatch(config, LAYERS, BUILD).by_content(1, contents) == []


def test_a_result_of_more_layers_than_an_image_may_have_is_none() -> None:
    config = config_of((CachedStep(RUN, chain=(A.digest,)),))
    for length, found in ((MAX_DEPTH, [(A,) * MAX_DEPTH]), (MAX_DEPTH + 1, [])):
        record = CacheRecord((), (ChainedResult((0,) * length),), op_record(RUN))
        chained = CacheConfig(config.layers, (record,))
        match = CacheMatch(chained, LAYERS, graph(RUN, inputs=((),)))
        assert match.by_definition(0) == found


def test_a_result_with_a_blob_that_is_not_there_is_none() -> None:
    match = CacheMatch(written(), {B.digest: B, C.digest: C}, BUILD)
    assert match.by_definition(1) == []
    assert match.by_definition(2) == [(C,)]


def test_of_two_results_the_newer_is_tried_first() -> None:
    steps = (CachedStep(RUN, chain=(A.digest,), created_s=5),)
    newer = (CachedStep(RUN, chain=(B.digest,), created_s=9),)
    first, second = config_of(steps), config_of(newer)
    both = CacheConfig(
        (*first.layers, *second.layers),
        (
            *first.records,
            *(
                type(one)(tuple(type(r)(1, r.created_at) for r in one.layers), (), one.digest)
                for one in second.records
            ),
        ),
    )
    only = graph(RUN, inputs=((),))
    assert CacheMatch(both, LAYERS, only).by_definition(0) == [(B,), (A,)]
    assert CacheMatch(canonical(both), LAYERS, only).by_definition(0) == [(B,)]


def test_equal_steps_give_equal_bytes_whatever_stands_beside_them() -> None:
    steps = (CachedStep(BASE), CachedStep(RUN, (0,), (None,), (A.digest,)))
    twice = (*steps, CachedStep(BASE), CachedStep(RUN, (2,), (None,), (A.digest,)))
    assert encode(config_of(twice)) == encode(config_of(steps))


def test_what_is_merged_has_what_is_of_the_graph_and_all_that_it_names() -> None:
    config = written()
    match = CacheMatch(config, LAYERS, BUILD)
    kept, places = match.kept()
    assert [config.records[place].digest for place in sorted(places)] == sorted(
        [op_record(RUN), op_record(TAKE)]
    )
    assert canonical(merged([(kept, places), (kept, places)])) == config
    # Of another graph that shares the run alone, only that stays.
    other = graph(BASE, RUN, inputs=((), (0,)))
    kept, places = CacheMatch(config, LAYERS, other).kept()
    small = merged([(kept, places)])
    assert {layer.blob for layer in small.layers} == {A.digest, B.digest}
    assert {one.digest for one in small.records} == {
        op_record(BASE),
        op_record(RUN),
        content_record(digest("base")),
    }
    # And what has lost a blob is left behind.
    assert CacheMatch(config, {C.digest: C}, other).kept()[1] == set()


def test_two_tellings_of_one_step_are_joined_whatever_each_knew_of_its_inputs() -> None:
    full = [
        CachedStep(BASE),
        CachedStep(RUN, (0,), (digest("base"),), (A.digest,), 5.0),
        CachedStep(TAKE, (1,), (OUT,), (A.digest, B.digest), 6.0),
    ]
    # Who found the last step at once has never seen what it reads.
    blind = [
        CachedStep(BASE),
        CachedStep(RUN, (0,), (None,)),
        CachedStep(TAKE, (1,), (None,), (A.digest, B.digest), 6.0),
    ]
    one, other = config_of(full), config_of(blind)
    both = [(other, range(len(other.records))), (one, range(len(one.records)))]
    for parts in (both, both[::-1]):
        assert canonical(joined(merged(parts))) == canonical(one)
    # Another step with the same op, whose input is something else, stays another.
    apart = config_of([CachedStep(RUN), CachedStep(TAKE, (0,), (digest("x"),), (C.digest,))])
    parts = [(one, range(len(one.records))), (apart, range(len(apart.records)))]
    takes = [r for r in joined(merged(parts)).records if r.digest == op_record(TAKE)]
    assert len(takes) == 2


def test_a_step_that_reads_an_equal_one_is_found_by_its_content() -> None:
    ops = (CONTEXT, TAKE, TAKE)
    steps = (
        CachedStep(CONTEXT),
        CachedStep(TAKE, (0,), (OUT,), (A.digest,), 1),
        CachedStep(TAKE, (1,), (OUT,), (A.digest,), 2),
    )
    config = decode(encode(canonical(joined(config_of(steps)))))
    match = CacheMatch(config, LAYERS, graph(*ops, inputs=((), (0,), (1,))))
    assert match.by_definition(1) == [(A,)]
    assert match.by_content(2, [OUT]) == [(A,)]


def test_steps_that_read_each_other_in_turns_are_found_by_their_contents() -> None:
    ops = (CONTEXT, TAKE, RUN, TAKE, RUN)
    ran = digest("what the run makes")
    steps = (
        CachedStep(CONTEXT),
        CachedStep(TAKE, (0,), (OUT,), (A.digest,), 1),
        CachedStep(RUN, (1,), (ran,), (B.digest,), 2),
        CachedStep(TAKE, (2,), (OUT,), (A.digest,), 3),
        CachedStep(RUN, (3,), (ran,), (B.digest,), 4),
    )
    config = decode(encode(canonical(joined(config_of(steps)))))
    match = CacheMatch(config, LAYERS, graph(*ops, inputs=((), (0,), (1,), (2,), (3,))))
    for position, content, found in ((1, OUT, A), (2, ran, B), (3, OUT, A), (4, ran, B)):
        assert match.by_content(position, [content]) == [(found,)]


@given(st.data())
def test_steps_however_alike_give_a_cache_that_can_be_read(data: st.DataObject) -> None:
    steps: list[CachedStep] = [CachedStep(CONTEXT)]
    for place in range(1, data.draw(st.integers(1, 12))):
        op = TAKE if data.draw(st.booleans()) else RUN
        name = data.draw(st.sampled_from("ab"))
        below = data.draw(st.integers(0, place - 1))
        steps.append(CachedStep(op, (below,), (digest(name),), (A.digest,), place))
    config = decode(encode(canonical(joined(config_of(steps)))))
    assert all(some for record in config.records for some in record.inputs)


def test_an_inline_cache_has_the_results_that_are_layers_of_the_image() -> None:
    def diff(name: str) -> str:
        return f"sha256:{name * 64}"

    layers = {
        one.digest: Layer(one.media_type, one.digest, 1, diff(name))
        for one, name in ((A, "a"), (B, "b"), (C, "c"))
    }
    config = config_of(
        [
            CachedStep(BASE),
            CachedStep(RUN, (0,), (None,), (A.digest,), 5.0),
            CachedStep(TAKE, (1,), (None,), (A.digest, B.digest), 6.0),
            CachedStep(TAKE, (0,), (None,), (C.digest,), 6.0),
        ]
    )
    found = in_image(config, layers, [(diff("a"), "first"), (diff("b"), "second")])
    assert [one.layer for record in found.records for one in record.layers] == [0, 1]
    written = msgspec.json.decode(encode_inline(found))
    places = [one["layer"] for record in written for one in record.get("layers", ())]
    assert sorted(places) == [0, 1]
    image = {INLINE: encode_inline(found), "rootfs": {"diff_ids": [diff("a"), diff("b")]}}
    again = parse_inline(msgspec.json.encode(image), [("t", A.digest, 1), ("t", B.digest, 2)])
    assert again is not None
    text, named = again
    assert [one.diff_id for one in named] == [diff("a"), diff("b")]
    match = CacheMatch(decode(text), {one.digest: one for one in named}, BUILD)
    assert match.by_definition(2) == [named]


def test_many_steps_of_one_op_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    agree = merge._agree

    def counting(*two: list[merge.Alternatives]) -> bool:
        nonlocal asked
        asked += 1
        return agree(*two)

    monkeypatch.setattr(merge, "_agree", counting)
    roots = tuple(CacheRecord(digest=str(number)) for number in range(3000))
    others = tuple(
        CacheRecord(digest="step", inputs=((CacheInput(link=number),),))
        for number in range(3000)
    )
    config = CacheConfig((), roots + others)
    assert joined(config) == CacheConfig((), roots + others)
    assert asked <= 3000 * merge.MAX_ALIKE


def test_steps_are_joined_through_any_number_of_others() -> None:
    records = [CacheRecord(digest="root"), CacheRecord(digest="root")]
    for level in range(300):
        links = ((len(records) - 2,), (len(records) - 1,))
        records += [
            CacheRecord(digest=f"step {level}", inputs=((CacheInput(link=one),),))
            for (one,) in links
        ]
    assert len(joined(CacheConfig((), tuple(records))).records) == 301


def test_what_a_third_record_says_joins_two() -> None:
    roots = (CacheRecord(digest="a"), CacheRecord(digest="b"))
    a, b = CacheInput(link=0), CacheInput(link=1)
    steps = tuple(CacheRecord(digest="step", inputs=(one,)) for one in ((a,), (b,), (a, b)))
    assert joined(CacheConfig((), roots + steps)).records == (
        *roots,
        CacheRecord(digest="step", inputs=((a, b),)),
    )
