"""Platforms that images are for, and which of several is the nearest to one that is wanted."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import msgspec

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armel": "arm",
}
_USUAL_VARIANTS: Final = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
"""The variant that is meant where none is said."""

_NUMBERED: Final = re.compile(r"v[0-9]{1,4}")

T = TypeVar("T")


class Platform(msgspec.Struct, frozen=True):
    """Operating system, architecture and variant, in Go's words (``linux/arm64/v8``)."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def is_same(self, other: "Platform") -> bool:
        """Whether both name one platform, a variant left out being the usual one."""
        return _normal(self) == _normal(other)


def nearest(offered: Iterable[tuple[Platform | None, T]], wanted: Platform) -> Iterator[T]:
    """Yield what may be for ``wanted``: the nearest variant first.

    What does not say for which platform it is comes last: it has to be read to know. What is
    equally near keeps its order.
    """
    said: list[tuple[int, T]] = []
    unsaid: list[T] = []
    for platform, one in offered:
        if platform is None:
            unsaid.append(one)
        elif (steps := steps_to(platform, wanted)) is not None:
            said.append((steps, one))
    yield from (one for _, one in sorted(said, key=lambda pair: pair[0]))
    yield from unsaid


def steps_to(there: Platform, wanted: Platform) -> int | None:
    """Return how much earlier a platform's variant is; None where ``wanted`` cannot run it."""
    if (there.os, there.architecture) != (wanted.os, wanted.architecture):
        return None
    usual = _USUAL_VARIANTS.get(wanted.architecture, "")
    have, want = there.variant or usual, wanted.variant or usual
    if have == want:
        return 0
    if not (_NUMBERED.fullmatch(have) and _NUMBERED.fullmatch(want)):
        return None
    # A processor runs what was made for an earlier variant of it: arm/v6 on v7.
    step = int(want[1:]) - int(have[1:])
    return step if step > 0 else None


def _normal(platform: Platform) -> tuple[str, str, str]:
    architecture = _ARCHITECTURES.get(platform.architecture, platform.architecture)
    variant = platform.variant or _USUAL_VARIANTS.get(architecture, "")
    return platform.os, architecture, variant
