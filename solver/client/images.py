"""The images that a Dockerfile names, as the client learns of them."""

import json
from collections.abc import Sequence
from typing import Final

from filesync.errors import FilesyncError
from filesync.transfer.threads import in_thread
from solver.client.credentials import Logins
from solver.client.layouts import Layouts
from solver.client.link_zmq import ManagerLink
from solver.dockerfile import (
    BaseImage,
    Converted,
    DockerfileError,
    NoSuchImage,
    Options,
    convert,
)
from solver.errors import BuildError
from solver.graph import Graph
from solver.wire import AskImage
from worker.wire.images import Credential, parse_reference
from worker.wire.ops import ImageOp

MAX_IMAGES: Final = 256
_PASSING: Final = frozenset({"registry-unavailable", "registry-busy"})
"""Why an image could not be looked up though nothing is wrong with the Dockerfile."""
_NOT_SHOWN: Final = frozenset({"registry-missing", "registry-denied"})
"""Many registries refuse a repository that they do not have, as they do one that is private."""


class NotAskedYet(Exception):
    """An image in a registry that nobody has looked up: do, and convert again."""

    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self.reference = reference


class KnownImages:
    """Answers for layouts, and for images in registries that have been looked up.

    The conversion is pure and quick, so it is begun again for each image that it turns out to
    need, rather than made to wait in the middle.
    """

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self._known: dict[str, BaseImage | FilesyncError] = {}

    def learn(self, reference: str, found: BaseImage | FilesyncError) -> None:
        """Remember what was found out."""
        self._known[reference] = found

    def image(self, name: str) -> BaseImage | None:
        """Return the image behind a named context."""
        return self._layouts.image(name)

    def registry_image(self, reference: str) -> BaseImage:
        """Return an image in a registry.

        Raises:
            NotAskedYet: nobody has looked it up.
            NoSuchImage: the registry does not show it to this user.
            FilesyncError: it cannot be had.
        """
        found = self._known.get(reference)
        if found is None:
            raise NotAskedYet(reference)
        if isinstance(found, BuildError) and found.reason in _NOT_SHOWN:
            raise NoSuchImage(str(found)) from found
        if isinstance(found, FilesyncError):
            raise found
        return found


async def convert_with_images(
    text: str,
    *,
    filename: str,
    options: Options,
    images: KnownImages,
    link: ManagerLink,
    logins: Logins,
) -> Converted:
    """Convert a Dockerfile; have its images in registries looked up by a worker.

    Raises:
        DockerfileError: whatever is wrong with the text, or with an image that it names.
        BuildError: a registry cannot be reached, which is nobody's wrong usage.
    """
    for _ in range(MAX_IMAGES):
        try:
            return convert(text, filename=filename, options=options, images=images)
        except NotAskedYet as asked:
            found = await _look_up(asked.reference, options, link, logins)
            images.learn(asked.reference, found)
        except DockerfileError as exc:
            if reason := _passing_reason(exc):
                raise BuildError(reason, str(exc)) from exc
            raise
    raise BuildError("dockerfile", f"{filename}: more than {MAX_IMAGES} images")


def _passing_reason(exc: BaseException | None) -> str | None:
    while exc is not None:
        if isinstance(exc, BuildError) and exc.reason in _PASSING:
            return exc.reason
        exc = exc.__cause__
    return None


async def _look_up(
    name: str, options: Options, link: ManagerLink, logins: Logins
) -> BaseImage | FilesyncError:
    reference = parse_reference(name)
    try:
        credential = await in_thread(logins.find, reference.host)
        platform = options.platform
        question = AskImage(
            name, platform.os, platform.architecture, platform.variant, credential
        )
        found = await link.ask_image(question)
        config = json.loads(found.config)
    except (ValueError, RecursionError) as exc:
        return BuildError("image-malformed", f"its configuration is not JSON: {exc}")
    except FilesyncError as exc:
        return exc
    if not isinstance(config, dict):
        return BuildError("image-malformed", "its configuration is not a JSON object")
    # The worker has seen that there are as many layers.
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return BaseImage(
        "",
        found.manifest,
        config,
        repository=reference.repository,
        layer_count=len(diff_ids) if isinstance(diff_ids, list) else 0,
    )


async def credentials_for(
    graph: Graph, pushed: Sequence[str], logins: Logins
) -> tuple[Credential, ...]:
    """Return the user's credentials for the registries of a graph's images and of names."""
    hosts = {
        vertex.op.repository.partition("/")[0]
        for vertex in graph.vertices
        if isinstance(vertex.op, ImageOp) and vertex.op.repository
    }
    hosts |= {parse_reference(name).host for name in pushed}
    found = [await in_thread(logins.find, host) for host in sorted(hosts)]
    return tuple(one for one in found if one is not None)
