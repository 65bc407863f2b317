"""The images that a Dockerfile names, as the client learns of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from filesync.errors import FilesyncError, UsageError
from filesync.transfer.threads import in_thread
from solver.client.credentials import Logins
from solver.client.layouts import Layouts
from solver.client.link_zmq import ManagerLink
from solver.client.progress import told_if_long
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
from solver.wire import AskImage, FoundImage
from worker.wire.images import Credential, parse_reference
from worker.wire.ops import ImageOp

MAX_IMAGES: Final = 256
MADE_UP: Final = f"sha256:{'0' * 64}"
"""The manifest of an image that is not known yet."""
_PASSING: Final = frozenset({"registry-unavailable", "registry-busy"})
"""Why an image could not be looked up though nothing is wrong with the Dockerfile."""
_NOT_SHOWN: Final = frozenset({"registry-missing", "registry-denied"})
"""Many registries refuse a repository that they do not have, as they do one that is private."""


class KnownImages:
    """Answers for layouts, and for images in registries that have been looked up.

    The conversion is pure and quick. So it is tried with a made-up image wherever one is not known
    yet, to learn of all that it needs, and again when these have been looked up.

    Attributes:
        lacking: references of images in registries that were asked for, and nobody has looked up.
    """

    def __init__(self, layouts: Layouts) -> None:
        self.lacking: dict[str, None] = {}
        self._layouts = layouts
        self._known: dict[str, BaseImage | FilesyncError] = {}

    def learn(self, found: Mapping[str, BaseImage | FilesyncError]) -> None:
        """Remember what was found out, by reference; begin anew to note what is lacking."""
        self._known.update(found)
        self.lacking = {}

    def image(self, name: str) -> BaseImage | None:
        """Return the image behind a named context."""
        return self._layouts.image(name)

    def registry_image(self, reference: str) -> BaseImage:
        """Return an image in a registry; one that is made up if nobody has looked it up.

        Raises:
            NoSuchImage: the registry does not show it to this user.
            FilesyncError: it cannot be had.
        """
        found = self._known.get(reference)
        if found is None:
            if len(self._known) + len(self.lacking) >= MAX_IMAGES:
                raise UsageError(f"more than {MAX_IMAGES} images")
            self.lacking[reference] = None
            return BaseImage("", MADE_UP, {}, repository=parse_reference(reference).repository)
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
    on_wait: Callable[[str], None],
) -> Converted:
    """Convert a Dockerfile; have its images in registries looked up by workers, all at once.

    ``on_wait`` is told what is being done when that takes long.

    Raises:
        DockerfileError: whatever is wrong with the text, or with an image that it names.
        BuildError: a registry cannot be reached, which is nobody's wrong usage.
    """
    attempt = partial(convert, text, filename=filename, options=options, images=images)
    while lacking := _lacking(images, attempt):
        with told_if_long(on_wait, f"looking up {', '.join(lacking)}"):
            images.learn(await _look_up(lacking, options, link, logins))
    try:
        return attempt()
    except DockerfileError as exc:
        if reason := _passing_reason(exc):
            raise BuildError(reason, str(exc)) from exc
        raise


def _lacking(images: KnownImages, attempt: Callable[[], object]) -> list[str]:
    """Return the images in registries that a conversion needs, and nobody has looked up."""
    with suppress(DockerfileError):  # where an image is made up much seems to be wrong
        attempt()
    return list(images.lacking)


def _passing_reason(exc: BaseException | None) -> str | None:
    while exc is not None:
        if isinstance(exc, BuildError) and exc.reason in _PASSING:
            return exc.reason
        exc = exc.__cause__
    return None


async def _look_up(
    names: Sequence[str], options: Options, link: ManagerLink, logins: Logins
) -> Mapping[str, BaseImage | FilesyncError]:
    found: dict[str, BaseImage | FilesyncError] = {}
    questions: list[AskImage] = []
    platform = options.platform
    wanted = (platform.os, platform.architecture, platform.variant)
    for name in names:
        try:
            credential = await in_thread(logins.find, parse_reference(name).host)
        except FilesyncError as exc:
            found[name] = exc
        else:
            questions.append(AskImage(name, *wanted, credential))
    answers = await link.ask_images(questions)
    return found | {name: _image_of(answer) for name, answer in answers.items()}


def _image_of(found: FoundImage | BuildError) -> BaseImage | FilesyncError:
    """Return the image that a manager has found, unless there is something wrong with it."""
    if isinstance(found, BuildError):
        return found
    try:
        config = json.loads(found.config)
    except (ValueError, RecursionError) as exc:
        return BuildError("image-malformed", f"its configuration is not JSON: {exc}")
    if not isinstance(config, dict):
        return BuildError("image-malformed", "its configuration is not a JSON object")
    # The worker has seen that there are as many layers.
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return BaseImage(
        "",
        found.manifest,
        config,
        repository=parse_reference(found.name).repository,
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
