"""Which things go from a worker's disk, and in which order. Pure.

Least recently used first, what stands on something before that, and nothing that is held. What
something needs is used whenever it is, so a parent is never older than its children.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from worker.wire.disk import Kind, PrunePolicy


class Key(NamedTuple):
    """Names a thing among all of a worker."""

    kind: Kind
    id: str


class Item(msgspec.Struct, frozen=True):
    """A thing that takes disk.

    Attributes:
        used_s: when it was last used, seconds since the epoch.
        needs: what must be there as long as it is.
        held: why it cannot go, whatever a policy says; empty if it can.
    """

    key: Key
    size: int
    used_s: float
    needs: tuple[Key, ...] = ()
    held: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What to remove, in order; and what a policy wants gone and cannot have, with the reason."""

    remove: tuple[Item, ...]
    kept: tuple[tuple[Item, str], ...]


def default_policy(disk_bytes: int) -> PrunePolicy:
    """Return what holds a worker that was given no bounds, on a file system of that size.

    A tenth of it, at least 2 GiB, is kept free; but as much is left in any case, so a disk that
    others have filled costs nobody all results.
    """
    room = max(disk_bytes // 10, 2 << 30)
    return PrunePolicy(reserved_bytes=room, min_free_bytes=room)


def may_remove(policy: PrunePolicy, free_bytes: int) -> bool:
    """Say whether a policy could want anything to go, whatever there is."""
    if policy.min_free_bytes is None or policy.max_used_bytes is not None:
        return True
    return free_bytes < policy.min_free_bytes


def choose(
    items: Iterable[Item], policy: PrunePolicy, *, now_s: float, free_bytes: int
) -> Plan:
    """Return what ``policy`` removes of ``items``, where the file system has so much free."""
    ordered = by_last_use(items)
    users = _users(ordered)
    left = sum(item.size for item, _ in ordered)
    goal = goal_bytes(policy, used=left, free_bytes=free_bytes)
    gone: set[Key] = set()
    remove: list[Item] = []
    kept: list[tuple[Item, str]] = []
    for item, used_s in ordered:
        if goal is not None and left <= goal:
            break
        if item.key.kind not in policy.kinds or now_s - used_s < policy.unused_s:
            continue
        if why := item.held or _needed(users[item.key], gone):
            kept.append((item, why))
            continue
        gone.add(item.key)
        remove.append(item)
        left -= item.size
    return Plan(tuple(remove), tuple(kept))


def goal_bytes(policy: PrunePolicy, *, used: int, free_bytes: int) -> int | None:
    """Return to how many bytes the policy brings what is used; None where it sets no bound."""
    bounds: list[int] = []
    if policy.max_used_bytes is not None:
        bounds.append(policy.max_used_bytes)
    if policy.min_free_bytes is not None:
        bounds.append(used - max(0, policy.min_free_bytes - free_bytes))
    if not bounds:
        return policy.reserved_bytes
    return max(policy.reserved_bytes or 0, min(bounds))


def by_last_use(items: Iterable[Item]) -> list[tuple[Item, float]]:
    """Return the items with the time of their last use, those that go first first.

    What needs another comes before it.
    """
    known = {item.key: item for item in items}
    used_s = {key: item.used_s for key, item in known.items()}
    depth = dict.fromkeys(known, 0)
    # From what nobody needs downwards, so that each is final before what it needs is looked at.
    waiting = {key: len(users) for key, users in _users_of(known.values()).items()}
    ready = sorted(key for key in known if not waiting.get(key))
    while ready:
        key = ready.pop()
        for need in known[key].needs:
            if need not in known:
                continue
            used_s[need] = max(used_s[need], used_s[key])
            depth[need] = max(depth[need], depth[key] + 1)
            waiting[need] -= 1
            if not waiting[need]:
                ready.append(need)
    order = sorted(known, key=lambda key: (used_s[key], depth[key], key))
    return [(known[key], used_s[key]) for key in order]


def reasons(items: Sequence[Item]) -> dict[Key, str]:
    """Return why each item could not go now; empty for those that could, with what needs them."""
    ordered = by_last_use(items)
    users = _users(ordered)
    gone: set[Key] = set()
    found: dict[Key, str] = {}
    for item, _ in ordered:
        found[item.key] = item.held or _needed(users[item.key], gone)
        if not found[item.key]:
            gone.add(item.key)
    return found


def _users(ordered: Iterable[tuple[Item, float]]) -> defaultdict[Key, list[Item]]:
    return _users_of(item for item, _ in ordered)


def _users_of(items: Iterable[Item]) -> defaultdict[Key, list[Item]]:
    users: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        for need in item.needs:
            users[need].append(item)
    return users


def _needed(users: Iterable[Item], gone: set[Key]) -> str:
    left = [user for user in users if user.key not in gone]
    if not left:
        return ""
    held = next((user.held for user in left if user.held), "")
    return f"a {left[0].key.kind} needs it" + (f": {held}" if held else "")
