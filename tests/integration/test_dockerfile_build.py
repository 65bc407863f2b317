"""One Dockerfile with all that the front end knows, built for real over two workers."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.processes import Cluster

pytestmark = pytest.mark.needs("root", "crun")

DOCKERFILE = """\
# syntax=docker/dockerfile:1
ARG NAME=base
FROM ${NAME} AS tools
SHELL ["/bin/sh", "-eu", "-c"]
ARG LEVEL=3
ENV MODE=fast LEVEL_ENV=${LEVEL:-none}
WORKDIR /work
COPY --chmod=0750 --chown=7:8 script.sh ./
COPY --exclude=*.tmp tree/ tree/
ADD bundle.tar.gz unpacked/
RUN <<EOT
echo "$MODE $LEVEL $LEVEL_ENV" > said
cat tree/a > copied
EOT
RUN <<EOT
#!/bin/sh
echo from a script > scripted
EOT
RUN --mount=type=cache,target=/cache echo once >> /cache/log; cp /cache/log cachelog
RUN --mount=type=tmpfs,target=/scratch echo x > /scratch/x; ls /scratch > listed
COPY <<EOT written
level ${LEVEL}
EOT
RUN ["/bin/sh", "-c", "echo exec form > executed"]
RUN --network=none ls /sys/class/net > nets

FROM scratch AS data
COPY tree/a /deep/a
COPY tree/b.tmp /deep/b

