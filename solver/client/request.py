"""What a user asks of a build, and how a manager is told of it."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from filesync.errors import UsageError
from solver.client.caches.options import CacheSource, CacheTo, InlineCache, RegistrySource
from solver.client.layouts import Layout
from solver.client.outputs.epoch import config_at
from solver.client.outputs.outputs import Output
from solver.dockerfile import Options
from solver.graph import Graph
from solver.wire import (
    CacheFrom,
    CacheInRegistry,
    CachePush,
    ExportRequest,
    PushRequest,
    StartBuild,
)
from worker.wire import orders
from worker.wire.images import Credential
from worker.wire.orders import ExportForm
from worker.wire.secrets import Secret

MAX_DOCKERFILE_BYTES: Final = 1 << 20
STDIN_NAME: Final = "standard input"


class BuildRequest(msgspec.Struct, frozen=True):
    """What the user asks for.

    Attributes:
        dockerfile: the file, or None for standard input.
        roots: directories behind contexts, by name (``context`` is the main one).
        layouts: images behind contexts, by name.
        tag: names for the image, with commas between them; may be empty.
        cache_only: the user has said that nothing is to be written.
        agents: the sockets of SSH agents, by the id that steps know them by.
    """

    dockerfile: Path | None
    text: str
    options: Options
    roots: Mapping[str, Path]
    layouts: Mapping[str, Layout]
    outputs: Sequence[Output] = ()
    cache_to: Sequence[CacheTo | CachePush | InlineCache] = ()
    cache_from: Sequence[CacheSource | RegistrySource] = ()
    tag: str = ""
    explain: bool = False
    cache_only: bool = False
    secrets: Sequence[Secret] = ()
    agents: Mapping[str, Path] = msgspec.field(default_factory=dict)

    @property
    def leaves_nothing(self) -> bool:
        """Whether all that is built stays in the cluster, and nobody has said that it shall."""
        return not (self.outputs or self.cache_to or self.cache_only)

    @property
    def local_caches(self) -> list[CacheTo]:
        """The caches that come to this machine."""
        return [one for one in self.cache_to if isinstance(one, CacheTo)]

    @property
    def pushed_caches(self) -> list[CachePush]:
        """The caches that workers push."""
        return [one for one in self.cache_to if isinstance(one, CachePush)]

    @property
    def registry_names(self) -> list[str]:
        """What is read from registries or pushed there, beside the images of the graph."""
        pushed = [name for one in self.outputs if one.form is None for name in one.names]
        read = [one.name for one in self.cache_from if isinstance(one, RegistrySource)]
        return [*pushed, *read, *(one.name for one in self.pushed_caches)]


def read_dockerfile(path: Path | None) -> str:
    """Return the text of a Dockerfile; None is standard input.

    Raises:
        UsageError: it is not there, or not of a sane size.
    """
    name = STDIN_NAME if path is None else str(path)
    try:
        if path is None:
            return dockerfile_text(sys.stdin.buffer)
        with path.open("rb") as file:
            return dockerfile_text(file, name=name)
    except OSError as exc:
        raise UsageError(f"{name}: {exc.strerror}; name the Dockerfile with -f") from exc


def dockerfile_text(stream: BinaryIO, head: bytes = b"", *, name: str = STDIN_NAME) -> str:
    """Return the text of a Dockerfile of which ``head`` was read already.

    Bytes that are not UTF-8 are lone surrogates: an old comment may be in Latin-1.

    Raises:
        UsageError: it is not of a sane size.
        OSError: it cannot be read.
    """
    data = head + stream.read(MAX_DOCKERFILE_BYTES + 1)
    if len(data) > MAX_DOCKERFILE_BYTES:
        raise UsageError(f"{name}: larger than {MAX_DOCKERFILE_BYTES} bytes")
    return data.decode(errors="surrogateescape")


def start_order(
    request: BuildRequest,
    graph: Graph,
    config: Mapping[str, Any],
    caches: tuple[CacheFrom | CacheInRegistry, ...],
    credentials: tuple[Credential, ...],
) -> StartBuild:
    """Return the order that starts a build; ``config`` is the result's image configuration."""
    return StartBuild(
        orders.VERSION,
        graph,
        tuple(
            _exported(output, form, _config(request, output, config))
            for output in request.outputs
            if (form := output.form) is not None
        ),
        request.options.no_cache,
        request.explain,
        credentials,
        tuple(
            _pushed(output, _config(request, output, config))
            for output in request.outputs
            if output.form is None
        ),
        caches,
        tuple(to.mode for to in request.local_caches),
        tuple(request.pushed_caches),
        any(isinstance(to, InlineCache) for to in request.cache_to),
        tuple(request.secrets),
        tuple(request.agents),
    )


def _config(request: BuildRequest, output: Output, config: Mapping[str, Any]) -> bytes:
    epoch_s = output.epoch_s
    if epoch_s == request.options.epoch_s:
        epoch_s = None  # it is so already
    return json.dumps(config_at(config, epoch_s), sort_keys=True).encode()


def _exported(output: Output, form: ExportForm, config: bytes) -> ExportRequest:
    return ExportRequest(
        form,
        config,
        ",".join(output.names),
        output.compression,
        output.level,
        dict(output.annotations),
        output.epoch_s if output.rewrite and output.is_image else None,
        dict(output.descriptor_annotations),
        None if output.is_image else output.epoch_s,
    )


def _pushed(output: Output, config: bytes) -> PushRequest:
    return PushRequest(
        config,
        output.names,
        output.compression,
        output.level,
        dict(output.annotations),
        output.epoch_s if output.rewrite else None,
    )
