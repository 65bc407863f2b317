"""Placement: which worker runs a step, and by which mode each input reaches it.

A pure function of what the manager knows. For each worker that may run the step it adds up the
seconds to move what that worker lacks and the seconds it would wait; the cheapest wins. Equal
inputs give equal answers: ties go to the worker that holds more, then by name.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from worker.wire.orders import Mode

PATHS_BYTES_PER_S: Final = 300e6
LAYERS_BYTES_PER_S: Final = 100e6
"""Layers are packed, compressed, sent and unpacked; measured, about a third of a sync's rate."""
TRANSFER_S: Final = 0.01
"""What opening any transfer takes, so that "a few bytes away" is not as good as "here"."""
QUEUED_STEP_S: Final = 2.0
"""Guess of how long a step lasts that has just begun; one that has lasted longer is taken to last as
long again."""


class Reach(msgspec.Struct, frozen=True):
    """One way in which one input can reach one worker.

    Attributes:
        bytes_to_move: content bytes that the worker lacks.
        basis: idle source to start from (mode PATHS), or empty.
    """

    mode: Mode
    bytes_to_move: int = 0
    basis: str = ""


class WorkerView(msgspec.Struct, frozen=True):
    """What the manager believes of a worker at one instant.

    Attributes:
        ran_s: of each step that was given to it and is not over, how long ago that was.
    """

    name: str
    labels: Mapping[str, str]
    slots: int
    ran_s: tuple[float, ...] = ()

    @property
    def running(self) -> int:
        """How many steps were given to it and are not over."""
        return len(self.ran_s)


class Choice(msgspec.Struct, frozen=True):
    """A worker considered for a step, with what it would cost."""

    worker: str
    move_s: float
    wait_s: float
    reaches: tuple[Reach, ...]

    @property
    def seconds(self) -> float:
        """The whole cost."""
        return self.move_s + self.wait_s


class Placement(msgspec.Struct, frozen=True):
    """Where a step runs, how its inputs get there, and what else was considered."""

    chosen: Choice
    considered: tuple[Choice, ...]


def place(
    inputs: Sequence[Mapping[str, Reach]],
    workers: Sequence[WorkerView],
    *,
    constraints: Sequence[tuple[str, str]] = (),
) -> Placement | None:
    """Choose a worker for one step, or return None when none fits ``constraints``.

    Args:
        inputs: for each input, how it would best reach each worker, by worker's name. A
            worker that an input cannot reach is left out of its mapping.
        workers: at most one view per name.
        constraints: labels that the worker must have, with these values.
    """
    choices = [
        _choice(view, inputs)
        for view in workers
        if fits(view, constraints) and all(view.name in reaches for reaches in inputs)
    ]
    if not choices:
        return None
    running = {view.name: view.running for view in workers}
    ranked = sorted(choices, key=lambda c: (c.seconds, -_held(c), running[c.worker], c.worker))
    return Placement(ranked[0], tuple(ranked))


def fits(worker: WorkerView, constraints: Sequence[tuple[str, str]]) -> bool:
    """Say whether a worker has the labels of ``constraints``, with their values."""
    return all(worker.labels.get(key) == value for key, value in constraints)


def seconds(reach: Reach) -> float:
    """Return how long ``reach`` takes."""
    match reach.mode:
        case Mode.LOCAL:
            return 0.0
        case Mode.PATHS:
            return TRANSFER_S + reach.bytes_to_move / PATHS_BYTES_PER_S
        case Mode.LAYERS | Mode.REGISTRY | Mode.URL:
            return TRANSFER_S + reach.bytes_to_move / LAYERS_BYTES_PER_S


def explain(placement: Placement) -> tuple[str, ...]:
    """Return lines for people: the choice first, then what was not chosen."""
    return tuple(
        f"{'chosen' if choice is placement.chosen else '      '} {choice.worker}: "
        f"{choice.seconds:.3f} s (move {choice.move_s:.3f}, wait {choice.wait_s:.3f}) "
        + ", ".join(
            f"input {i} {reach.mode}"
            + (f" {reach.bytes_to_move:,} B" if reach.mode is not Mode.LOCAL else "")
            + (f" on basis {reach.basis}" if reach.basis else "")
            for i, reach in enumerate(choice.reaches)
        )
        for choice in placement.considered
    )


def _choice(view: WorkerView, inputs: Sequence[Mapping[str, Reach]]) -> Choice:
    reaches = tuple(reaches[view.name] for reaches in inputs)
    before = max(0, view.running + 1 - view.slots)
    wait_s = sum(max(QUEUED_STEP_S, ran_s) for ran_s in sorted(view.ran_s)[:before])
    return Choice(view.name, sum(map(seconds, reaches)), wait_s, reaches)


def _held(choice: Choice) -> int:
    return sum(reach.mode is Mode.LOCAL for reach in choice.reaches)
