"""The build command."""

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from filesync.errors import UsageError
from filesync.keys.files import KeyPair, key_for
from filesync.keys.options import key_option
from filesync.process.lifetime import run_command
from solver.client.again import run_build
from solver.client.aside import Aside
from solver.client.embedded import cluster_here
from solver.client.outputs.files import check_place, write_text
from solver.client.outputs.outputs import (
    CACHE_ONLY,
    STDOUT,
    Output,
    OutputType,
    parse_output,
    with_annotations,
    with_epoch,
    with_tags,
)
from solver.client.progress import make_progress
from solver.client.repositories import fetched
from solver.client.request import BuildRequest
from solver.client.stdin import Piped, piped, unpacked
from solver.commands.options import manager_option, progress_option
from solver.commands.settings import STDIN, Contexts, Setting, epoch_of
from solver.commands.spelling import DockerCommand
from solver.dockerfile import NETWORKS


@click.command(
    cls=DockerCommand,
    epilog="""
\b
Examples:
  filesync build -t app:1 -o type=oci,dest=app.tar .
  filesync build -t app:1 -o type=docker,dest=- . | docker load
  filesync build -o type=local,dest=out --target bin .
  filesync build --build-context base=oci-layout://./base -t app:1 -o type=oci,dest=app.tar .
  filesync build -t registry.example/team/app:1 --push .
  filesync build --cache-to type=registry,ref=registry.example/team/app:cache,mode=max \\
      --cache-from registry.example/team/app:cache .
  filesync build --secret id=npmrc,src=$HOME/.npmrc --secret id=TOKEN .
  filesync build --ssh default .
  filesync build -o type=local,dest=out https://example.org/team/app.git#v1.2:docs
  filesync build --manager tcp://127.0.0.1:7700 --place test=gpu=true .
""",
)
@click.argument("context", type=click.Path(file_okay=False))
@click.option(
    "-f",
    "--file",
    "dockerfile",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The Dockerfile; - is standard input. With a repository as context, a path in it.  "
    "[default: CONTEXT/Dockerfile]",
)
@click.option(
    "-t",
    "--tag",
    "tags",
    multiple=True,
    metavar="NAME",
    help="Name for the image; more than once for more than one.",
)
@click.option("--push", is_flag=True, help="The same as -o type=registry: push to every --tag.")
@click.option("--target", default="", metavar="STAGE", help="Stage to build.  [default: last]")
@click.option(
    "--build-arg", "build_args", multiple=True, metavar="K=V", help="Value of an ARG."
)
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label for the image.")
@click.option(
    "--annotation",
    "annotations",
    multiple=True,
    metavar="[TYPE:]K=V",
    help="Annotation for the images that are written, as -o …,annotation.K=V has it for one.",
)
@click.option(
    "--build-context",
    "contexts",
    multiple=True,
    metavar="NAME=PATH",
    help="Another context: a directory, https://….git[#REF[:DIRECTORY]], oci-layout://PATH[:TAG] or "
    "docker-image://IMAGE.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="SPEC",
    help="For RUN --mount=type=secret: id=ID[,src=PATH|,env=NAME]; without either, the variable or "
    "the file ID; may be repeated. It stays in memory, and out of all results and cache keys.",
)
@click.option(
    "--ssh",
    "agents",
    multiple=True,
    metavar="SPEC",
    help="For RUN --mount=type=ssh: default, which is the agent at SSH_AUTH_SOCK, or ID=SOCKET; may be "
    "repeated. Steps that name it can have it sign while they run.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="SPEC",
    help="type=local|tar|oci|docker,dest=PATH or type=registry[,name=NAME]; may be repeated. "
    "Without it, or with type=cacheonly, the result stays in the workers' cache.",
)
@click.option(
    "--cache-to",
    "cache_to",
    multiple=True,
    metavar="SPEC",
    help="Write a cache: type=registry,ref=NAME[,mode=min|max], type=local,dest=DIR[,mode=min|max] or "
    "type=inline, into the image; may be repeated.",
)
@click.option(
    "--cache-from",
    "cache_from",
    multiple=True,
    metavar="SPEC",
    help="Use a cache: type=registry,ref=NAME, which may be an image with one in it, or "
    "type=local,src=DIR; may be repeated.",
)
@click.option(
    "--place",
    "places",
    multiple=True,
    metavar="STAGE=K=V",
    help="Run a stage only on workers with this label (name=NAME is a label of every worker).",
)
@progress_option
@click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing but the ID of the image that is written."
)
@click.option("--no-cache", is_flag=True, help="Run every step.")
@click.option(
    "--no-cache-filter",
    "no_cache_stages",
    multiple=True,
    metavar="STAGE,…",
    help="Run every step of these stages.",
)
@click.option(
    "--network",
    type=click.Choice([*NETWORKS]),
    default="default",
    help="What RUN without --network has: none, or its worker's network, which default and host "
    "both mean.",
)
@click.option(
    "--pull",
    is_flag=True,
    expose_value=False,
    help="Always so: each build asks the registry what a tag stands for.",
)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="What to build for; so far that is this machine's platform only.",
)
@click.option("--explain", is_flag=True, help="Say why each step runs where it runs.")
@click.option(
    "--metadata-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what was built, and how, as JSON.",
)
@click.option(
    "--iidfile",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the ID of the image: the digest of its configuration.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Workers of the cluster that is started: w1, w2, …",
)
@manager_option
@key_option
def build(
    context: str,
    dockerfile: Path | None,
    outputs: Sequence[str],
    metadata_file: Path | None,
    iidfile: Path | None,
    progress: str,
    quiet: bool,
    workers: int,
    manager: str | None,
    key: Path | None,
    **settings: Setting,
) -> None:
    """Build a Dockerfile over the workers of a cluster.

    CONTEXT is a directory, a git repository, https://….git[#REF[:DIRECTORY]], or -: standard
    input, which is a Dockerfile, or an archive with the Dockerfile and what it reads.

    Without --manager (or FILESYNC_MANAGER) it runs on the cluster of `filesync up`, if that runs. Else a
    cluster is started on this machine for the time of the build; what it has built is kept for the next one.
    """
    settings["cache_only"] = list(outputs) == [CACHE_ONLY]
    parsed = [] if settings["cache_only"] else [parse_output(text) for text in outputs]
    if settings["push"] and all(output.form is not None for output in parsed):
        parsed.append(Output(OutputType.REGISTRY, ""))
    epoch_s = epoch_of(settings["build_args"])
    parsed = with_annotations(parsed, settings["annotations"])
    parsed = with_epoch(with_tags(parsed, settings["tags"]), epoch_s)
    if iidfile is not None and not any(output.is_image for output in parsed):
        raise UsageError("--iidfile: no image is written; give -o type=oci,dest=PATH or --push")
    for file in filter(None, (metadata_file, iidfile)):
        check_place(file)
    own = key_for(manager, key) if manager is not None else None
    shown = "quiet" if quiet else progress
    with ExitStack() as stack:
        came = stack.enter_context(_piped(dockerfile)) if context == STDIN else None
        contexts = Contexts(context, dockerfile, settings, came)
        if contexts.repositories or contexts.archive:
            work = partial(_build_fetched, contexts, parsed)
        else:
            work = partial(_build, contexts.request(parsed))
        if manager is None:
            manager = stack.enter_context(cluster_here(workers=workers))
        result = run_command(work(manager, own, shown))
    image_id = result.get("containerimage.config.digest", "")
    if metadata_file is not None:
        write_text(metadata_file, json.dumps(result, indent=2) + "\n")
    if iidfile is not None:
        write_text(iidfile, image_id)
    if quiet and image_id and all(output.dest != STDOUT for output in parsed):
        click.echo(image_id)


