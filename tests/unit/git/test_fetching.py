"""Commits of real repositories, behind git's own server on loopback."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gitserver import COMMITTED_S, GitServer, git
from worker.git import BadRepository, GitRefMissing
from worker.git.fetching import Fetched, fetch_commit, resolve_ref
from worker.registry.config import Registries
from worker.wire.urls import FromGit, GitFound, ResolveGit

pytestmark = pytest.mark.needs("git")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as running:
        yield running


class Fetcher:
    """Fetches, each time into a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0

    def work(self) -> Path:
        self.count += 1
        path = self.root / f"work-{self.count}"
        path.mkdir(parents=True)
        return path

    def fetch(self, url: str, commit: str, subdir: str = "", **fields: object) -> Fetched:
        order = FromGit(url, commit, subdir, **fields)  # type: ignore[arg-type]
        return asyncio.run(fetch_commit(Registries(), order, self.work()))

    def resolve(self, url: str, ref: str = "") -> GitFound:
        return asyncio.run(resolve_ref(Registries(), ResolveGit(url, ref), self.work()))


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "fetched")


def tree_of(path: Path) -> dict[str, object]:
    """Return all that is in a directory: text, the target of a link, or None for a directory."""
    found: dict[str, object] = {}
    for one in sorted(path.rglob("*")):
        name = str(one.relative_to(path))
        if one.is_symlink():
            found[name] = one.readlink()
        else:
            found[name] = None if one.is_dir() else one.read_text()
    return found


def test_a_commit_is_its_files_and_no_more(server: GitServer, fetcher: Fetcher) -> None:
    repository = server.repository("a")
    (repository.path / "link").symlink_to("dir/b")
    commit = repository.commit(a="1", dir__b="2", odd__c="3")
    (repository.path / "a").chmod(0o755)
    later = repository.commit(a="2")
    fetched = fetcher.fetch(f"{server.url}/a.git", commit)
    assert tree_of(fetched.path) == {
        "a": "1",
        "dir": None,
        "dir/b": "2",
        "link": Path("dir/b"),
        "odd": None,
        "odd/c": "3",
    }
    assert (fetched.time_s, fetched.bytes_moved > 0) == (COMMITTED_S, True)
    again = fetcher.fetch(f"{server.url}/a.git", later).path
    assert (again / "a").stat().st_mode & 0o7777 == 0o755
    assert [path.stat().st_mode & 0o7777 for path in (again, again / "dir")] == [0o755, 0o755]


@pytest.mark.parametrize(
    "name", [b"\xff", b"a\nb", b"-x", b"a\\b", b'"', b"*", b"\xc3\xa9", b" "]
)
def test_a_name_is_any_bytes(server: GitServer, fetcher: Fetcher, name: bytes) -> None:
    repository = server.repository("a")
    directory = os.path.join(os.fsencode(repository.path), name)
    os.mkdir(directory)
    os.symlink(name, os.path.join(directory, name))
    commit = repository.commit()
    path = os.fsencode(fetcher.fetch(f"{server.url}/a.git", commit).path)
    assert os.listdir(path) == [name]
    assert os.readlink(os.path.join(path, name, name)) == name


# --- what a ref is ----------------------------------------------------------------------------


def test_a_ref_is_what_docker_takes_it_for(server: GitServer, fetcher: Fetcher) -> None:
    repository = server.repository("a")
    first = repository.commit(a="1")
    repository.git("tag", "light")
    repository.git("tag", "-a", "-m", "x", "heavy")
    repository.git("tag", "-a", "-m", "x", "both")
    second = repository.commit(a="2")
    repository.git("branch", "both")
    repository.git("branch", "dir/both", first)
    repository.git("update-ref", "refs/pull/1/head", first)
    url = f"{server.url}/a.git"
    assert fetcher.resolve(url) == GitFound(second, "refs/heads/main")
    assert fetcher.resolve(url, "HEAD") == GitFound(second, "refs/heads/main")
    assert fetcher.resolve(url, "main") == GitFound(second, "refs/heads/main")
    assert fetcher.resolve(url, "light") == GitFound(first, "refs/tags/light")
    assert fetcher.resolve(url, "heavy") == GitFound(first, "refs/tags/heavy")
    assert fetcher.resolve(url, "refs/tags/heavy") == GitFound(first, "refs/tags/heavy")
    assert fetcher.resolve(url, "both") == GitFound(second, "refs/heads/both")
    assert fetcher.resolve(url, "pull/1/head") == GitFound(first, "refs/pull/1/head")
    assert server.packs == 0, "refs only"
    repository.git("checkout", "-q", "--detach", first)
    assert fetcher.resolve(url) == GitFound(first)


@pytest.mark.parametrize("ref", ["nothing", "head", "v1", "0123456"])
def test_a_ref_that_is_not_there_is_one_sentence(
    server: GitServer, fetcher: Fetcher, ref: str
) -> None:
    server.repository("a").commit(a="1")
    with pytest.raises(GitRefMissing, match=f"it has no branch or tag '{ref}'"):
        fetcher.resolve(f"{server.url}/a.git", ref)


