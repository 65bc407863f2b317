"""Options that more than one command of the build engine takes."""

import click

from solver.commands.spelling import Progress

manager_option = click.option(
    "--manager",
    envvar="FILESYNC_MANAGER",
    metavar="ADDR",
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
