import pytest

from filesync.transfer.receive.policy import SAMPLE_S, Link, delta_pays

GIGABIT = 125e6


@pytest.mark.parametrize(
    ("new", "old", "bytes_per_s", "pays"),
    [
        (100_000, 100_000, 0.0, True),
        (100_000, 100_000, 1e6, True),
        (100_000, 100_000, 5e9, True),
        (1_000, 1_000, GIGABIT, False),
        (1_000, 1_000, 1e6, True),
        (100_000, 500, GIGABIT, False),
        (500, 100_000, GIGABIT, False),
        (0, 0, 0.0, False),
    ],
    ids=[
        "an edited file on a link of unknown speed",
        "on a slow link",
        "on a fast link, which others use too",
        "a tiny file on a fast link",
        "a tiny file on a slow link",
        "hardly anything was replaced",
        "signatures would outweigh the file",
        "nothing",
    ],
)
def test_a_delta_pays_where_the_wire_costs_more_than_signing(
    new: int, old: int, bytes_per_s: float, pays: bool
) -> None:
    assert delta_pays(new, old, bytes_per_s) is pays


def test_a_links_speed_is_unknown_until_it_was_watched_for_a_while() -> None:
    link = Link()
    link.note(1000, SAMPLE_S / 2)
    assert link.bytes_per_s == 0
    link.note(1000, SAMPLE_S / 2)
    assert link.bytes_per_s == 2000 / SAMPLE_S


def test_a_links_speed_follows_what_is_seen() -> None:
    link = Link()
    for _ in range(40):
        link.note(1000, 1.0)
    for _ in range(40):
        link.note(5000, 1.0)
    assert link.bytes_per_s == pytest.approx(5000, rel=0.01)