def test_an_empty_repository_has_no_head(server: GitServer, fetcher: Fetcher) -> None:
    server.repository("a")
    with pytest.raises(GitRefMissing, match="nothing was ever pushed to it"):
        fetcher.resolve(f"{server.url}/a.git")


# --- what is fetched --------------------------------------------------------------------------


def test_one_commit_comes_and_not_those_before_it(server: GitServer, fetcher: Fetcher) -> None:
    repository = server.repository("a")
    repository.commit(a=os.urandom(500_000).hex())
    (repository.path / "a").unlink()
    commit = repository.commit(b="1")
    assert fetcher.fetch(f"{server.url}/a.git", commit).bytes_moved < 10_000


@pytest.mark.parametrize("ref", ["refs/heads/main", "main", "refs/tags/v1", "", "gone"])
def test_a_server_that_gives_no_commit_by_its_id_is_asked_for_refs(
    server: GitServer, fetcher: Fetcher, ref: str
) -> None:
    server.is_old = True
    repository = server.repository("a")
    earlier = repository.commit(a="1")
    commit = repository.commit(a="2")
    repository.git("tag", "-a", "-m", "x", "v1")
    url = f"{server.url}/a.git"
    for wanted, text in ((commit, "2"), (earlier, "1")):
        assert tree_of(fetcher.fetch(url, wanted, ref=ref).path) == {"a": text}


def test_a_server_of_files_alone_is_good_enough(server: GitServer, fetcher: Fetcher) -> None:
    repository = server.repository("a")
    commit = repository.commit(a="1")
    repository.git("update-server-info")
    server.serves_files = True
    url = f"{server.url}/a.git"
    assert fetcher.resolve(url).commit == commit
    assert tree_of(fetcher.fetch(url, commit).path) == {"a": "1"}


def test_a_commit_that_is_not_there_is_one_sentence(
    server: GitServer, fetcher: Fetcher
) -> None:
    repository = server.repository("a")
    repository.commit(a="1")
    url = f"{server.url}/a.git"
    with pytest.raises(GitRefMissing, match=f"a.git: it has no commit {'1' * 40}"):
        fetcher.fetch(url, "1" * 40)
    blob = repository.git("rev-parse", "HEAD:a")
    with pytest.raises(GitRefMissing, match=f"{blob} is no commit"):
        fetcher.fetch(url, blob)


def test_a_repository_of_the_longer_ids_is_fetched_too(
    server: GitServer, fetcher: Fetcher
) -> None:
    repository = server.repository("a")
    git(repository.path, "init", "-q", "--bare", "--object-format=sha256", "../b/.git")
    work = repository.path.parent / "b"
    (work / "a").write_text("1")
    git(work, "config", "core.bare", "false")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "x")
    commit = git(work, "rev-parse", "HEAD")
    assert len(commit) == 64
    url = f"{server.url}/b.git"
    assert fetcher.resolve(url).commit == commit
    assert tree_of(fetcher.fetch(url, commit, keep_git_dir=True).path / "a") == {}


def test_an_empty_commit_is_an_empty_tree(server: GitServer, fetcher: Fetcher) -> None:
    commit = server.repository("a").commit()
    assert tree_of(fetcher.fetch(f"{server.url}/a.git", commit).path) == {}


@pytest.mark.parametrize("time", ["0", "4102444800", "99999999999", "9223372036854775807"])
def test_a_time_is_the_commits_or_none(server: GitServer, fetcher: Fetcher, time: str) -> None:
    repository = server.repository("a")
    repository.commit(a="1")
    tree = repository.git("rev-parse", "HEAD^{tree}")
    text = f"tree {tree}\nauthor a <a> {time} +0000\ncommitter a <a> {time} +0000\n\nx\n"
    words = ("hash-object", "-t", "commit", "-w", "--literally", "--stdin")
    commit = repository.git(*words, given=text)
    repository.git("update-ref", "refs/heads/main", commit)
    fetched = fetcher.fetch(f"{server.url}/a.git", commit)
    assert fetched.time_s == (int(time) if int(time) < 1 << 33 else 0)


def test_a_ref_in_the_old_protocol_is_what_it_is_in_the_new_one(
    server: GitServer, fetcher: Fetcher
) -> None:
    repository = server.repository("a")
    commit = repository.commit(a="1")
    repository.git("tag", "-a", "-m", "x", "v1")
    server.is_old = True
    url = f"{server.url}/a.git"
    assert fetcher.resolve(url) == GitFound(commit, "refs/heads/main")
    assert fetcher.resolve(url, "v1") == GitFound(commit, "refs/tags/v1")


def test_a_large_file_comes_whole(server: GitServer, fetcher: Fetcher) -> None:
    size = 80 << 20
    commit = server.repository("a").commit(a="x" * size)
    fetched = fetcher.fetch(f"{server.url}/a.git", commit, keep_git_dir=True)
    assert (fetched.path / "a").stat().st_size == size
    assert fetched.bytes_moved < size


