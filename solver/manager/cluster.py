"""All connected workers, and which of them holds which ref.

What is here was announced by the workers and may be stale: a wrong entry costs a round trip.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from filesync.digest import Digest
from solver.errors import InputLost
from solver.manager.workers import WorkerLink
from worker.wire.orders import RefInfo

SILENCE_S: Final = 10.0
"""A worker that has said nothing for this long is gone; it says something every second."""


class Cluster:
    """The connected workers by name and by ZeroMQ identity."""

    def __init__(self) -> None:
        self._by_name: dict[str, WorkerLink] = {}
        self._by_identity: dict[bytes, WorkerLink] = {}
        self._holders: dict[Digest, set[str]] = {}
        self._joined = asyncio.Event()

    def lacks(self, constraints: Sequence[tuple[str, str]]) -> str:
        """Return for people that no worker has the labels ``constraints``, and who is there."""
        if not self._by_name:
            return "no worker is connected"
        labels = ", ".join(f"{key}={value}" for key, value in constraints)
        there = "; ".join(
            f"{w.name} ({', '.join(f'{k}={v}' for k, v in sorted(w.view().labels.items()))})"
            for w in self
        )
        return f"no worker has {labels}; connected are {there}"

    def __iter__(self) -> Iterator[WorkerLink]:
        return iter(sorted(self._by_name.values(), key=lambda worker: worker.name))

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str) -> WorkerLink | None:
        """Return the worker called ``name``, if it is connected."""
        return self._by_name.get(name)

    def identified(self, identity: bytes) -> WorkerLink | None:
        """Return the worker behind a ZeroMQ identity, if it has registered."""
        return self._by_identity.get(identity)

    def join(self, worker: WorkerLink) -> None:
        """Add a worker; what it holds is added with ``add_ref``."""
        self._by_name[worker.name] = worker
        self._by_identity[worker.identity] = worker
        self._joined.set()
        self._joined = asyncio.Event()

    def leave(self, worker: WorkerLink) -> None:
        """Take a worker out and fail its orders. Idempotent."""
        if self._by_name.get(worker.name) is worker:
            del self._by_name[worker.name]
        self._by_identity.pop(worker.identity, None)
        for ref in worker.refs:
            self._forget_holder(ref, worker.name)
        worker.refs.clear()
        worker.lose()

    def silent(self, now_s: float) -> list[WorkerLink]:
        """Return the workers that have said nothing for too long."""
        return [w for w in self._by_name.values() if now_s - w.last_s > SILENCE_S]

    async def wait_for_join(self, timeout_s: float) -> bool:
        """Wait until a worker joins; say whether one did."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._joined.wait()
        except TimeoutError:
            return False
        return True

    async def wait_until_learnt(self) -> None:
        """Wait until what every connected worker holds is known."""
        for worker in self:
            await worker.learnt.wait()

    def add_ref(self, worker: WorkerLink, info: RefInfo) -> None:
        """Note that ``worker`` holds a ref whole; one that has left meanwhile holds nothing."""
        if worker.gone:
            return
        worker.refs.add(info.ref)
        self._holders.setdefault(info.ref, set()).add(worker.name)

    def drop_ref(self, worker: WorkerLink, ref: Digest) -> None:
        """Note that ``worker`` does not hold a ref after all."""
        worker.refs.discard(ref)
        self._forget_holder(ref, worker.name)

    def forget(self, worker: WorkerLink, refs: Iterable[Digest]) -> None:
        """Note that ``worker`` has removed ``refs``, and directory nodes with them."""
        worker.known.clear()
        for ref in refs:
            self.drop_ref(worker, ref)

    def holders(self, ref: Digest) -> list[WorkerLink]:
        """Return the workers that hold ``ref``, the least busy first."""
        held = [self._by_name[name] for name in self._holders.get(ref, ())]
        return sorted(held, key=lambda worker: (worker.running, worker.name))

    def holder(self, ref: Digest, position: int) -> WorkerLink:
        """Return the least busy worker that holds ``ref``.

        Raises:
            InputLost: none does; ``position`` is the step that must run again.
        """
        held = self.holders(ref)
        if not held:
            raise InputLost(position)
        return held[0]

    def _forget_holder(self, ref: Digest, name: str) -> None:
        held = self._holders.get(ref)
        if held is not None:
            held.discard(name)
            if not held:
                del self._holders[ref]


def start_one(constraints: Sequence[tuple[str, str]]) -> str:
    """Return for people how a worker is started that has the labels ``constraints``."""
    labels = "".join(f" --label {key}={value}" for key, value in constraints)
    other = ", or leave --place out" if labels else ""
    return f"start one with `filesync worker --manager …{labels}`{other}"
