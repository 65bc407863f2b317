"""Sizes and durations in a Dockerfile: a wrong one is a fault of its instruction."""

from filesync.command import quantities
from filesync.command.quantities import BadQuantity
from solver.dockerfile.errors import Invalid


def parse_size(text: str) -> int:
    """Return bytes; see ``filesync.command.quantities``.

    Raises:
        Invalid: no size.
    """
    try:
        return quantities.parse_size(text)
    except BadQuantity as exc:
        raise Invalid(str(exc), text) from exc


def parse_duration(text: str) -> int:
    """Return nanoseconds; see ``filesync.command.quantities``.

    Raises:
        Invalid: no duration.
    """
    try:
        return quantities.parse_duration(text)
    except BadQuantity as exc:
        raise Invalid(str(exc), text) from exc
