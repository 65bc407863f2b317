"""Changes to what MessagePack or JSON says: blind changes to its bytes seldom give another message."""

import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 40
_NUMBERS: Final = (0, 1, -1, 127, 255, 4096, 65_535, 1 << 20, 1 << 31, (1 << 63) - 1, 1 << 63)
_OTHERS: Final[tuple[Any, ...]] = (
    None,
    True,
    1.5,
    "",
    b"",
    [],
    {},
    "op",
    b"..",
    b"a/b",
    bytes(16),
    bytes(32),
)

Mutate = Callable[[bytes], bytes]
"""Changes bytes at random, as the fuzzer sees fit."""


def mutated(body: bytes, rng: random.Random, mutate: Mutate, *, json: bool = False) -> bytes:
    """Return ``body`` with something in it changed; as bytes, if it is no message."""
    form = msgspec.json if json else msgspec.msgpack
    if rng.random() < 0.2:
        return mutate(body)
    try:
        changed = _changed(form.decode(body), rng, mutate, 0)
        made: bytes = form.encode(changed)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError, TypeError):
        return mutate(body)
    return made


def _changed(value: Any, rng: random.Random, mutate: Mutate, depth: int) -> Any:  # noqa: ANN401
    if isinstance(value, list | dict) and value and depth < MAX_DEPTH and rng.random() < 0.8:
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        at = rng.randrange(len(items))
        key, below = items[at]
        match rng.randrange(8):
            case 0:
                del items[at]
            case 1 if isinstance(value, list):
                items.insert(rng.randrange(len(items) + 1), items[at])
            case 2 if isinstance(value, list):
                other = rng.randrange(len(items))
                items[at], items[other] = items[other], items[at]
            case _:
                items[at] = (key, _changed(below, rng, mutate, depth + 1))
        return dict(items) if isinstance(value, dict) else [below for _, below in items]
    return _leaf(value, rng, mutate)


def _leaf(value: Any, rng: random.Random, mutate: Mutate) -> Any:  # noqa: ANN401
    if rng.random() < 0.1:
        return rng.choice(_OTHERS)
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((rng.choice(_NUMBERS), value + 1, value - 1, value * 2))
        case bytes():
            return mutate(value)
        case str():
            return mutate(value.encode()).decode(errors="ignore")
        case _:
            return rng.choice(_OTHERS)
