"""Placement: a pure function, so equal facts give equal answers, and the cheapest wins."""

from collections.abc import Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from solver.place import Placement, Reach, WorkerView, explain, place, seconds
from worker.wire.orders import Mode

NAMES = ("ant", "bee", "cat", "dog")
Inputs = list[Mapping[str, Reach]]
reach = st.builds(
    Reach, st.sampled_from([Mode.PATHS, Mode.LAYERS]), st.integers(0, 10**12)
) | st.just(Reach(Mode.LOCAL))
inputs_of = st.lists(st.dictionaries(st.sampled_from(NAMES), reach), max_size=4)
labels = st.dictionaries(st.sampled_from(["arch", "gpu"]), st.sampled_from(["x", "y"]))
constraint = st.tuples(st.sampled_from(["arch", "gpu"]), st.sampled_from(["x", "y"]))
view = st.builds(
    WorkerView,
    st.sampled_from(NAMES),
    labels,
    st.integers(1, 4),
    st.lists(st.floats(0, 1e6), max_size=9).map(tuple),
)
views_of = st.lists(view, max_size=4, unique_by=lambda one: one.name)


def idle(*names: str) -> list[WorkerView]:
    return [WorkerView(name, {}, 1) for name in names]


def chosen(placement: Placement | None) -> str:
    assert placement is not None
    return placement.chosen.worker


@given(inputs_of, views_of, st.lists(constraint, max_size=2), st.randoms())
def test_order_of_the_workers_changes_nothing(
    inputs: Inputs,
    views: list[WorkerView],
    constraints: list[tuple[str, str]],
    random: Random,
) -> None:
    shuffled = views.copy()
    random.shuffle(shuffled)
    first = place(inputs, views, constraints=constraints)
    assert first == place(inputs, shuffled, constraints=constraints)


@given(inputs_of, views_of, st.lists(constraint, max_size=2))
def test_only_workers_with_the_labels_that_every_input_reaches_are_considered(
    inputs: Inputs, views: list[WorkerView], constraints: list[tuple[str, str]]
) -> None:
    fit = {
        one.name
        for one in views
        if all(one.labels.get(key) == value for key, value in constraints)
        and all(one.name in reaches for reaches in inputs)
    }
    placement = place(inputs, views, constraints=constraints)
    considered = set() if placement is None else {c.worker for c in placement.considered}
    assert considered == fit


@given(inputs_of, views_of)
def test_nobody_considered_is_cheaper_than_the_chosen(
    inputs: Inputs, views: list[WorkerView]
) -> None:
    placement = place(inputs, views)
    if placement is not None:
        assert placement.chosen.seconds == min(c.seconds for c in placement.considered)


@given(st.sampled_from([Mode.PATHS, Mode.LAYERS]), st.integers(0, 10**12))
def test_here_beats_moving_however_little_when_queues_are_equal(mode: Mode, size: int) -> None:
    inputs = [{"ant": Reach(mode, size), "bee": Reach(Mode.LOCAL)}]
    assert chosen(place(inputs, idle("ant", "bee"))) == "bee"


def test_who_has_been_busy_for_long_is_not_waited_for_where_another_can_have_it_sooner() -> (
    None
):
    inputs = [{"ant": Reach(Mode.LOCAL), "bee": Reach(Mode.LAYERS, 1_000_000_000)}]

    def where(*ran_s: float, slots: int = 1) -> str:
        return chosen(place(inputs, [WorkerView("ant", {}, slots, ran_s), *idle("bee")]))

    assert [where(ran_s) for ran_s in (0.1, 5.0, 60.0)] == ["ant", "ant", "bee"]
    assert where(60.0, 1.0, slots=2) == "ant", "one that began just now may be over soon"
    assert where(60.0, 7.0, 4.0, slots=2) == "bee", "two have to end first"


def test_long_queue_outweighs_a_small_move() -> None:
    inputs = [{"ant": Reach(Mode.LOCAL), "bee": Reach(Mode.PATHS, 1000)}]
    busy = [WorkerView("ant", {}, 1, (0.0,) * 3), *idle("bee")]
    assert chosen(place(inputs, busy)) == "bee"


def test_large_move_outweighs_a_short_queue() -> None:
    inputs = [{"ant": Reach(Mode.LOCAL), "bee": Reach(Mode.LAYERS, 10**10)}]
    busy = [WorkerView("ant", {}, 1, (0.0,)), *idle("bee")]
    assert chosen(place(inputs, busy)) == "ant"


def test_worker_with_a_free_slot_does_not_make_a_step_wait() -> None:
    placement = place([], [WorkerView("ant", {}, 4, (0.0,) * 3)])
    assert placement is not None
    assert placement.chosen.wait_s == 0


def test_equal_workers_are_told_apart_by_load_and_then_by_name() -> None:
    assert chosen(place([], idle("cat", "ant", "bee"))) == "ant"
    assert chosen(place([], [WorkerView("ant", {}, 4, (0.0,)), *idle("bee")])) == "bee"


def test_nobody_fits_gives_no_placement() -> None:
    assert place([], []) is None
    assert place([{}], idle("ant")) is None
    assert place([], idle("ant"), constraints=[("gpu", "yes")]) is None


def test_moving_takes_longer_than_having_and_layers_longer_than_paths() -> None:
    paths, layers = Reach(Mode.PATHS, 10**9), Reach(Mode.LAYERS, 10**9)
    assert seconds(Reach(Mode.LOCAL)) == 0 < seconds(paths) < seconds(layers)


@given(inputs_of, views_of)
def test_explanation_names_the_chosen_first_and_then_all_others(
    inputs: Inputs, views: list[WorkerView]
) -> None:
    placement = place(inputs, views)
    if placement is not None:
        first, *others = explain(placement)
        assert first.startswith(f"chosen {placement.chosen.worker}: ")
        assert len(others) == len(placement.considered) - 1
        assert not any(line.startswith("chosen") for line in others)


def test_explanation_tells_how_each_input_comes() -> None:
    inputs = [{"ant": Reach(Mode.LOCAL)}, {"ant": Reach(Mode.PATHS, 12345, "s1")}]
    placement = place(inputs, idle("ant"))
    assert placement is not None
    (line,) = explain(placement)
    assert line.endswith("input 0 local, input 1 paths 12,345 B on basis s1")
