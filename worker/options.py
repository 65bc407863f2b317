"""How a worker is run."""

from pathlib import Path

import msgspec

from filesync.keys.files import KeyPair
from worker.registry import Registries
from worker.wire.disk import PrunePolicy


class WorkerOptions(msgspec.Struct, frozen=True):
    """How to run a worker.

    Attributes:
        manager: address of the manager.
        listen: address of the data plane; port 0 is any free one.
        snapshotter: ``overlay``, ``copy``, or None to choose what works here.
        own: what it proves itself with, if the manager's address takes a key.
        registries: how to reach those that are not reached as all others are.
        policies: what the state directory is held to; without one it grows until it is pruned by order.
        allow_insecure: may listen off loopback without keys, where all can read what it offers.
    """

    manager: str
    listen: str
    state: Path
    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    slots: int = 0
    snapshotter: str | None = None
    own: KeyPair | None = None
    allow_insecure: bool = False
    registries: Registries = msgspec.field(default_factory=Registries)
    policies: tuple[PrunePolicy, ...] = ()
