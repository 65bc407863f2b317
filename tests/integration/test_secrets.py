"""Secrets of a build: read by the steps that name them, and found nowhere else."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster, run
from worker.wire.secrets import MAX_SECRET_BYTES

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root", "crun")

SECRET = "correct-horse-battery-staple"
HALVES = f'{SECRET[:12]}"{SECRET[12:]}"'
READS = [
    f"--mount=type=secret,id=token echo {SECRET[:12]}; [ $(cat /run/secrets/token) = {HALVES} ]",
    f"--mount=type=secret,id=token,env=TOKEN echo {SECRET[:12]}; [ $TOKEN = {HALVES} ]",
]
"""What a step does with the secret, as a file or a variable, that the Dockerfile does not have."""
NAP = f"9{os.getpid()}"
"""How long a step sleeps, in words that no other process has."""
STAT = 'stat -c "%a %u:%g %s %F" '


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(SECRET)
    return path


def files_of(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def found_in(root: Path) -> list[Path]:
    """Return the files below ``root`` that have the secret in them, packed or not."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if _has_secret(path)]


def _has_secret(path: Path) -> bool:
    data = path.read_bytes()
    if SECRET.encode() in data:
        return True
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            files = (tar.extractfile(member) for member in tar if member.isfile())
            return any(SECRET.encode() in file.read() for file in files if file)
    except tarfile.TarError:
        return False


def test_a_step_reads_a_secret_as_a_file_of_the_mode_and_owner_that_it_asks_for(
    cluster: Cluster, context: ContextMaker, base: str, token: Path, tmp_path: Path
) -> None:
    root = context(
        "FROM base\nWORKDIR /out\n"
        f"RUN --mount=type=secret,id=token {STAT} /run/secrets/token > plain; "
        "wc -c < /run/secrets/token >> plain; ! echo x 2>/dev/null > /run/secrets/token\n"
        "RUN --mount=type=secret,id=token,target=/root/a/b,mode=0440,uid=7,gid=8 "
        f"{STAT} /root/a/b > other\n"
        "RUN --mount=type=secret,id=empty,required wc -c < /run/secrets/empty > empty\n"
        "RUN ls -d /run/secrets /root/a > after 2>/dev/null || true\n"
        "FROM scratch\nCOPY --from=0 /out /\n"
    )
    (tmp_path / "empty").touch()
    cluster.build(
        root,
        *("--build-context", base, "-o", f"type=local,dest={tmp_path / 'out'}"),
        *(
            "--secret",
            f"id=token,src={token}",
            "--secret",
            f"id=empty,src={tmp_path / 'empty'}",
        ),
    )
    assert files_of(tmp_path / "out") == {
        "plain": f"400 0:0 {len(SECRET)} regular file\n{len(SECRET)}\n",
        "other": f"440 7:8 {len(SECRET)} regular file\n",
        "empty": "0\n",
        "after": "",
    }


def test_a_step_has_a_secret_as_a_variable_before_one_of_the_image_and_as_a_file_if_it_asks(
    cluster: Cluster, context: ContextMaker, base: str, token: Path, tmp_path: Path
) -> None:
    root = context(
        "FROM base\nENV TOKEN=of-the-image OTHER=of-the-image\nWORKDIR /out\n"
        "RUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=none,env=OTHER "
        'echo "${#TOKEN}$OTHER" > variable; ls -d /run/secrets >> variable 2>/dev/null || true\n'
        "RUN --mount=type=secret,id=token,env=TOKEN,target=/t,mode=0440 "
        f'echo "${{#TOKEN}}" > both; {STAT} /t >> both\n'
        'RUN echo "$TOKEN" > after\n'
        "FROM scratch\nCOPY --from=0 /out /\n"
    )
    given = ("--build-context", base, "--secret", f"id=token,src={token}")
    cluster.build(root, *given, "-o", f"type=local,dest={tmp_path / 'out'}")
    assert files_of(tmp_path / "out") == {
        "variable": f"{len(SECRET)}\n",
        "both": f"{len(SECRET)}\n440 0:0 {len(SECRET)} regular file\n",
        "after": "of-the-image\n",
    }


