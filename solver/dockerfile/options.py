"""What the user brings to a Dockerfile, and what comes out of it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from filesync.trees.select import Selector
from solver.dockerfile.excerpt import Excerpt
from solver.graph import Graph
from worker.wire.platforms import Platform

MAIN_CONTEXT: Final = "context"
"""Name of the context that COPY reads when it names none."""


class Options(msgspec.Struct, frozen=True):
    """How to build.

    Attributes:
        target: name or number of the stage to build; empty is the last.
        build_args: values for ARG.
        contexts: named contexts: name -> ``local`` (a directory), ``oci-layout`` (an image) or
            ``docker-image://REFERENCE`` (one in a registry).
        place: name or number of a stage -> labels that a worker must have to run any of its
            vertices.
        platform: what to build for.
        no_cache: run everything, whatever is known.
        no_cache_stages: names or numbers of stages of which everything is run.
        network: what a RUN has that names none, or ``default``; one of NETWORKS.
        labels: for the image, above those of the Dockerfile.
        epoch_s: when the image says that it was made, in seconds since 1970; None is nothing.
    """

    target: str = ""
    build_args: Mapping[str, str] = msgspec.field(default_factory=dict)
    contexts: Mapping[str, str] = msgspec.field(default_factory=dict)
    place: Mapping[str, tuple[tuple[str, str], ...]] = msgspec.field(default_factory=dict)
    platform: Platform = Platform("linux", "amd64")
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    network: str = "default"
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    epoch_s: int | None = None

    @property
    def created(self) -> str | None:
        """``epoch_s`` as OCI writes times."""
        if self.epoch_s is None:
            return None
        return datetime.fromtimestamp(self.epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class BaseImage(msgspec.Struct, frozen=True):
    """The image behind a named context or a reference.

    Attributes:
        context: the context's name; empty for an image in a registry.
        manifest: ``sha256:…`` of the image manifest.
        config: the OCI image configuration.
        paths: the files of the layout that hold the image.
        repository: where an image in a registry is.
        layer_count: none in what was built of nothing but settings.
    """

    context: str
    manifest: str
    config: Mapping[str, object]
    paths: tuple[str, ...] = ()
    repository: str = ""
    layer_count: int = 1


class ImageResolver(Protocol):
    """Finds images. It is asked at most once a name, and only for those that the target needs."""

    def image(self, name: str) -> BaseImage | None:
        """Return the image behind the ``oci-layout`` context ``name``, None without one."""

    def registry_image(self, reference: str) -> BaseImage:
        """Return an image in a registry.

        Raises:
            NoSuchImage: the registry does not show it to this user.
            FilesyncError: it cannot be had; the sentence says why.
        """


class Converted(msgspec.Struct, frozen=True):
    """A Dockerfile as a graph.

    Attributes:
        graph: only what the target needs; its ``LocalOp`` vertices have digests of zeros
            until ``with_contexts`` puts in what a scan found.
        config: the OCI image configuration of the result, without ``rootfs``.
        selectors: for each context that is read, the union of what is read of it.
        warnings: sentences, each with file and line where it has one.
        excerpts: of each step, by its position in the graph, the lines that ask for it.
    """

    graph: Graph
    config: dict[str, object]
    selectors: dict[str, Selector]
    warnings: tuple[str, ...]
    excerpts: tuple[Excerpt, ...]

    def placed(self, sentence: str, position: int | None) -> str:
        """Return ``sentence`` with the lines of the Dockerfile that ask for a step, if it is one."""
        if position is None or not 0 <= position < len(self.excerpts):
            return sentence
        return self.excerpts[position].under(sentence)