def _piped(dockerfile: Path | None) -> AbstractContextManager[Piped]:
    if str(dockerfile) == STDIN:
        raise UsageError("-f - and -: both cannot come from standard input")
    return piped(sys.stdin.buffer)


async def _build_fetched(
    contexts: Contexts, outputs: list[Output], manager: str, own: KeyPair | None, progress: str
) -> dict[str, Any]:
    """Build what has contexts in repositories or in an archive, each of which is built first."""
    async with AsyncExitStack() as stack:
        # The steps that events speak of are those of what was asked for.
        quiet = "quiet" if progress == "json" else progress
        build = partial(_build, manager=manager, own=own, progress=quiet)
        for url in contexts.repositories:
            made = fetched(url, build, keep_git_dir=contexts.keeps_git_dir)
            contexts.directories[url] = await stack.enter_async_context(made)
        if contexts.archive is not None:
            opened = unpacked(contexts.archive, partial(build, progress="quiet"))
            contexts.directories[STDIN] = await stack.enter_async_context(opened)
        return await _build(contexts.request(outputs), manager, own, progress)


async def _build(
    request: BuildRequest, manager: str, own: KeyPair | None, progress: str
) -> dict[str, Any]:
    return await run_build(request, manager, lambda: Aside(make_progress(progress)), own)