FROM tools AS final
USER 7:8
RUN id -u > /tmp/uid; id -g > /tmp/gid
USER 0
RUN --mount=from=data,source=/deep,target=/mnt,rw echo z > /mnt/z; ls /mnt > mounted
RUN --mount=target=/ctx cat /ctx/script.sh > from-context
COPY --from=data /deep/* /got/
EXPOSE 80 53/udp
VOLUME /data
LABEL one=1 two="second label"
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --retries=2 CMD true
ENTRYPOINT ["/work/script.sh"]
CMD ["arg"]
"""


def test_every_instruction_does_what_docker_does(
    cluster: Cluster, context: Callable[..., Path], base: str, tmp_path: Path
) -> None:
    root = context(
        DOCKERFILE,
        **{"script.sh": "#!/bin/sh\necho script\n", "tree__a": "A\n", "tree__b.tmp": "B\n"},
    )
    (tmp_path / "inner").write_text("inner\n")
    with tarfile.open(root / "bundle.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "inner", "dir/inner")
    out, layout = tmp_path / "out", tmp_path / "layout"
    outputs = ("-o", f"type=local,dest={out}", "-o", f"type=oci,tar=false,dest={layout}")
    arguments = ("--build-context", base, "--build-arg", "LEVEL=9", "-t", "all:1")
    places = ("--place", "data=name=w1", "--place", "final=name=w2")
    metadata = cluster.build(root, *arguments, *places, *outputs).metadata

    work = out / "work"
    texts = {
        "said": "fast 9 9\n",
        "copied": "A\n",
        "scripted": "from a script\n",
        "cachelog": "once\n",
        "listed": "x\n",
        "written": "level 9\n",
        "executed": "exec form\n",
        "nets": "lo\n",
        "mounted": "a\nb\nz\n",
        "from-context": "#!/bin/sh\necho script\n",
        "unpacked/dir/inner": "inner\n",
    }
    assert {name: (work / name).read_text() for name in texts} == texts
    assert os.listdir(work / "tree") == ["a"]
    assert (out / "tmp/uid").read_text() + (out / "tmp/gid").read_text() == "7\n8\n"
    assert sorted(os.listdir(out / "got")) == ["a", "b"]
    status = (work / "script.sh").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o750, 7, 8)
    assert not {"ctx", "cache", "scratch"} & set(os.listdir(out))

    assert metadata["image.name"] == "docker.io/library/all:1"
    config = image_config(layout, metadata["containerimage.config.digest"])["config"]
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert config["Volumes"] == {"/data": {}}
    assert config["Labels"] == {"one": "1", "two": "second label"}
    assert config["StopSignal"] == "SIGQUIT"
    assert config["Healthcheck"]["Interval"] == 5_000_000_000
    assert config["Entrypoint"] == ["/work/script.sh"]
    assert config["Cmd"] == ["arg"]
    assert config["WorkingDir"] == "/work"
    assert "MODE=fast" in config["Env"]
    assert not [value for value in config["Env"] if value.startswith("LEVEL=")]


HEREDOCS = """\
FROM base
RUN mkdir /folder && ln -s folder /link
COPY <<one /folder
1
one
COPY <<two /link
2
two
COPY --chown=7:8 --chmod=u+x,go= <<three /new/below/
3
three
"""


def test_a_heredoc_goes_where_a_file_would(
    cluster: Cluster, context: Callable[..., Path], base: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outputs = ("-o", f"type=local,dest={out}", "--place", "stage-0=name=w1")
    cluster.build(context(HEREDOCS), "--build-context", base, *outputs)

    assert (out / "folder/one").read_text() == "1\n"
    assert (out / "folder/two").read_text() == "2\n"
    assert (out / "link").is_symlink()
    three = (out / "new/below/three").stat()
    assert (three.st_mode & 0o7777, three.st_uid, three.st_gid) == (0o700, 7, 8)
    for made in ("new", "new/below"):
        status = (out / made).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o755, 7, 8)


def test_a_directory_is_built_upon(
    cluster: Cluster, context: Callable[..., Path], base: str, tmp_path: Path
) -> None:
    text = "FROM docs AS d\nCOPY here /usr/\nFROM base\nCOPY --from=d /usr/ /got/\n"
    root = context(text, here="1\n")
    docs = tmp_path / "docs"
    (docs / "usr").mkdir(parents=True)
    (docs / "usr/page").write_text("page\n")
    out = tmp_path / "out"
    places = ("--place", "d=name=w1", "--place", "stage-1=name=w2")
    contexts = ("--build-context", base, "--build-context", f"docs={docs}")
    cluster.build(root, *contexts, *places, "-o", f"type=local,dest={out}")
    assert sorted(os.listdir(out / "got")) == ["here", "page"]

    plain = tmp_path / "plain"
    cluster.build(root, *contexts, "--target", "d", "-o", f"type=local,dest={plain}")
    assert (plain / "usr/page").read_text() == "page\n"


@pytest.mark.parametrize(
    "text",
    [
        "FROM base\nENV A=b\nRUN echo x > /x\nCMD true\nCOPY Dockerfile /d\n",
        "FROM scratch\nENV A=b\n",
        "FROM docs\nENV A=b\n",
        "FROM docs\nENV A=b\nCOPY Dockerfile /d\n",
    ],
)
def test_history_and_layers_of_an_image_agree(
    cluster: Cluster, context: Callable[..., Path], base: str, tmp_path: Path, text: str
) -> None:
    root = context(text)
    layout = tmp_path / "layout"
    contexts = ("--build-context", base, "--build-context", f"docs={root}")
    arguments = (*contexts, "-o", f"type=oci,tar=false,dest={layout}")
    metadata = cluster.build(root, *arguments).metadata
    config = image_config(layout, metadata["containerimage.config.digest"])
    layers = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(layers) == len(config["rootfs"]["diff_ids"])


def test_history_and_layers_agree_where_a_step_was_made_on_other_layers(
    cluster: Cluster, context: Callable[..., Path], base: str, tmp_path: Path
) -> None:
    arguments = ("--build-context", base)
    cluster.build(context("FROM base\nRUN echo y > /y\n"), *arguments)
    layout = tmp_path / "layout"
    root = context("FROM base\nRUN true\nRUN echo y > /y\nCOPY Dockerfile /d\n")
    to = f"type=oci,tar=false,dest={layout}"
    metadata = cluster.build(root, *arguments, "-o", to).metadata
    config = image_config(layout, metadata["containerimage.config.digest"])
    layers = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(layers) == len(config["rootfs"]["diff_ids"])
    assert config["history"][-1]["created_by"].startswith("COPY")


def image_config(layout: Path, digest: str) -> dict[str, Any]:
    path = layout / "blobs" / digest.replace(":", "/")
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value
