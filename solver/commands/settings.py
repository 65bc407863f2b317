"""What the options of ``filesync build`` ask for."""

import os
import platform as host
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filesync.errors import UsageError
from solver.client.agents import read_agents
from solver.client.caches.options import (
    INLINE_ARG,
    CacheTo,
    InlineCache,
    check_inline,
    parse_cache_from,
    parse_cache_to,
)
from solver.client.layouts import SCHEME, Layout, parse_layout
from solver.client.outputs.epoch import parse_epoch
from solver.client.outputs.outputs import Output, check_outputs, image_names
from solver.client.repositories import KEEP_GIT_DIR_ARG, check_inside, is_repository
from solver.client.request import BuildRequest, read_dockerfile
from solver.client.secrets import read_secrets
from solver.client.stdin import Piped
from solver.dockerfile import (
    IMAGE_SCHEME,
    MAIN_CONTEXT,
    SOURCE_DATE_EPOCH,
    Options,
    Platform,
)
from solver.wire import CachePush

Setting = Any
"""A click option's value; its type is the option's."""

STDIN = "-"
_URL = re.compile(r"(?:https?|git|ssh):/|git@|github\.com/")
"""What docker clones or fetches; of a path, '//' is '/'."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "ppc64le": "ppc64le"}


class Contexts:
    """What a build is asked for, of which some contexts may have to be fetched first.

    Attributes:
        repositories: the URLs of those.
        directories: where what they give is, by URL; to be filled before the request is made.
        archive: the directory with the archive that came as the context, if one did; what is
            in it goes to ``directories``, too.
    """

    def __init__(
        self,
        main: str,
        dockerfile: Path | None,
        settings: Mapping[str, Setting],
        came: Piped | None,
    ) -> None:
        if came is not None and came.text is not None and dockerfile is not None:
            raise UsageError(
                f"-f {dockerfile}: standard input is a Dockerfile, too; leave -f out"
            )
        self._main = main if came is None or came.text is None else str(came.directory)
        self._dockerfile = dockerfile
        self._text = None if came is None else came.text
        self.archive = came.directory if came is not None and came.text is None else None
        self._settings = settings
        named = (value for _, value in _pairs("--build-context", settings["contexts"]))
        self.repositories = [*dict.fromkeys(filter(is_repository, (main, *named)))]
        self.directories: dict[str, Path] = {}

    @property
    def keeps_git_dir(self) -> bool:
        """Whether the user wants the repositories' ``.git``."""
        kept = _build_args(self._settings["build_args"]).get(KEEP_GIT_DIR_ARG, "")
        return kept not in ("", "0", "false")

    def request(self, outputs: list[Output]) -> BuildRequest:
        """Return what a build is asked for.

        Raises:
            UsageError: an option makes no sense, or there is no such file.
        """
        found, file = self.directories, self._dockerfile
        for directory in found.values():
            check_inside(directory, directory / ".dockerignore", _usual_file(directory))
        if self._main in found and file is not None and str(file) != STDIN:
            check_inside(found[self._main], found[self._main] / file)
            file = found[self._main] / file
        named = _pairs("--build-context", self._settings["contexts"])
        contexts = [f"{name}={found.get(value, value)}" for name, value in named]
        main = found.get(self._main) or Path(self._main)
        settings = {**self._settings, "contexts": contexts, "text": self._text}
        request = _request_of(main, file, outputs, settings)
        check_outputs(outputs, platform=str(request.options.platform))
        return request


def _request_of(
    context: Path,
    dockerfile: Path | None,
    outputs: list[Output],
    settings: Mapping[str, Setting],
) -> BuildRequest:
    """Return what a build is asked for; ``settings`` are the values of the other options.

    Raises:
        UsageError: an option makes no sense, or there is no such file.
    """
    contexts = _contexts(context, settings["contexts"])
    build_args = _build_args(settings["build_args"])
    file = dockerfile if dockerfile is not None else _usual_file(context)
    text = settings["text"]
    named = None if str(file) == STDIN or text is not None else file
    options = Options(
        target=settings["target"],
        build_args=build_args,
        contexts=contexts.kinds,
        place=_places(settings["places"]),
        platform=_platform(settings["platforms"]),
        no_cache=settings["no_cache"],
        no_cache_stages=_words(settings["no_cache_stages"]),
        network=settings["network"],
        labels=dict(_label(text) for text in settings["labels"]),
        epoch_s=epoch_of(settings["build_args"]),
    )
    return BuildRequest(
        dockerfile=named,
        text=read_dockerfile(named) if text is None else text,
        options=options,
        roots=contexts.roots,
        layouts=contexts.layouts,
        outputs=outputs,
        tag=",".join(image_names(settings["tags"])),
        cache_to=_caches_to(settings["cache_to"], build_args, outputs),
        cache_from=[parse_cache_from(text) for text in settings["cache_from"]],
        explain=settings["explain"],
        cache_only=settings["cache_only"],
        secrets=read_secrets(settings["secrets"]),
        agents=read_agents(settings["agents"]),
    )


