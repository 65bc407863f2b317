"""The command ``keygen``."""

import socket
from pathlib import Path

import click

from filesync.keys.files import KEY_NAME, default_key, line, make_key, public_path


@click.command(
    epilog="""
\b
Examples:
  filesync keygen                              once on each machine; prints its public key
  filesync keygen --name laptop /etc/filesync  elsewhere, to be given as --key
\b
Then let two machines know each other:
  cat key.pub >> allow        on the server: a line for each machine that may connect
  filesync serve /srv/trees --listen tcp://192.0.2.7:7701 --allow allow
  filesync sync tcp://KEY@192.0.2.7:7701/site/ site/     as the server printed it
"""
)
@click.argument(
    "directory",
    metavar="[DIR]",
    required=False,
    type=click.Path(file_okay=False, path_type=Path),
)
@click.option("--name", help="Name in allow files.  [default: the host's name]")
@click.option("--force", is_flag=True, help="Replace the key that is there.")
def keygen(directory: Path | None, name: str | None, force: bool) -> None:
    """Make a key for this machine and print its public key.

    The secret key goes to DIR/key, which only its owner can read, and the public one to
    DIR/key.pub, as a line for the allow files of others. DIR is ~/.config/filesync without it.
    """
    path = directory / KEY_NAME if directory is not None else default_key()
    name = name or socket.gethostname()
    pair = make_key(path, name=name, replace=force)
    click.echo(line(pair.public, name), nl=False)
    click.echo(
        f"The secret key is in {path}; keep it. The line above, which is in {public_path(path)} "
        "too,\ngoes into the file that a server or manager is given as --allow; what they print "
        "as their\naddress, with their key before the @, is what this machine dials.",
        err=True,
    )
