"""Secrets of a build: what a user shows to the steps that name it, and to nothing else."""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from worker.wire.ops import MAX_PATH_CHARS, Op, SecretMount, given_to

MAX_SECRET_BYTES: Final = 500 << 10
"""Bound on one secret, which is BuildKit's."""
MAX_SECRETS: Final = 100


class Secret(msgspec.Struct, frozen=True):
    """What ``RUN --mount=type=secret`` shows. It is passed on, and never stored or shown."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATH_CHARS)]
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_SECRET_BYTES)]

    def __repr__(self) -> str:
        return f"Secret({self.id!r})"


Secrets = Annotated[tuple[Secret, ...], msgspec.Meta(max_length=MAX_SECRETS)]


def secrets_for(op: Op, secrets: Sequence[Secret]) -> tuple[Secret, ...]:
    """Return those that ``op`` names."""
    named = given_to(op, SecretMount)
    return tuple(one for one in secrets if one.id in named)