# --- a directory of it ------------------------------------------------------------------------


def test_a_subdir_is_its_files_with_the_attributes_from_above(
    server: GitServer, fetcher: Fetcher
) -> None:
    files = {".gitattributes": "*.txt text eol=crlf\n", "a__b__c.txt": "1\n", "a__d": "2"}
    commit = server.repository("a").commit(**files)
    url = f"{server.url}/a.git"
    path = fetcher.fetch(url, commit, "a/b").path
    assert {one.name: one.read_bytes() for one in path.iterdir()} == {"c.txt": b"1\r\n"}
    assert tree_of(fetcher.fetch(url, commit, "a", keep_git_dir=True).path).keys() == {
        "b",
        "b/c.txt",
        "d",
    }


@pytest.mark.parametrize(
    "subdir", ["gone", "a/gone", "file", "link", "link/b", "*", ":/a", ".git"]
)
def test_a_subdir_that_is_no_directory_is_refused(
    server: GitServer, fetcher: Fetcher, subdir: str
) -> None:
    repository = server.repository("a")
    (repository.path / "link").symlink_to("a")
    commit = repository.commit(a__b__c="1", file="2")
    with pytest.raises(BadRepository, match="is no directory in commit"):
        fetcher.fetch(f"{server.url}/a.git", commit, subdir)


# --- submodules -------------------------------------------------------------------------------


def nested(server: GitServer, url: Callable[[str], str]) -> str:
    """Make ``top`` with ``middle`` in it, and ``inner`` in that; return the commit of ``top``."""
    names = ("inner", "middle", "top")
    commit = ""
    for below, name in zip(("", *names), names, strict=False):
        repository = server.repository(name)
        if below:
            repository.add_submodule(f"sub/{below}", url(below), commit)
        commit = repository.commit(**{name: name})
    return commit


@pytest.mark.parametrize("form", ["{url}/{name}.git", "../{name}.git", "./../{name}.git/"])
def test_submodules_come_all_the_way_down(
    server: GitServer, fetcher: Fetcher, form: str
) -> None:
    commit = nested(server, lambda name: form.format(url=server.url, name=name))
    server.login = "me:hunter2"
    url = f"http://me:hunter2@{server.host}/top.git"
    found = tree_of(fetcher.fetch(url, commit).path)
    assert found["sub/middle/middle"] == "middle"
    assert found["sub/middle/sub/inner/inner"] == "inner"
    assert not [name for name in found if name.endswith(".git")]
    within = tree_of(fetcher.fetch(url, commit, "sub/middle/sub").path)
    assert within == {"inner": None, "inner/inner": "inner"}


def test_a_submodule_outside_of_the_subdir_is_not_asked_for(
    server: GitServer, fetcher: Fetcher
) -> None:
    repository = server.repository("a")
    repository.add_submodule("gone", f"{server.url}/gone.git", "1" * 40)
    commit = repository.commit(dir__a="1")
    assert tree_of(fetcher.fetch(f"{server.url}/a.git", commit, "dir").path) == {"a": "1"}


def test_a_submodule_that_nobody_wants_is_an_empty_directory(
    server: GitServer, fetcher: Fetcher
) -> None:
    repository = server.repository("a")
    repository.add_submodule("sub", "https://nowhere.invalid/a.git", "1" * 40)
    repository.git("config", "-f", ".gitmodules", "submodule.sub.update", "none")
    commit = repository.commit(a="1")
    found = tree_of(fetcher.fetch(f"{server.url}/a.git", commit).path)
    assert found.keys() == {".gitmodules", "a", "sub"}


# --- .git -------------------------------------------------------------------------------------


def bytes_of(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()
    }


def test_a_git_dir_that_is_kept_is_the_same_each_time_and_says_nothing_of_its_origin(
    server: GitServer, fetcher: Fetcher
) -> None:
    repository = server.repository("a")
    repository.commit(**{f"dir__{n}": f"{n}\n" * n for n in range(200)})
    repository.git("tag", "-a", "-m", "x", "v1")
    commit = repository.commit(a="1")
    repository.git("tag", "v2")
    server.login = "me:hunter2"
    url = f"http://me:hunter2@{server.host}/a.git"
    fields = {"keep_git_dir": True, "ref": "refs/tags/v2"}
    path = fetcher.fetch(url, commit, **fields).path  # type: ignore[arg-type]
    first = bytes_of(path)
    repository.git("repack", "-q", "-a", "-d", "-f", "--depth=1", "--window=1")
    server.is_old = True
    assert bytes_of(fetcher.fetch(url, commit, **fields).path) == first  # type: ignore[arg-type]
    assert not [name for name, data in first.items() if server.host.encode() in data]
    assert not [name for name in first if "hooks" in name or "logs" in name]
    assert git(path, "rev-parse", "HEAD") == commit
    assert git(path, "status", "--porcelain") == ""
    assert git(path, "describe", "--tags") == "v2"
    assert git(path, "log", "--format=%H") == commit
    git(path, "fsck", "--strict")