def test_a_secret_that_can_be_no_variable_is_a_sentence_without_it(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context("FROM base\nRUN --mount=type=secret,id=token,env=TOKEN true\n")
    (tmp_path / "token").write_bytes(SECRET.encode() + b"\0")
    given = ("--build-context", base, "--secret", f"id=token,src={tmp_path / 'token'}")
    failed = cluster.build(root, *given, check=False)
    assert failed.status == 1
    said = "the secret 'token' cannot be the variable TOKEN: it has a NUL character in it"
    assert said in failed.stderr
    assert SECRET not in failed.stderr


def test_secrets_that_are_large_and_not_text_come_as_they_are(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    large = os.urandom(MAX_SECRET_BYTES)
    made = {"large": large, "small": b"\0\xff\n\n", "text": b"--\nsecret\n"}
    mounts, options = [], []
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        mounts.append(f"--mount=type=secret,id={name},required")
        options += ["--secret", f"id={name},src={tmp_path / name}"]
    root = context(
        f"FROM base\nRUN {' '.join(mounts)} mkdir /out && cp /run/secrets/* /out\n"
        "FROM scratch\nCOPY --from=0 /out /\n"
    )
    out = ("-o", f"type=local,dest={tmp_path / 'out'}")
    cluster.build(root, "--build-context", base, *out, *options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == made


@pytest.mark.parametrize("reads", READS, ids=["file", "variable"])
def test_the_value_is_in_no_state_output_log_or_image(
    cluster: Cluster, context: ContextMaker, base: str, token: Path, tmp_path: Path, reads: str
) -> None:
    root = context(
        f"FROM base\nRUN {reads} && touch /done\n"
        "RUN --mount=type=secret,id=token,target=/s,env=S false\n",
    )
    given = ("--build-context", base, "--secret", f"id=token,src={token}")
    failed = cluster.build(root, *given, "--progress", "json", "--explain", check=False)
    assert failed.status == 1
    context(f"FROM base\nRUN {reads} && touch /done\nENV A=b\n")
    image = ("-o", f"type=oci,dest={tmp_path / 'image.tar'}")
    cache = ("--cache-to", f"type=local,dest={tmp_path / 'cache'},mode=max")
    built = cluster.build(root, *given, *image, *cache, "--explain")
    said = failed.stdout + failed.stderr + built.stdout + built.stderr
    said += json.dumps(built.metadata)
    assert SECRET not in said
    cluster.stop()
    token.unlink()
    assert found_in(tmp_path) == []
    with tarfile.open(tmp_path / "image.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            (tmp_path / "member").write_bytes(file.read() if file else b"")
            assert not _has_secret(tmp_path / "member")


@pytest.mark.parametrize("reads", READS, ids=["file", "variable"])
def test_debug_logs_of_all_processes_have_no_secret(
    reads: str,
    context: ContextMaker,
    base: str,
    token: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FILESYNC_DEBUG", "1")
    root = context(f"FROM base\nRUN {reads}\n")
    home = {"XDG_CACHE_HOME": str(tmp_path / "home"), "TOKEN": SECRET}
    words = ("--build-context", base, "--secret", "id=token,env=TOKEN", str(root))
    done = run("-v", "-v", "build", *words, env=home)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    token.unlink()
    assert found_in(tmp_path) == []


@pytest.mark.parametrize("asked", ["", ",target=/run/secrets/token,env=TOKEN"])
def test_while_a_step_runs_its_secret_is_on_no_disk_and_a_killed_worker_leaves_none(
    asked: str,
    context: ContextMaker,
    base: str,
    token: Path,
    clusters: Callable[..., Cluster],
) -> None:
    # A second worker would run the step again.
    cluster = clusters("one", workers=1)
    root = context(f"FROM base\nRUN --mount=type=secret,id=token{asked} exec sleep {NAP}\n")
    given = ("--build-context", base, "--secret", f"id=token,src={token}")
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager, *given]
    builder = subprocess.Popen([*command, str(root)], stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 30
    while not _sleepers():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    sleeper = Path(f"/proc/{_sleepers()[0]}")
    assert (sleeper / "root/run/secrets/token").read_text() == SECRET
    assert (SECRET in (sleeper / "environ").read_text()) == bool(asked)
    assert found_in(cluster.root) == []
    cluster.kill("w1")
    while _sleepers():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert found_in(cluster.root) == []
    builder.terminate()
    builder.wait()
    cluster.start_worker("w1")  # which unmounts its snapshots


def _sleepers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", NAP.encode()]:
            found.append(int(path.parent.name))
    return found


def test_a_secret_that_is_required_and_not_given_fails_the_step_and_says_which(
    cluster: Cluster, context: ContextMaker, base: str, token: Path
) -> None:
    for asked in ("", ",env=TOKEN"):
        root = context(f"FROM base\nRUN --mount=type=secret,id=token,required{asked} true\n")
        failed = cluster.build(root, "--build-context", base, check=False)
        assert failed.status == 1
        assert "the secret 'token' is required and was not given" in failed.stderr
        assert "--secret id=token,src=FILE" in failed.stderr
        cluster.build(root, "--build-context", base, "--secret", f"id=token,src={token}")


def test_a_secret_that_is_not_required_and_not_given_is_not_there(
    cluster: Cluster, context: ContextMaker, base: str, token: Path
) -> None:
    root = context("FROM base\nRUN --mount=type=secret,id=token test ! -e /run/secrets\n")
    given = ("--secret", f"id=another,src={token}")
    cluster.build(root, "--build-context", base, *given)


def test_another_value_runs_no_step_again_and_another_id_does(
    cluster: Cluster, context: ContextMaker, base: str, token: Path
) -> None:
    text = "FROM base\nRUN --mount=type=secret,id={0} cat /run/secrets/{0} > /dev/null\n"
    root = context(text.format("token"))
    given = ("--build-context", base, "--secret", f"id=token,src={token}")
    assert not cluster.build(root, *given).step("RUN")["cached"]
    token.write_text("another value")
    assert cluster.build(root, *given).step("RUN")["cached"]
    assert cluster.build(root, "--build-context", base).step("RUN")["cached"]
    context(text.format("other"))
    given = ("--build-context", base, "--secret", f"id=other,src={token}")
    assert not cluster.build(root, *given).step("RUN")["cached"]


def test_a_secret_that_is_not_there_is_a_sentence_before_anything_runs(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\n")
    for option, said in (
        (f"id=a,src={tmp_path}/none", "No such file or directory; name the file with src="),
        (f"id=a,src={tmp_path}", "Is a directory"),
        ("id=a,env=NOT_SET_ANYWHERE", "there is no environment variable NOT_SET_ANYWHERE"),
        ("src=x", "say which: id=NAME,src=FILE"),
    ):
        failed = cluster.build(root, "--secret", option, check=False)
        assert failed.status == 2
        assert said in failed.stderr
