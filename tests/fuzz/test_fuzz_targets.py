"""The targets of ``make fuzz`` run on their seeds, and on what was once found, in every test run."""

from importlib import import_module

import pytest

from tests.fuzz import __main__ as fuzzing

TARGETS = {name: import_module(f"tests.fuzz.{name}") for name in fuzzing.TARGETS}
FOUND: list[tuple[str, bytes]] = []
"""What ``make fuzz`` has found, each by its target's name. Nothing so far."""
SEEDS = [(name, data) for name, target in TARGETS.items() for data in target.seeds()]


@pytest.mark.parametrize(("name", "data"), SEEDS + FOUND)
def test_a_target_takes_any_part_of_an_input(name: str, data: bytes) -> None:
    target = TARGETS[name]
    for end in {len(data), len(data) // 2, len(data) - 1, 0}:
        target.fuzz(data[:end])


@pytest.mark.parametrize(("name", "data"), SEEDS)
def test_a_target_takes_an_input_with_a_bit_flipped(name: str, data: bytes) -> None:
    for at in range(0, len(data), max(len(data) // 100, 1)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        TARGETS[name].fuzz(bytes(flipped))
