"""What a plan comes to, for the figures and for whoever wants to see it."""

from filesync.sync.options import Options
from filesync.sync.plan import Plan
from filesync.sync.saying.itemize import itemize
from filesync.sync.saying.stats import SyncStats


def note_plan(
    stats: SyncStats,
    plan: Plan,
    options: Options,
    *,
    prefix: bytes,
    is_sent: bool = False,
    is_new: bool,
    given_as: bytes | None,
) -> None:
    """Tell whoever wants to see it what will change, and count it if it is not to be done."""
    if options.dry_run:
        counts = plan.counts()
        stats.created += counts.created
        stats.deleted += counts.deleted
    if options.on_changes is not None:
        changes = itemize(
            plan,
            prefix=prefix,
            is_sent=is_sent,
            is_new=is_new,
            given_as=given_as,
            checksum=options.checksum,
        )
        options.on_changes(changes)
