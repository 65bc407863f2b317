"""Options that more than one command of the build engine takes."""

import click

from filesync.transfer.connection.address import check_address
from solver.commands.spelling import Progress


def _checked(_: click.Context, __: click.Parameter, address: str | None) -> str | None:
    """Refuse what is no address before a key is looked for, to be told to make one."""
    return address and check_address(address)


manager_option = click.option(
    "--manager",
    envvar="FILESYNC_MANAGER",
    metavar="ADDR",
    callback=_checked,
    help="The manager's address, tcp://[KEY@]host:port, as it prints it. Without it the "
    "cluster of `filesync up` is used, or one that is started for the time of the command.",
)
progress_option = click.option(
    "--progress",
    type=Progress(["auto", "plain", "json", "quiet"]),
    envvar="BUILDKIT_PROGRESS",
    default="auto",
    show_default=True,
)
