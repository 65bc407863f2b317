"""docker's options as its users type them: what there is instead of those that are not there."""

from collections.abc import Mapping
from typing import Final

from filesync.instead import InsteadCommand

_LIMITS: Final = (
    "a step has its worker's limits; set them where the worker is started, as with systemd's "
    "MemoryMax= and LimitNOFILE="
)
_CLEAN: Final = "nothing stays of a step's container; leave it out"
_NOT_ATTESTED: Final = (
    "nothing is attested; leave it out (--metadata-file says what ran where, and on what)"
)
_OF: Final[Mapping[str, str]] = {
    "--add-host": (
        "a step looks up names as its worker does; have the worker's resolver know that one"
    ),
    "--allow": "there are no entitlements; RUN --network=host needs none",
    "--annotation": "write it into the output: -o type=registry,annotation.KEY=VALUE",
    "--attest --provenance --sbom": _NOT_ATTESTED,
    "--builder": "write --manager ADDR, or set FILESYNC_MANAGER",
    "--call --check": "a Dockerfile is checked when it is built",
    "--cgroup-parent -c --cpu-period --cpu-quota --cpu-shares --cpuset-cpus": _LIMITS,
    "--cpuset-mems -m --memory --memory-swap --resource --ulimit": _LIMITS,
    "--compress": "what travels is compressed where that is faster; leave it out",
    "--debug -D": "write `filesync -v build`, twice -v for each message, or FILESYNC_DEBUG=1",
    "--disable-content-trust --policy": "images are taken by digest, and not signed; leave it out",
    "--force-rm --rm": _CLEAN,
    "--isolation --security-opt": "steps run in crun or runc, confined in one way only",
    "--load": "write -o type=docker,dest=- and pipe it: filesync build … | docker load",
    "--network": (
        "a step has its worker's network; RUN --network=none in the Dockerfile gives it none"
    ),
    "--no-cache-filter": "write --no-cache, which is for all stages",
    "--shm-size": "write RUN --mount=type=tmpfs,target=/dev/shm,size=1g in the Dockerfile",
    "--squash": "layers are not joined; have a last stage that copies what is wanted",
}
INSTEAD: Final[Mapping[str, str]] = {
    word: what for words, what in _OF.items() for word in words.split()
}
"""What there is instead of an option of docker's that is not there, by each of its spellings."""


class DockerCommand(InsteadCommand):
    """A command that knows what docker's users may mean by an option that it has not."""

    def instead_of(self, word: str) -> str | None:
        """Return what there is instead of the option ``word`` of docker's."""
        return INSTEAD.get(word)
