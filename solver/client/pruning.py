"""What ``prune`` is asked for, in docker's words, and what its tables say. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

from rich.table import Table

from filesync.command.quantities import BadQuantity, parse_duration, parse_size
from filesync.errors import UsageError
from solver.client.wording import human
from solver.wire import Usages
from worker.wire.disk import REMOVABLE, Kind, PrunePolicy

_FROM_BUILDKIT: Final = {
    "regular": (Kind.RESULT, Kind.BLOB, Kind.PARTIAL),
    "source.local": (Kind.SOURCE,),
    "exec.cachemount": (Kind.CACHE,),
}
"""BuildKit's types of records, and what of it is kept here."""
_USUAL: Final = tuple(kind for kind in REMOVABLE if kind is not Kind.CACHE)
_ID_CHARS: Final = 19
"""As many as make twelve digits of a sha256."""
_STEPS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def prune_policy(
    filters: Iterable[str],
    *,
    everything: bool,
    reserved: str | None = None,
    max_used: str | None = None,
    min_free: str | None = None,
) -> PrunePolicy:
    """Return what the options of a prune ask for.

    Raises:
        UsageError: one cannot be understood.
    """
    kinds: list[Kind] = []
    unused_s = 0.0
    for text in filters:
        name, _, value = text.partition("=")
        if name == "type":
            kinds.extend(_kinds(value))
        elif name in ("until", "unused-for"):
            with _named(f"--filter {name}="):
                unused_s = max(unused_s, parse_duration(value) / 1e9)
        else:
            raise UsageError(f"--filter {text}: write until=TIME, such as 24h, or type=KIND")
    chosen = tuple(dict.fromkeys(kinds)) or (REMOVABLE if everything else _USUAL)
    return PrunePolicy(
        chosen,
        unused_s,
        _bound("--keep-storage", reserved),
        _bound("--max-used-space", max_used),
        _bound("--min-free-space", min_free),
    )


def _bound(option: str, text: str | None) -> int | None:
    with _named(option):
        return None if text is None else parse_size(text)


@contextmanager
def _named(option: str) -> Iterator[None]:
    """Say in the error of a bad quantity which option has it."""
    try:
        yield
    except BadQuantity as exc:
        raise BadQuantity(f"{option}: {exc}") from None


def _kinds(text: str) -> tuple[Kind, ...]:
    if text in _FROM_BUILDKIT:
        return _FROM_BUILDKIT[text]
    by_name = {str(kind): kind for kind in REMOVABLE}
    if text in by_name:
        return (by_name[text],)
    known = ", ".join((*by_name, *_FROM_BUILDKIT))
    raise UsageError(f"--filter type={text}: the types are {known}")


# --- what is shown ----------------------------------------------------------------------------


def usage_tables(usages: Usages, *, now_s: float, verbose: bool) -> list[Table]:
    """Return what takes how much disk, and what of it could go."""
    tables = _things(usages, "now", now_s=now_s) if verbose else []
    columns = ("worker", "what", "count", "size", "reclaimable", "last used")
    table = _table(*columns, right=("count", "size", "reclaimable", "last used"))
    size = reclaimable = 0
    for name, usage in usages.workers:
        rows = [row for row in usage.rows if row.count]
        if not rows:
            table.add_row(name, "nothing")
        for row in rows:
            size += row.size
            reclaimable += row.reclaimable
            sums = (f"{row.count:,}", human(row.size), human(row.reclaimable))
            table.add_row(name, _plural(row.kind), *sums, _ago(row.used_s, now_s))
    _add_failed(table, usages)
    table.add_section()
    table.add_row("total", "", "", human(size), human(reclaimable), "")
    return [*tables, table]


def prune_tables(usages: Usages, *, now_s: float, verbose: bool) -> list[Table]:
    """Return what was removed, and what stayed that should have gone."""
    tables = _things(usages, "removed", now_s=now_s) if verbose else []
    table = _table("worker", "what", "count", "size", "became", right=("count", "size"))
    freed = 0
    for name, usage in usages.workers:
        for row in usage.rows:
            freed += row.size
            table.add_row(name, _plural(row.kind), f"{row.count:,}", human(row.size), "removed")
        for kept in usage.kept:
            why = f"kept: {kept.why}"
            table.add_row(name, _plural(kept.kind), f"{kept.count:,}", human(kept.size), why)
    _add_failed(table, usages)
    table.add_section()
    table.add_row("total", "", "", human(freed), "removed")
    return [*tables, table]


def _things(usages: Usages, otherwise: str, *, now_s: float) -> list[Table]:
    """Return a table of each thing; none where there is nothing."""
    columns = ("worker", "what", "id", "size", "last used", "state")
    table = _table(*columns, right=("size", "last used"))
    state = "reclaimable" if otherwise == "now" else otherwise
    for name, usage in usages.workers:
        for item in usage.items:
            used = _ago(item.used_s, now_s)
            why = item.why or state
            table.add_row(name, item.kind, item.id[:_ID_CHARS], human(item.size), used, why)
    return [table] if table.row_count else []


def _table(*columns: str, right: Sequence[str]) -> Table:
    table = Table()
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=column == "id")
    return table


def _add_failed(table: Table, usages: Usages) -> None:
    for name, why in usages.failed:
        table.add_row(name, f"no answer: {why}")


def _plural(kind: Kind) -> str:
    return f"{kind}s"


def _ago(used_s: float, now_s: float) -> str:
    """Return how long ago something was, in one unit; empty for never."""
    if not used_s:
        return ""
    past_s = max(0, int(now_s - used_s))
    size, unit = next((step for step in _STEPS if past_s >= step[0]), _STEPS[-1])
    return f"{past_s // size} {unit} ago"
