"""Contexts from standard input: a Dockerfile alone, or an archive."""

import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from bench.processes import Cluster

pytestmark = pytest.mark.needs("root")

TEXT = "FROM scratch\nCOPY d /data\n"


def piped(
    cluster: Cluster, data: bytes, *arguments: str, temporary: Path
) -> subprocess.CompletedProcess[bytes]:
    """Build ``-``; nothing of it may stay in ``temporary``."""
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
    built = subprocess.run(
        [*command, *arguments, "-"],
        input=data,
        capture_output=True,
        check=False,
        env={"TMPDIR": str(temporary), "HOME": str(temporary.parent)},
    )
    assert list(temporary.iterdir()) == []
    return built


def archive(mode: str = "w", **files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(mode=mode, fileobj=stream) as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size, member.mode, member.uid = len(text), 0o640, 7
            tar.addfile(member, io.BytesIO(text.encode()))
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_a_context_and_has_the_dockerfile(
    cluster: Cluster, tmp_path: Path, mode: str
) -> None:
    data = archive(mode, Dockerfile=TEXT, d__x="X", Other="FROM scratch\nCOPY d/x /other\n")
    temporary = tmp_path / "tmp"
    built = piped(cluster, data, "-o", str(tmp_path / "out"), temporary=temporary)
    assert built.returncode == 0, built.stderr
    found = tmp_path / "out/data/x"
    assert (found.read_text(), found.stat().st_mode & 0o777) == ("X", 0o640)
    assert found.stat().st_uid == 0, "a context is root's, whoever made the archive"
    other = ["-f", "Other", "-o", str(tmp_path / "two")]
    assert piped(cluster, data, *other, temporary=temporary).returncode == 0
    assert [one.name for one in (tmp_path / "two").iterdir()] == ["other"]


def test_what_a_client_leaves_that_is_killed_goes_with_the_next(
    cluster: Cluster, tmp_path: Path
) -> None:
    data, temporary = archive(Dockerfile=TEXT, d__x="X"), tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager, "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={"TMPDIR": str(temporary)}
    ) as one:
        assert one.stdin is not None
        one.stdin.write(data[:1024])
        one.stdin.flush()
        deadline_s = time.monotonic() + 20
        while not list(temporary.iterdir()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        one.kill()
    assert list(temporary.iterdir())
    assert piped(cluster, data, temporary=temporary).returncode == 0


def test_a_dockerfile_alone_has_an_empty_context(cluster: Cluster, tmp_path: Path) -> None:
    text = b"FROM scratch\nCOPY . /all\nCOPY <<E /one\n1\nE\n"
    built = piped(cluster, text, "-o", str(tmp_path / "out"), temporary=tmp_path / "tmp")
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "out/one").read_text() == "1\n"
    assert list((tmp_path / "out/all").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "words", "sentence"),
    [
        (b"", [], "standard input:1: the Dockerfile is empty"),
        (b"\xff\xfe", [], "standard input:1: the text cannot be written as UTF-8"),
        (b"FROM scratch\n", ["-f", "-"], "-f - and -: both cannot come from"),
        (b"FROM scratch\n", ["-f", "X"], "-f X: standard input is a Dockerfile, too"),
        # Its bytes have the second in which they were made: as a name, each of pytest-xdist's workers
        # would have another test.
        pytest.param(archive("w:gz", Dockerfile=TEXT)[:40], [], "standard input: ", id="half"),
        (archive(Dockerfile=TEXT)[:600], [], "standard input: "),
        (archive(other=TEXT), [], "Dockerfile: No such file"),
    ],
)
def test_what_is_neither_is_said_to_be(
    cluster: Cluster, tmp_path: Path, data: bytes, words: list[str], sentence: str
) -> None:
    built = piped(cluster, data, *words, temporary=tmp_path / "tmp")
    assert built.returncode in (1, 2)
    assert sentence in built.stderr.decode()
    assert "Traceback" not in built.stderr.decode()
