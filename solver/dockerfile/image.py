"""The configuration of the image that a stage makes."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from solver.dockerfile.errors import Invalid
from worker.wire.platforms import Platform

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL: Final = ("/bin/sh", "-c")

_COMMENT: Final = "buildkit.dockerfile.v0"
_UNTOLD: Final = "a layer that the base image's history does not tell of"
_MAX_CREATED_BY_CHARS: Final = 32 << 10
"""A history is for people; a script of a megabyte in it helps no one."""


class Health(msgspec.Struct, rename="pascal", omit_defaults=True):
    """How to see that a container is well; durations in nanoseconds, 0 is the default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, rename="pascal", omit_defaults=True):
    """How a container of the image runs. What other tools put beside it is dropped."""

    user: str = ""
    exposed_ports: dict[str, dict[str, object]] | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    healthcheck: Health | None = None
    on_build: list[str] | None = None
    shell: list[str] | None = None


class HistoryEntry(msgspec.Struct, omit_defaults=True):
    """What one instruction did."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class Image(msgspec.Struct, omit_defaults=True):
    """An OCI image configuration without its layers and times."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    author: str = ""
    config: RunConfig = msgspec.field(default_factory=RunConfig)
    history: list[HistoryEntry] | None = None

    def commit(self, created_by: str, *, layer: bool, created: str | None) -> None:
        """Add an instruction to the history."""
        text = created_by[:_MAX_CREATED_BY_CHARS]
        entry = HistoryEntry(created, text, comment=_COMMENT, empty_layer=not layer)
        self.history = [*(self.history or ()), entry]

    @property
    def shell(self) -> tuple[str, ...]:
        """What runs a command that is given as text."""
        return tuple(self.config.shell or DEFAULT_SHELL)

    @property
    def working_dir(self) -> str:
        """Absolute."""
        return self.config.working_dir or "/"

    def as_config(self, created: str | None) -> dict[str, object]:
        """Return the JSON object of an image that was made at a time, or that tells none."""
        plain: dict[str, object] = msgspec.to_builtins(self)
        if created is not None:
            plain["created"] = created
        return {"architecture": "", "os": "", "config": {}, "history": []} | plain


def empty_image(platform: Platform) -> Image:
    """Return what ``FROM scratch`` starts with."""
    return Image(platform.architecture, platform.os, platform.variant)


def read_image(config: Mapping[str, object], *, name: str) -> Image:
    """Return the image of an OCI configuration.

    Raises:
        Invalid: not one.
    """
    try:
        return msgspec.convert(_told(config), type=Image)
    except msgspec.ValidationError as error:
        raise Invalid(f"the image configuration of {name} is not valid: {error}") from error


def fitting_history(history: Sequence[HistoryEntry], layers: int) -> list[HistoryEntry]:
    """Return the history of an image with as many entries of layers as it has layers.

    Some tools write none, or a wrong one; others refuse an image whose history does not fit.
    """
    fitting: list[HistoryEntry] = []
    for entry in history:
        if not entry.empty_layer and not layers:
            entry = msgspec.structs.replace(entry, empty_layer=True)
        layers -= not entry.empty_layer
        fitting.append(entry)
    return fitting + [HistoryEntry(comment=_UNTOLD) for _ in range(layers)]


def _told(config: Mapping[str, object]) -> dict[str, object]:
    """Return a configuration without what Go writes for nothing."""
    told = {key: value for key, value in config.items() if value is not None}
    run = told.get("config")
    if isinstance(run, dict):
        told["config"] = {key: value for key, value in run.items() if value is not None}
    return told
