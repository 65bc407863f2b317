"""Which results are held, for whom and for how long: no worker is told to remove those. Pure."""

from collections.abc import Iterable
from math import inf

import msgspec

from filesync.digest import Digest


class _Lease(msgspec.Struct):
    until_s: float
    refs: set[Digest] = msgspec.field(default_factory=set)


class Leases:
    """The leases of all holders; a holder is a build, or whoever else asks for results to stay.

    They are the manager's, since it alone has workers prune: they outlive a worker that comes
    and goes, and end with their holder, with their time, or with the manager.
    """

    def __init__(self) -> None:
        self._leases: dict[bytes, _Lease] = {}

    def hold(self, holder: bytes, refs: Iterable[Digest], *, until_s: float = inf) -> None:
        """Hold ``refs`` too for ``holder``, and all that it holds until ``until_s``."""
        lease = self._leases.setdefault(holder, _Lease(until_s))
        lease.until_s = until_s
        lease.refs.update(refs)

    def release(self, holder: bytes) -> frozenset[Digest]:
        """End a holder's lease, if it has one; return what it held."""
        lease = self._leases.pop(holder, None)
        return frozenset() if lease is None else frozenset(lease.refs)

    def held(self, now_s: float) -> frozenset[Digest]:
        """Return what somebody holds at ``now_s``; leases that have run out are forgotten."""
        for holder in [h for h, lease in self._leases.items() if lease.until_s <= now_s]:
            del self._leases[holder]
        return frozenset(ref for lease in self._leases.values() for ref in lease.refs)
