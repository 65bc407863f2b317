"""ADD of git repositories: real clusters and git's own server, whose requests are counted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.gitserver import COMMITTED_S, GitServer, Repository, git

ContextMaker = Callable[..., Path]
Clusters = Callable[..., Cluster]

pytestmark = pytest.mark.needs("git")
OUT = "type=local,dest="


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as running:
        yield running


@pytest.fixture
def repository(server: GitServer) -> Repository:
    made = server.repository("a")
    made.commit(file="one\n", docs__page="page\n")
    return made


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


def add(server: GitServer, *flags: str, of: str = "", dest: str = "/to/") -> str:
    return f"FROM scratch\nADD {' '.join(flags)} {server.url}/a.git{of} {dest}\n"


# --- what is built ----------------------------------------------------------------------------


def test_a_commit_is_added_as_docker_adds_it(
    cluster: Cluster,
    server: GitServer,
    repository: Repository,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    url = f"{server.url}/a.git"
    root = context(
        f"FROM scratch\nADD {url} /whole\nADD {url}#main:docs /docs/\n"
        f"ADD --chmod=700 --exclude=file {url}#main a.txt /both/\n"
        f"ADD --link --keep-git-dir=true {url} /kept\n",
        **{"a.txt": "from the context"},
    )
    built = cluster.build(root, "-o", f"{OUT}{tmp_path / 'out'}")
    out = tmp_path / "out"
    assert sorted(one.name for one in (out / "whole").iterdir()) == ["docs", "file"]
    assert [one.name for one in (out / "docs").iterdir()] == ["page"]
    assert sorted(one.name for one in (out / "both").iterdir()) == ["a.txt", "docs"]
    assert (out / "both/docs/page").stat().st_mode & 0o7777 == 0o700
    for name in ("whole/file", "whole/docs", "docs/page", "kept/.git/HEAD"):
        assert (out / name).stat().st_mtime == COMMITTED_S
    assert (out / "whole/file").stat().st_mode & 0o7777 == 0o644
    commit = repository.git("rev-parse", "HEAD")
    assert git(out / "kept", "rev-parse", "HEAD") == commit
    assert git(out / "kept", "status", "--porcelain") == ""
    assert f"{url}: refs/heads/main is {commit}" in built.stderr


def test_all_workers_make_the_same_of_a_commit(
    clusters: Clusters,
    server: GitServer,
    repository: Repository,
    context: ContextMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(COMMITTED_S))  # of the directory /to itself
    inner = server.repository("inner")
    repository.add_submodule("sub", "../inner.git", inner.commit(inner="inner"))
    repository.commit()
    root = context(add(server, "--keep-git-dir"))
    digests = set()
    for name in ("one", "two"):
        out = f"type=oci,dest={tmp_path / name}.tar,rewrite-timestamp=true"
        built = clusters(name).build(root, "-t", "app:1", "-o", out)
        digests.add(built.metadata["containerimage.digest"])
    assert len(digests) == 1


# --- what is asked, and what runs -------------------------------------------------------------


def test_a_ref_that_has_not_moved_fetches_nothing_and_one_that_has_does(
    cluster: Cluster,
    server: GitServer,
    repository: Repository,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    root = context(add(server, of="#main") + "FROM scratch\nCOPY --from=0 /to/file /f\n")
    assert cluster.build(root).totals["steps_run"] == 3
    packs = server.packs
    assert cluster.build(root).totals["steps_run"] == 0
    assert server.packs == packs, "nothing but refs is asked for"
    repository.commit(other="2\n")
    moved = cluster.build(root)
    assert moved.totals["steps_run"] == 2, "what the next stage reads is the same"
    repository.commit(file="two\n")
    changed = cluster.build(root, "-o", f"{OUT}{tmp_path / 'out'}")
    assert changed.totals["steps_run"] == 3
    assert (tmp_path / "out/f").read_text() == "two\n"


def test_a_commit_that_a_worker_holds_costs_no_request(
    cluster: Cluster, server: GitServer, repository: Repository, context: ContextMaker
) -> None:
    commit = repository.git("rev-parse", "HEAD")
    cluster.build(context(add(server, f"--checksum={commit}", of="#main")))
    asked = len(server.asked)
    for text in (
        add(server, f"--checksum={commit}", of="#main"),
        add(server, f"--checksum={commit}", of="#another"),
        add(server, of=f"#{commit}"),
        add(server, of=f"#{commit}").replace(server.host, "nowhere.invalid"),
    ):
        assert cluster.build(context(text)).totals["steps_run"] == 0
    assert len(server.asked) == asked


def test_a_repository_goes_from_worker_to_worker_and_is_fetched_once(
    tmp_path: Path, server: GitServer, repository: Repository, context: ContextMaker
) -> None:
    labels = {"w2": ("--label", "gpu=true")}
    root = context(f"FROM scratch AS s\nADD {server.url}/a.git /f\n")
    with Cluster(tmp_path / "cluster", arguments=labels) as cluster:
        cluster.wait_for_workers()
        built = cluster.build(root, "--place", "s=gpu=true")
        step = built.step("ADD")
        assert step["worker"] == "w2"
        assert built.step("[internal] fetch")["inputs"][0]["mode"] == "url"
    assert server.packs == 1


def test_a_cache_has_the_commit_for_a_cluster_that_has_not(
    clusters: Clusters,
    server: GitServer,
    repository: Repository,
    context: ContextMaker,
    tmp_path: Path,
) -> None:
    root = context(add(server, f"--checksum={repository.git('rev-parse', 'HEAD')}"))
    to = f"type=local,dest={tmp_path / 'cache'},mode=max"
    clusters("one").build(root, "--cache-to", to)
    asked = len(server.asked)
    at = f"type=local,src={tmp_path / 'cache'}"
    again = clusters("two").build(root, "--cache-from", at, "-o", f"{OUT}{tmp_path / 'out'}")
    assert again.totals["steps_run"] == 0
    assert (tmp_path / "out/to/file").read_text() == "one\n"
    assert len(server.asked) == asked


# --- contexts ---------------------------------------------------------------------------------


def test_a_context_is_a_directory_of_a_repository(
    cluster: Cluster, server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    text = "FROM scratch\nCOPY . /all\nCOPY --from=other page /\n"
    files = {"Dockerfile": text, "app__Dockerfile": text, "app__.dockerignore": "left*\n"}
    repository.commit(**files, app__left="1", app__taken="2")
    url = f"{server.url}/a.git"
    named = ("--build-context", f"other={url}#main:docs")
    arguments = (*named, "-o", f"{OUT}{tmp_path / 'out'}")
    built = build(cluster, f"{url}#main:app", *arguments)
    assert built.returncode == 0, built.stderr
    found = sorted(
        str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/**/*")
    )
    assert found == ["all", "all/.dockerignore", "all/Dockerfile", "all/taken", "page"]
    packs = server.packs
    again = build(cluster, f"{url}#main:app", *arguments, "-f", "Dockerfile")
    assert again.returncode == 0, again.stderr
    assert server.packs == packs, "nothing but refs is asked for"
    assert not [*Path(os.environ["TMPDIR"]).glob(".filesync-made-*")]


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ("#gone", "it has no branch or tag 'gone'"),
        ("#main:gone", "'gone' is no directory in commit"),
        ("#-gone", "'-gone' cannot name a branch or a tag"),
    ],
)
def test_a_context_that_is_not_there_is_one_sentence_without_the_login(
    cluster: Cluster, server: GitServer, repository: Repository, of: str, said: str
) -> None:
    server.login = "me:hunter2"
    built = build(cluster, f"http://me:hunter2@{server.host}/a.git{of}", "--progress", "quiet")
    assert built.returncode in (1, 2)
    assert said in built.stderr
    assert "hunter2" not in built.stderr
    assert built.stderr.count("\n") == 1
    assert not [*Path(os.environ["TMPDIR"]).glob(".filesync-made-*")]


@pytest.mark.parametrize(
    "name", ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore", "x"]
)
def test_a_context_cannot_have_this_machines_files_read(
    cluster: Cluster, server: GitServer, repository: Repository, tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    repository.commit(Dockerfile="FROM scratch\nCOPY . /\n")
    (repository.path / name).unlink(missing_ok=True)
    (repository.path / name).symlink_to(tmp_path / "secret")
    repository.commit()
    file = ("-f", "x") if name == "x" else ()
    built = build(cluster, *file, f"{server.url}/a.git", "-o", f"{OUT}{tmp_path / 'out'}")
    assert built.returncode == 2
    assert f"{name}: it leads out of the repository" in built.stderr
    assert "hunter2" not in built.stderr


def test_a_dockerfile_is_one_of_the_repositorys(
    cluster: Cluster, server: GitServer, repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    repository.commit(Dockerfile="FROM scratch\nCOPY . /\n")
    for file in ("../../Dockerfile", str(tmp_path / "Dockerfile")):
        built = build(cluster, "-f", file, f"{server.url}/a.git")
        assert built.returncode == 2
        assert "it leads out of the repository" in built.stderr


def build(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "flags", "said"),
    [
        ("#gone", (), "it has no branch or tag 'gone'"),
        ("#main", (f"--checksum={'1' * 40}",), f"it has no commit {'1' * 40}"),
        ("#main:gone", (), "'gone' is no directory in commit"),
    ],
)
def test_what_a_repository_does_not_have_names_its_line(
    cluster: Cluster,
    server: GitServer,
    repository: Repository,
    context: ContextMaker,
    of: str,
    flags: tuple[str, ...],
    said: str,
) -> None:
    built = cluster.build(context(add(server, *flags, of=of)), check=False)
    assert built.status == 1
    assert "Dockerfile:2: " in built.stderr
    assert f"{server.url}/a.git: {said}" in built.stderr
    assert "   2 | ADD" in built.stderr
    assert [*cluster.root.glob("w*/work/*")] == []


def test_no_disk_log_or_image_has_the_login_of_a_repository(
    tmp_path: Path,
    server: GitServer,
    repository: Repository,
    context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FILESYNC_LOG", "debug")
    server.login = "me:hunter2"
    url = f"http://me:hunter2@{server.host}/a.git"
    root = context(f"FROM scratch\nADD --keep-git-dir {url} /f\n")
    image = ("-o", f"type=oci,dest={tmp_path / 'cluster/app.tar'}", "-t", "app:1")
    cache = ("--cache-to", f"type=local,dest={tmp_path / 'cluster/cache'},mode=max")
    with Cluster(tmp_path / "cluster") as cluster:
        said = cluster.build(root, *image, *cache, "--explain").stderr
        server.login = "me:another"
        failed = cluster.build(root, check=False)
        assert failed.status == 1
        # What a step that fails shows of the Dockerfile is for who wrote it.
        said += "\n".join(line for line in failed.stderr.splitlines() if " | ADD" not in line)
    assert "hunter2" not in said
    files = [path for path in (tmp_path / "cluster").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []


def test_a_fetch_ends_with_the_client_that_wants_it(
    cluster: Cluster, server: GitServer, repository: Repository, context: ContextMaker
) -> None:
    server.hangs = True
    root = context(add(server, of="#" + repository.git("rev-parse", "HEAD")))
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
    with subprocess.Popen([*command, str(root)], stderr=subprocess.DEVNULL) as client:
        assert server.hanging.wait(20)
        assert running(server)
        client.kill()
    _wait(lambda: not running(server))
    _wait(lambda: not [*cluster.root.glob("w*/work/*")])


def test_a_fetch_ends_with_the_worker_that_is_killed(
    tmp_path: Path, server: GitServer, repository: Repository, context: ContextMaker
) -> None:
    server.hangs = True
    root = context(add(server, of="#" + repository.git("rev-parse", "HEAD")))
    with Cluster(tmp_path / "cluster", workers=1) as cluster:
        command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
        with subprocess.Popen([*command, str(root)], stderr=subprocess.DEVNULL) as client:
            assert server.hanging.wait(20)
            assert running(server)
            cluster.kill("w1")
            _wait(lambda: not running(server))
            client.send_signal(signal.SIGKILL)


def test_a_worker_without_git_says_what_to_install(
    tmp_path: Path,
    server: GitServer,
    repository: Repository,
    context: ContextMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", without(tmp_path / "bin", "git"))
    with Cluster(tmp_path / "cluster", workers=1) as cluster:
        built = cluster.build(context(add(server)), check=False)
    assert built.status == 1
    assert "has no git, which ADD of a git repository needs: install it there" in built.stderr


def without(directory: Path, program: str) -> str:
    """Return a PATH with all that is in this process's, but for one program."""
    directory.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for path in Path(place).glob("*"):
            if path.name != program:
                (directory / path.name).unlink(missing_ok=True)
                (directory / path.name).symlink_to(path)
    return str(directory)


def running(server: GitServer) -> list[str]:
    """Return the command lines of what speaks with a server."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"git" in word for word in words[:2]) and server.host.encode() in b" ".join(
            words
        ):
            found.append(f"{path} {words}")
    return found


def _wait(until: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline_s, "it goes on"
        time.sleep(0.05)
