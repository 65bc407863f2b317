"""What an image's history tells of the layers that the image has in the end."""

from collections.abc import Sequence
from typing import Any, Final

from worker.wire.orders import Layer

_UNTOLD: Final = "a layer of an equal tree, which was made in more steps"


def fitting(history: Sequence[dict[str, Any]], layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return ``history`` with as many entries of layers as there are ``layers``, lowest first.

    A step that is found by what it reads has the layers that it was made on. Those may have come of
    fewer steps than the history tells of, or of more, as each ``mkdir -p`` of what is there is a step;
    and docker takes no image whose history tells of more layers than it has. What the base and the
    newest steps tell keeps its layer.
    """
    told = [at for at, entry in enumerate(history) if not entry.get("empty_layer")]
    base = min(sum(layer.imported for layer in layers), len(told), len(layers))
    newest = min(len(layers), len(told)) - base
    without = frozenset(told[base : len(told) - newest])
    fitted = [
        entry | {"empty_layer": True} if at in without else entry
        for at, entry in enumerate(history)
    ]
    more = len(layers) - len(told)
    above = told[base] if base < len(told) else len(fitted)
    return [*fitted[:above], *({"comment": _UNTOLD} for _ in range(more)), *fitted[above:]]
