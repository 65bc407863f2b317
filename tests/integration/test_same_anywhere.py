"""Random Dockerfiles under changed circumstances: where steps ran must not be seen in the image.

There is no oracle but the engine itself: with all times held to one, an image's digest has to be
the same whoever built it. The Dockerfiles are made of a seed, so a failure comes again.
"""

import os
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from bench.processes import BuildRun, Cluster

pytestmark = pytest.mark.needs("root", "crun")

_EPOCH: Final = ("--build-arg", "SOURCE_DATE_EPOCH=1500000000")
"""Older than every file, so that no layer says when it was made."""
_IN_CONTEXT: Final = ("f", "d", "d/s/", "*", "d/[a-m]*", "link", "d/up", "bundle.tar.gz")
_IN_STAGE: Final = ("/o*", "/o1/*", "/h*", "/etc/passwd", "/usr/lib*/nothing", "/ln*")
_TO: Final = ("/o1/", "/o2/", "/o3/deep/", "/ln/", "/dangling/", "rel/")
_OPTIONS: Final = ("--chown=7:8", "--chmod=u=rwX,g=rX,o=", "--exclude=*.tmp", "--parents", "")
_SETTING: Final = (
    "RUN mkdir -p /o1/s /o2 && echo old > /o1/old && echo old > /o1/s/old"
    " && ln -s o1 /ln && ln -s nowhere /dangling"
)
_COMMANDS: Final = (
    "rm -rf /o1 && mkdir -p /o1/s && echo anew > /o1/s/f",
    "rm -rf /o2 && ln -s o1 /o2",
    "rm -rf /h /h-c; mkdir /h && echo $V > /h/a && ln /h/a /h/b && ln /h/a /h-c",
    "rm -f /h/a",
    "mv /o1 /o4",
    "chmod 2750 /o1; chown -h 3:4 /o1 /ln",
    "mkfifo /o1/pipe",
    "rm -rf /srv; echo $V-${W:-none} > /srv",
    "ls -A /o1 /o2 > /listed",
)
_MOUNTS: Final = (
    "--mount=target=/m,source=d",
    "--mount=target=/m/n,rw",
    "--mount=type=tmpfs,target=/m",
)


class Dockerfile:
    """One Dockerfile out of a seed, and its stages."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.stages = [f"s{number}" for number in range(3)]
        lines = ["ARG V=given"]
        for number, name in enumerate(self.stages):
            lines += self._stage(name, self.stages[:number])
        lines += [f"COPY --from={name} /o* /all/{name}/" for name in self.stages[:-1]]
        self.text = "\n".join(lines) + "\n"

    def places(self, seed: str, workers: Sequence[str]) -> list[str]:
        """Return options that spread the stages over ``workers``."""
        spread = random.Random(seed)
        chosen = [f"{stage}=name={spread.choice(workers)}" for stage in self.stages]
        return [word for place in chosen for word in ("--place", place)]

    def _stage(self, name: str, before: Sequence[str]) -> list[str]:
        choose = self._random.choice
        origin = choose(("base", *before))
        lines = [f"FROM {origin} AS {name}", "ARG V", f"ENV W={name}"]
        lines += [_SETTING] if origin == "base" else []
        lines += [choose((f"WORKDIR /w/{name}", "WORKDIR /ln/w", "USER 0"))]
        for _ in range(5):
            lines.append(choose((self._copy, self._run))(before))
        return [*lines, f"LABEL {name}=$V"]

    def _copy(self, before: Sequence[str]) -> str:
        choose = self._random.choice
        to, option = choose(_TO), choose(_OPTIONS)
        if not before or self._random.random() < 0.5:
            keyword = choose(("COPY", "ADD")) if option != "--parents" else "COPY"
            return f"{keyword} {option} {choose(_IN_CONTEXT)} {to}"
        return f"COPY --from={choose(before)} {option} {choose(_IN_STAGE)} {to}"

    def _run(self, before: Sequence[str]) -> str:
        choose = self._random.choice
        commands = [f"{{ {choose(_COMMANDS)}; }} || true" for _ in range(2)]
        if self._random.random() < 0.6:
            return "RUN " + "; ".join(commands)
        shown = [f"--mount=from={stage},target=/m" for stage in before]
        copied = "mkdir -p /seen && cp -a /m/. /seen/ && touch /m/mine || true"
        return f"RUN {choose((*_MOUNTS, *shown))} {copied}; {commands[0]}"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context with links of all sorts, odd modes and names, and an archive."""
    root = tmp_path_factory.mktemp("tree")
    for name, text in {"f": "file", "d/a": "a", "d/x.tmp": "x", "d/s/odd\n": "odd"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    os.link(root / "d/a", root / "d/s/a")
    for name, target in {"link": "d/s", "d/up": "../f", "d/gone": "/not/there"}.items():
        (root / name).symlink_to(target)
    (root / "d/s").chmod(0o1777)
    (root / "d/a").chmod(0o4755)
    with tarfile.open(root / "bundle.tar.gz", "w:gz") as tar:
        tar.add(root / "d", "packed")
    (root / ".dockerignore").write_text("**/nothing\n")
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Cluster]]:
    """Clusters that build the same: of one worker, of three, one without overlays, an empty one."""
    copies: Final = {"w1": ("--snapshotter", "copy")}
    root = tmp_path_factory.mktemp("clusters")
    with ExitStack() as stack:
        yield {
            "one": stack.enter_context(Cluster(root / "one", workers=1)),
            "three": stack.enter_context(Cluster(root / "three", workers=3)),
            "copies": stack.enter_context(Cluster(root / "copies", arguments=copies)),
            "empty": stack.enter_context(Cluster(root / "empty")),
        }


@pytest.mark.parametrize("seed", [6, 7, 9])
def test_an_image_does_not_tell_where_it_was_built(
    shapes: Mapping[str, Cluster], base: str, tree: Path, tmp_path: Path, seed: int
) -> None:
    dockerfile = Dockerfile(seed)
    (tmp_path / "Dockerfile").write_text(dockerfile.text)
    cache = f"type=local,dest={tmp_path / 'cache'},mode=max"

    def build(shape: str, *arguments: str) -> BuildRun:
        cluster = shapes[shape]
        dest = tmp_path / f"{shape}-{len(images)}"
        output = f"type=oci,tar=false,rewrite-timestamp=true,dest={dest}"
        places = dockerfile.places(f"{seed} {len(images)}", cluster.names)
        words = ("-f", str(tmp_path / "Dockerfile"), "--build-context", base, *_EPOCH, *places)
        built = cluster.build(tree, *words, "-o", output, *arguments)
        images[f"{shape} {places}"] = built.metadata["containerimage.digest"]
        return built

    images: dict[str, str] = {}
    build("one", "--cache-to", cache)
    build("three")
    build("copies")
    imported = build("empty", "--cache-from", cache.replace("dest=", "src=").split(",mode")[0])

    assert len(set(images.values())) == 1, (dockerfile.text, images)
    steps = imported.metadata["filesync"]["steps"]
    assert not [step["name"] for step in steps if "RUN" in step["name"] and not step["cached"]]
