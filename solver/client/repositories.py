"""Contexts out of git repositories: what ADD gives of them, brought to this machine for one build."""

import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from filesync.errors import UsageError
from filesync.transfer.threads import acquired, in_thread
from solver.client.outputs.files import making_beside
from solver.client.outputs.outputs import Output, OutputType
from solver.client.request import BuildRequest
from solver.dockerfile import DockerfileError, Options
from solver.errors import BuildError

_REPOSITORY: Final = re.compile(r"(?i:https?)://[^?#]+\.git(#.*)?")
_WORD: Final = re.compile(r"""([\\$"'])""")
_NAME: Final = "context"
KEEP_GIT_DIR_ARG: Final = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
"""The build argument by which a context keeps its ``.git``, as docker has it."""


def is_repository(context: str) -> bool:
    """Say whether a context is a repository that can be fetched, and no directory of that name."""
    return _REPOSITORY.fullmatch(context) is not None and not Path(context).is_dir()


@asynccontextmanager
async def fetched(
    url: str, build: Callable[[BuildRequest], Awaitable[object]], *, keep_git_dir: bool
) -> AsyncIterator[Path]:
    """Yield a directory with what ``url`` gives; it is removed in the end.

    It is a result of the cluster as any other, so that a commit that has not changed is not fetched
    again. ``build`` builds.

    Raises:
        FilesyncError: it cannot be had.
    """
    stack = ExitStack()
    make = partial(stack.enter_context, making_beside(None))
    temporary = await acquired(make, lambda _: stack.close())
    try:
        with _without_line():
            await build(_request(url, temporary / "context", keep_git_dir=keep_git_dir))
        yield temporary / "context"
    finally:
        await in_thread(stack.close)


def check_inside(directory: Path, *files: Path) -> None:
    """See that what a build reads of a repository at once is in it: a link there may lead anywhere.

    Raises:
        UsageError: a file is not.
    """
    root = directory.resolve()
    for file in files:
        for one in (file, file.with_name(f"{file.name}.dockerignore")):
            if not one.resolve().is_relative_to(root):
                shown = os.path.relpath(one, directory)
                raise UsageError(f"{shown}: it leads out of the repository")


@contextmanager
def _without_line() -> Iterator[None]:
    """Have what goes wrong not show the line that the user has not written, with the login in it."""
    try:
        yield
    except DockerfileError as exc:
        raise UsageError(exc.message.removeprefix("ADD ")) from None
    except BuildError as exc:
        sentence = exc.detail.partition("\n")[0].removeprefix(f"{_NAME}:2: ")
        raise BuildError(exc.reason, sentence) from None


def _request(url: str, dest: Path, *, keep_git_dir: bool) -> BuildRequest:
    flag = "--keep-git-dir " if keep_git_dir else ""
    words = json.dumps([_WORD.sub(r"\\\1", url), "/"], ensure_ascii=False)
    text = f"FROM scratch\nADD {flag}{words}\n"
    outputs = [Output(OutputType.LOCAL, str(dest))]
    return BuildRequest(Path(_NAME), text, Options(), {}, {}, outputs)
