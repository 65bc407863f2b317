"""Results on this worker that somebody far away relies on, each for a time."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from filesync.digest import Digest
from worker.store.refs import RefMissing
from worker.store.store import Store
from worker.wire.leases import (
    AskLacking,
    BlobPut,
    EndLeases,
    Held,
    Hold,
    HoldCached,
    Lacking,
    LeaseOrder,
    PutBlob,
    RenewLeases,
)
from worker.wire.orders import Finished, RefInfo


class _Lease(msgspec.Struct):
    ref: Digest
    until_s: float
    tree: contextlib.ExitStack


class Leases:
    """The leases on what is in ``store``. Thread-safe; blocks.

    What is held is held open like a tree that is read, so nothing removes it.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now = now
        self._leases: dict[bytes, _Lease] = {}
        self._lock = threading.Lock()

    def perform(self, order: LeaseOrder) -> Held | Lacking | BlobPut | Finished:
        """Carry out an order."""
        match order:
            case HoldCached():
                return Held(self._hold_cached(order))
            case Hold(ref, lease, seconds):
                try:
                    self.hold(lease, ref, seconds)
                except RefMissing:
                    return Held()
                held = self._store.refs.find(ref)
                return Held(RefInfo(ref, ref, source=True) if held is None else held.info)
            case AskLacking(refs):
                here, sources = self._store.refs.find, self._store.held_sources()
                lacking = (ref for ref in refs if here(ref) is None and ref not in sources)
                return Lacking(tuple(lacking))
            case PutBlob(data):
                return BlobPut(self._store.blobs.ingest([data]).digest)
            case RenewLeases(leases, seconds):
                self.renew(leases, seconds)
            case EndLeases(leases):
                self.end(leases)
        return Finished()

    def hold(self, lease: bytes, ref: Digest, seconds: float) -> None:
        """Hold a result or source; a lease of that name that was on something else ends.

        Raises:
            RefMissing: it is not here.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._store.view(ref))
            taken = _Lease(ref, self._now() + seconds, stack.pop_all())
        with self._lock:
            before = self._leases.get(lease)
            self._leases[lease] = taken
        if before is not None:
            before.tree.close()

    def renew(self, leases: Iterable[bytes], seconds: float) -> None:
        """Let leases last ``seconds`` from now. Unknown ones are fine."""
        with self._lock:
            for lease in leases:
                if lease in self._leases:
                    self._leases[lease].until_s = self._now() + seconds

    def end(self, leases: Iterable[bytes]) -> None:
        """Let go of what these hold. Unknown ones are fine."""
        with self._lock:
            ended = [self._leases.pop(lease, None) for lease in leases]
        for one in ended:
            if one is not None:
                one.tree.close()
                self._store.release_source(one.ref)

    def refs(self) -> set[Digest]:
        """Return what is held."""
        with self._lock:
            return {one.ref for one in self._leases.values()}

    def expire(self) -> None:
        """End the leases whose time is over."""
        now_s = self._now()
        with self._lock:
            over = [lease for lease, one in self._leases.items() if one.until_s <= now_s]
        self.end(over)

    def close(self) -> None:
        """End all leases. Idempotent."""
        with self._lock:
            left = list(self._leases)
        self.end(left)

    def _hold_cached(self, order: HoldCached) -> RefInfo | None:
        refs = self._store.refs
        known = set(order.known)
        fitting = [info for info in refs.infos() if order.key in info.keys or info.ref in known]
        for info in reversed(fitting):
            with contextlib.suppress(RefMissing):
                self.hold(order.lease, info.ref, order.seconds)
                refs.add_keys(info.ref, (order.key,))
                return refs.get(info.ref).info
        return None
