"""docker's options as its users type them: what there is instead of those that are not there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import click

from filesync.command.instead import InsteadCommand

_LIMITS: Final = (
    "a step has its worker's limits; set them where the worker is started, as with systemd's "
    "MemoryMax= and LimitNOFILE="
)
_NOT_ATTESTED: Final = (
    "nothing is attested; leave it out (--metadata-file says what ran where, and on what)"
)
_OF: Final[Mapping[str, str]] = {
    "--add-host": (
        "a step looks up names as its worker does; have the worker's resolver know that one"
    ),
    "--allow": "there are no entitlements; RUN --network=host needs none",
    "--attest --provenance --sbom": _NOT_ATTESTED,
    "--builder": "write --manager ADDR, or set FILESYNC_MANAGER",
    "--call --check": "a Dockerfile is checked when it is built",
    "--cgroup-parent -c --cpu-period --cpu-quota --cpu-shares --cpuset-cpus": _LIMITS,
    "--cpuset-mems -m --memory --memory-swap --resource --ulimit": _LIMITS,
    "--compress": "what travels is compressed where that is faster; leave it out",
    "--debug -D": "write `filesync -v build`, twice -v for each message, or FILESYNC_DEBUG=1",
    "--disable-content-trust --policy": "images are taken by digest, and not signed; leave it out",
    "--isolation --security-opt": "steps run in crun or runc, confined in one way only",
    "--load": "write -o type=docker,dest=- and pipe it: filesync build … | docker load",
    "--shm-size": "write RUN --mount=type=tmpfs,target=/dev/shm,size=1g in the Dockerfile",
    "--squash": "layers are not joined; have a last stage that copies what is wanted",
}
INSTEAD: Final[Mapping[str, str]] = {
    word: what for words, what in _OF.items() for word in words.split()
}
"""What there is instead of an option of docker's that is not there, by each of its spellings."""

_ALWAYS: Final = frozenset({"--pull", "--rm", "--force-rm"})
"""Switches for what is done anyway."""
_NEVER: Final = frozenset({"--provenance", "--sbom", "--load", "--squash", "--compress"})
"""Options for what is never done, which may be called off."""
_SWITCHES: Final = frozenset({"--push", "--no-cache", "--quiet"})
_TRUE: Final = ("1", "t", "true")
_FALSE: Final = ("0", "f", "false")


class Progress(click.Choice[str]):
    """How progress is shown, by docker's words too."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return one of the choices; a terminal is shown to whenever there is one."""
        if value == "rawjson":
            self.fail("there is no 'rawjson'; 'json' is one event a line too", param, ctx)
        return super().convert("auto" if value == "tty" else value, param, ctx)


class DockerCommand(InsteadCommand):
    """A command that knows what docker's users may mean by an option that it has not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``args``, in which docker's switches may be said to be true or false.

        Raises:
            NoSuchOption: an option is not there.
        """
        return super().parse_args(ctx, [*_without_values(args)])

    def instead_of(self, word: str) -> str | None:
        """Return what there is instead of the option ``word`` of docker's."""
        return INSTEAD.get(word)


def _without_values(args: Sequence[str]) -> Iterator[str]:
    """Yield ``args``, a switch that is false left out, and one that is true without its value.

    What docker takes as ``-t=NAME`` are two words.
    """
    for word in args:
        name, equals, value = word.partition("=")
        value = value.lower()
        if name in _ALWAYS and (not equals or value in (*_TRUE, *_FALSE)):
            continue
        if name in _NEVER | _SWITCHES and value in _FALSE:
            continue
        if name in ("-t", "-f", "-o") and equals:
            yield name
            yield word[len("-t=") :]
            continue
        yield name if name in _SWITCHES and value in _TRUE else word