def _usual_file(context: Path) -> Path:
    """Return the Dockerfile of a context, which docker finds in small letters, too."""
    file, small = context / "Dockerfile", context / "dockerfile"
    return small if not file.exists() and small.is_file() else file


def epoch_of(texts: Sequence[str]) -> int | None:
    """Return SOURCE_DATE_EPOCH out of the build arguments or the environment, if it is there."""
    return parse_epoch(_build_args(texts).get(SOURCE_DATE_EPOCH, ""), SOURCE_DATE_EPOCH)


def _platform(asked: Sequence[str]) -> Platform:
    """Return this machine's platform, which is the one that is built for."""
    own = Platform("linux", _ARCHITECTURES.get(host.machine(), host.machine()))
    for text in asked:
        parts = text.lower().split("/")
        if len(parts) not in (2, 3) or not own.is_same(Platform(*parts)):
            raise UsageError(
                f"--platform {text}: from here it is built for {own}; another platform, or "
                "several in one build, is not there yet"
            )
    return own


class _Contexts(NamedTuple):
    """What a build reads from, by name: directories, images in files, images in registries."""

    roots: dict[str, Path]
    layouts: dict[str, Layout]
    images: dict[str, str]

    @property
    def kinds(self) -> dict[str, str]:
        """What a Dockerfile is told of each that has a name."""
        local = {name: "local" for name in self.roots if name != MAIN_CONTEXT}
        return {**local, **dict.fromkeys(self.layouts, "oci-layout"), **self.images}


def _contexts(main: Path, others: Sequence[str]) -> _Contexts:
    if not main.is_dir():
        other = "no such directory; give the build's context"
        raise UsageError(f"{main}: {_of_url(str(main)) or other}")
    found = _Contexts({MAIN_CONTEXT: main.resolve()}, {}, {})
    for name, value in _pairs("--build-context", others):
        if value.startswith(SCHEME):
            found.layouts[name] = parse_layout(value)
        elif value.startswith(IMAGE_SCHEME):
            found.images[name] = value
        elif Path(value).is_dir():
            found.roots[name] = Path(value).resolve()
        else:
            other = f"it is no directory; an image in a registry is {IMAGE_SCHEME}{value}"
            raise UsageError(f"--build-context {name}={value}: {_of_url(value) or other}")
    return found


def _of_url(text: str) -> str:
    """Return what to say of a context that is no directory, if it is a URL."""
    if not _URL.match(text):
        return ""
    return (
        "a context cannot come from this URL: only from a git repository at https://….git; clone"
        " or unpack it, and give the directory"
    )


def _words(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the words of lists with commas between them."""
    return tuple(word for text in texts for word in text.split(",") if word)


def _caches_to(
    texts: Sequence[str], build_args: Mapping[str, str], outputs: list[Output]
) -> list[CacheTo | CachePush | InlineCache]:
    caches = [parse_cache_to(text) for text in texts]
    if build_args.get(INLINE_ARG, "") not in ("", "0", "false"):
        caches.append(InlineCache())
    elif InlineCache() in caches:
        check_inline(outputs)
    return caches


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{option} {text}: write it as NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _build_arg(text: str) -> tuple[str, str] | None:
    """Return a build argument; one without '=' is the environment's, or None, as docker has it."""
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    return (name, os.environ[name]) if name in os.environ else None


def _label(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise UsageError(f"--label {text}: write it as NAME=VALUE")
    return name, value


def _build_args(texts: Sequence[str]) -> dict[str, str]:
    build_args = dict(pair for pair in map(_build_arg, texts) if pair is not None)
    if SOURCE_DATE_EPOCH in os.environ:
        build_args.setdefault(SOURCE_DATE_EPOCH, os.environ[SOURCE_DATE_EPOCH])
    return build_args


def _places(texts: Sequence[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    places: dict[str, tuple[tuple[str, str], ...]] = {}
    for stage, label in _pairs("--place", texts):
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise UsageError(f"--place {stage}={label}: write it as STAGE=LABEL=VALUE")
        places[stage] = (*places.get(stage, ()), (key, value))
    return places
