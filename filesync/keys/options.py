"""The options about keys, spelled once; what they need is imported when it is used."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from filesync.errors import UsageError

if TYPE_CHECKING:
    from filesync.keys.files import AllowFile, KeyPair

F = TypeVar("F", bound=Callable[..., Any])


def key_option(command: F) -> F:
    """Add --key, as ``key``."""
    return click.option(
        "--key",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="This machine's secret key.  [default: where `filesync keygen` puts it]",
    )(command)


def listen_options(command: F) -> F:
    """Add --key, --allow and --allow-insecure, as ``key``, ``allow`` and ``allow_insecure``."""
    allow = click.option(
        "--allow",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Encrypt, and let only those connect whose public keys are in FILE, one a line.",
    )
    return allow(key_option(insecure_option(command)))


def insecure_option(command: F) -> F:
    """Add --allow-insecure, as ``allow_insecure``."""
    return click.option(
        "--allow-insecure",
        is_flag=True,
        help="Listen where other machines can connect, with neither encryption nor keys: "
        "for a network where you trust everyone.",
    )(command)


def listen_keys(
    key: Path | None, allow: Path | None
) -> "tuple[KeyPair, AllowFile] | tuple[None, None]":
    """Return what a listener needs to listen with keys: its own, and whom it allows.

    Raises:
        UsageError: --key without --allow, or a file cannot be used.
    """
    if allow is None:
        if key is not None:
            raise UsageError("--key alone is not enough: --allow FILE says who may connect")
        return None, None
    from filesync.keys.files import AllowFile, default_key, read_key

    return read_key(key or default_key()), AllowFile(allow)
