"""Repositories, and servers of them, that mean no good."""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import worker.git.fetching
import worker.git.listing
import worker.git.program
from filesync.errors import FilesyncError
from tests.gitserver import GitServer, Repository
from tests.integration.registries import make_certificate
from tests.webserver import Page, WebServer
from worker.git import BadRepository, GitMissing
from worker.git.fetching import fetch_commit, resolve_ref
from worker.git.listing import Budget, Listing
from worker.git.program import Git
from worker.registry.config import Host, Registries
from worker.registry.errors import (
    NotInRegistry,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
)
from worker.wire.urls import FromGit, ResolveGit

pytestmark = pytest.mark.needs("git")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path / "served") as running:
        yield running


def fetch(
    server: GitServer, commit: str, work: Path, subdir: str = "", *, url: str = ""
) -> Path:
    work.mkdir()
    order = FromGit(url or f"{server.url}/a.git", commit, subdir)
    return asyncio.run(fetch_commit(Registries(), order, work)).path


def resolve(url: str, work: Path) -> str:
    work.mkdir()
    return asyncio.run(resolve_ref(Registries(), ResolveGit(url), work)).commit


def processes() -> set[str]:
    """Return the command lines of all that runs of git here."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"git" in word for word in words[:2]):
            found.add(f"{path} {b' '.join(words).decode(errors='replace')}")
    return found


# --- what a repository may not have done --------------------------------------------------------


def test_nothing_of_a_repository_or_of_who_runs_the_worker_is_run(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks, filters, fsmonitors, templates: by the user's configuration, or by a directory like a repository's."""
    ran = tmp_path / "ran"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho $0 >>{ran}\n")
    hook.chmod(0o755)
    template = tmp_path / "template/hooks"
    template.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        shutil.copy(hook, template / name)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f"[core]\nfsmonitor={hook}\nhooksPath={template}\nsshCommand={hook}\n"
        f"[init]\ntemplateDir={template.parent}\n[credential]\nhelper={hook}\n"
        f'[filter "x"]\nsmudge={hook}\nprocess={hook}\n[core]\nalternateRefsCommand={hook}\n'
    )
    for name, value in (
        ("HOME", str(home)),
        ("XDG_CONFIG_HOME", str(home)),
        ("GIT_CONFIG_GLOBAL", str(home / ".gitconfig")),
        ("GIT_TEMPLATE_DIR", str(template.parent)),
        ("GIT_EXTERNAL_DIFF", str(hook)),
        ("GIT_ASKPASS", str(hook)),
        ("GIT_SSH_COMMAND", str(hook)),
    ):
        monkeypatch.setenv(name, value)
    files = {".gitattributes": "* filter=x\n", "a": "1", "hooks__post-checkout": "x"}
    commit = server.repository("a").commit(**files)
    ran.unlink(missing_ok=True)
    path = fetch(server, commit, tmp_path / "work")
    assert (path / "a").read_text() == "1"
    server.login = "me:hunter2"
    with pytest.raises(RegistryDenied):
        resolve(f"{server.url}/a.git", tmp_path / "again")
    assert not ran.exists()


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/never",
        "file:///etc",
        "/etc",
        "ssh://host/a.git",
        "git@host:a.git",
        "git://host/a.git",
        "-u./payload",
        "--upload-pack=touch /tmp/never",
        "http://",
        "../../../../../a.git",
        "http://me:a%0apassword=b@host/a.git",
        "https://u:p@x.helper=!id/a.git",
    ],
)
def test_a_submodule_that_is_not_behind_http_is_refused(
    server: GitServer, tmp_path: Path, url: str
) -> None:
    repository = server.repository("a")
    commit = repository.commit(a="1")
    repository.add_submodule("sub", url, commit)
    commit = repository.commit()
    with pytest.raises(BadRepository, match=r"is no address|leads out of its host"):
        fetch(server, commit, tmp_path / "work")
    assert server.packs == 1


def test_a_submodule_does_not_get_the_login_of_another_host(
    server: GitServer, tmp_path: Path
) -> None:
    repository = server.repository("a")
    commit = repository.commit(a="1")
    with GitServer(tmp_path / "other") as other:
        other.login = "me:hunter2"
        repository.add_submodule("sub", f"{other.url}/a.git", commit)
        commit = repository.commit()
        url = f"http://me:hunter2@{server.host}/a.git"
        with pytest.raises(RegistryDenied):
            fetch(server, commit, tmp_path / "work", url=url)
        assert {who for _, _, who in other.asked} == {""}


def test_a_submodule_without_a_url_is_refused(server: GitServer, tmp_path: Path) -> None:
    repository = server.repository("a")
    commit = repository.commit(a="1")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    (repository.path / "sub").mkdir()
    commit = repository.commit()
    with pytest.raises(BadRepository, match=r"its .gitmodules has no URL for 'sub'"):
        fetch(server, commit, tmp_path / "work")


@pytest.mark.parametrize(
    "text",
    [
        "[submodule",
        "\0\xff",
        '[include]\npath=/etc/hostname\n[submodule "a"]\npath=sub\n',
        '[submodule "a"]\nurl\npath\n',
    ],
)
def test_a_gitmodules_that_is_none_is_refused(
    server: GitServer, tmp_path: Path, text: str
) -> None:
    repository = server.repository("a")
    commit = repository.commit(a="1")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    (repository.path / "sub").mkdir()
    commit = repository.commit(**{".gitmodules": text})
    with pytest.raises(BadRepository, match=r"its .gitmodules (cannot be|has no)"):
        fetch(server, commit, tmp_path / "work")


def test_submodules_in_themselves_end(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.git.fetching, "MAX_DEPTH", 3)
    repository = server.repository("a")
    commit = repository.commit(a="1")
    for _ in range(5):
        repository.add_submodule("sub", "../a.git", commit)
        commit = repository.commit()
    with pytest.raises(BadRepository, match="more than 256 submodules, or 3 deep"):
        fetch(server, commit, tmp_path / "work")


WAYS_OUT = (
    "a link and a directory of one name",
    "a directory and a link of one name",
    "a submodule behind a link",
    "a directory .git",
    "a directory ..",
    "a directory .GIT",
)


def way_out(repository: Repository, what: str, outside: Path) -> list[str]:
    """Return the entries of a tree that would lead a careless checkout out of its directory."""
    link = repository.blob(str(outside))
    inner = tree_of(repository, f"100644 blob {repository.blob('written')}\tfile")
    if what.startswith("a directory ."):
        return [f"040000 tree {inner}\t{what.removeprefix('a directory ')}"]
    if what == "a submodule behind a link":
        commit = repository.git("rev-parse", "HEAD")
        inner = tree_of(repository, f"160000 commit {commit}\tsub")
        module = repository.blob('[submodule "x"]\npath = a/sub\nurl = ../b.git\n')
        above = [f"100644 blob {module}\t.gitmodules"]
        return [*above, f"120000 blob {link}\ta", f"040000 tree {inner}\ta"]
    both = [f"120000 blob {link}\ta", f"040000 tree {inner}\ta"]
    return both if what.startswith("a link") else both[::-1]


def tree_of(repository: Repository, entry: str) -> str:
    return repository.git("mktree", "--missing", given=f"{entry}\n")


@pytest.mark.parametrize("what", WAYS_OUT)
def test_nothing_is_written_outside_of_the_tree(
    server: GitServer, tmp_path: Path, what: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    repository = server.repository("a")
    repository.commit(a="1")
    shutil.copytree(repository.path, server.root / "b", dirs_exist_ok=True)
    commit = raw_commit(repository, way_out(repository, what, outside))
    for subdir in ("", "a", "a/sub"):
        work = tmp_path / f"work{len(subdir)}"
        with contextlib.suppress(BadRepository):
            path = fetch(server, commit, work, subdir)
            assert path.resolve() == path
            assert not (path / ".git").exists()
    assert [one.name for one in outside.rglob("*")] == ["sub"]
    there = {one.name for one in tmp_path.iterdir()}
    assert there == {"outside", "served", "work0", "work1", "work5"}


def raw_commit(repository: Repository, entries: list[str]) -> str:
    """Commit a tree of just these entries, in this order, whatever git thinks of it."""
    data = b""
    for entry in entries:
        about, _, name = entry.partition("\t")
        mode, _, identity = about.split(" ")
        data += mode.lstrip("0").encode() + b" " + name.encode() + b"\0"
        data += bytes.fromhex(identity)
    file = repository.path / "raw"
    file.write_bytes(data)
    tree = repository.git("hash-object", "-t", "tree", "--literally", "-w", "raw")
    commit = repository.git("commit-tree", "-m", "message", tree)
    repository.git("update-ref", "refs/heads/main", commit)
    return commit


# --- what is too much ---------------------------------------------------------------------------


def test_a_tree_that_holds_itself_again_and_again_is_given_up_before_it_is_written(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten trees of ten of the next: some kilobytes, and ten thousand million files, or none."""
    monkeypatch.setattr(worker.git.listing, "MAX_FILES", 10_000)
    monkeypatch.setattr(worker.git.fetching, "Budget", partial(Budget, 10_000, 1 << 40))
    repository = server.repository("a")
    repository.commit(a="1")
    for start in (f"100644 blob {repository.blob('x')}\tf\n", ""):
        tree = repository.git("mktree", given=start)
        for _ in range(10):
            lines = "".join(f"040000 tree {tree}\t{n}\n" for n in range(10))
            tree = repository.git("mktree", given=lines)
        commit = repository.git("commit-tree", "-m", "x", tree)
        repository.git("update-ref", "refs/heads/main", commit)
        began_s = time.monotonic()
        work = tmp_path / f"work-{len(start)}"
        with pytest.raises(BadRepository, match="more than 10000 names are not taken"):
            fetch(server, commit, work)
        assert time.monotonic() - began_s < 20
        assert not (work / "tree-1").exists()
    assert not [one for one in processes() if str(tmp_path) in one]


def test_files_of_more_than_may_come_are_not_written(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.git.fetching, "Budget", partial(Budget, 1000, 10 << 20))
    commit = server.repository("a").commit(a="x" * (11 << 20))
    work = tmp_path / "work"
    with pytest.raises(BadRepository, match="bytes are not taken"):
        fetch(server, commit, work)
    assert not (work / "tree-1").exists()


def test_a_pack_of_more_than_may_come_is_cut_off(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.git.fetching, "Budget", partial(Budget, 1000, 1 << 20))
    commit = server.repository("a").commit(a=os.urandom(4 << 20).hex())
    work = tmp_path / "work"
    with pytest.raises(BadRepository, match="bytes are not taken"):
        fetch(server, commit, work)
    assert sum(one.stat().st_size for one in work.rglob("*.pack")) <= 1 << 20


def test_a_path_without_end_is_refused() -> None:
    listing = Listing(Budget(), "")
    listing.take(b"100644 blob 1 1\t" + b"x" * 60_000)
    with pytest.raises(BadRepository, match="a path in it is too long"):
        listing.take(b"x" * 10_000)


# --- servers ------------------------------------------------------------------------------------


def test_a_login_is_in_no_command_line_and_no_error(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    really = asyncio.create_subprocess_exec

    async def noted(*words: str, **rest: object) -> asyncio.subprocess.Process:
        seen.extend(words)
        return await really(*words, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    commit = server.repository("a").commit(a="1")
    server.login = "me:hun ter2"
    url = f"http://me:hun%20ter2@{server.host}/a.git"
    assert resolve(url, tmp_path / "one") == commit
    assert (fetch(server, commit, tmp_path / "two", url=url) / "a").read_text() == "1"
    server.login = "me:another"
    with pytest.raises(RegistryDenied, match="it may not be read") as failed:
        resolve(url, tmp_path / "three")
    assert seen
    assert not [word for word in (*seen, str(failed.value)) if "ter2" in word]


def test_a_redirect_is_followed_without_the_login(server: GitServer, tmp_path: Path) -> None:
    commit = server.repository("a").commit(a="1")
    with GitServer(tmp_path / "first") as first:
        moved = {"Location": f"{server.url}/a.git/info/refs?service=git-upload-pack"}
        first.answers["/x.git/info/refs"] = (302, moved)
        url = f"http://me:hunter2@{first.host}/x.git"
        assert resolve(url, tmp_path / "one") == commit
        assert (fetch(server, commit, tmp_path / "two", url=url) / "a").exists()
    assert {who for _, _, who in server.asked} == {""}
    server.login = "me:hunter2"
    with GitServer(tmp_path / "second") as second:
        second.answers["/x.git/info/refs"] = (302, moved)
        with pytest.raises(RegistryDenied):
            resolve(f"http://me:hunter2@{second.host}/x.git", tmp_path / "three")
    assert {who for _, _, who in server.asked} == {""}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, RegistryDenied),
        (404, NotInRegistry),
        (418, BadRepository),
        (503, RegistryUnavailable),
    ],
)
def test_a_status_that_is_no_success_is_one_sentence(
    server: GitServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    error: type[FilesyncError],
) -> None:
    monkeypatch.setattr("worker.registry.retry.FIRST_WAIT_S", 0.01)
    server.answers["/a.git/info/refs"] = (status, {})
    with pytest.raises(error, match=r"http://127.0.0.1:\d+/a.git: ") as failed:
        resolve(f"http://me:hunter2@{server.host}/a.git", tmp_path / "work")
    assert "hunter2" not in str(failed.value)
    assert len(server.asked) == (6 if status == 503 else 1)


def test_refs_without_end_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.git.program, "MAX_MEMORY_BYTES", 300 << 20)
    with WebServer() as web:
        path = "/a.git/info/refs?service=git-upload-pack"
        web.pages[path] = Page(b"x" * (4 << 20), is_endless=True, length=-1)
        with pytest.raises(BadRepository, match="memory"):
            resolve(f"{web.url}/a.git", tmp_path / "work")
        assert web.sent < 600 << 20


def test_what_is_no_repository_is_refused(server: GitServer, tmp_path: Path) -> None:
    server.answers["/a.git/info/refs"] = (200, {"Content-Type": "text/html"})
    server.answers["/b.git/info/refs"] = (
        200,
        {"Content-Type": "application/x-git-upload-pack-advertisement"},
    )
    for name in ("a", "b"):
        with pytest.raises(FilesyncError, match=f"{name}.git: "):
            resolve(f"{server.url}/{name}.git", tmp_path / name)


def test_a_host_that_is_not_there_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.registry.retry.FIRST_WAIT_S", 0.01)
    with pytest.raises(RegistryUnavailable, match=r"cannot be reached.*3 times in a row"):
        resolve("http://127.0.0.1:1/a.git", tmp_path / "work")


@pytest.mark.needs("openssl")
def test_an_encrypted_address_may_not_lead_to_one_that_is_not(
    server: GitServer, tmp_path: Path
) -> None:
    commit = server.repository("a").commit(a="1")
    make_certificate(tmp_path)

    def resolve(host: str, settings: Host) -> str:
        work = tmp_path / f"work-{len([*tmp_path.iterdir()])}"
        work.mkdir()
        order = ResolveGit(f"https://{host}/a.git")
        return asyncio.run(resolve_ref(Registries({host: settings}), order, work)).commit

    with GitServer(server.root, certificate=tmp_path) as encrypted:
        trusted = Host(ca=(str(tmp_path / "ca.pem"),))
        assert resolve(encrypted.host, trusted) == commit
        assert resolve(encrypted.host, Host(insecure=True)) == commit
        with pytest.raises(RegistryError, match=r"certificate.*configure its `ca`"):
            resolve(encrypted.host, Host())
        refs = "/a.git/info/refs"
        encrypted.answers[refs] = (302, {"Location": f"{server.url}{refs}"})
        with pytest.raises(BadRepository, match=r'"http" (is )?(not supported|disabled)'):
            resolve(encrypted.host, trusted)
    assert server.asked == []


def test_a_fetch_that_nobody_waits_for_leaves_no_process(
    server: GitServer, tmp_path: Path
) -> None:
    commit = server.repository("a").commit(a="1")
    server.hangs = True
    work = tmp_path / "work"
    work.mkdir()

    async def main() -> None:
        order = FromGit(f"{server.url}/a.git", commit)
        task = asyncio.create_task(fetch_commit(Registries(), order, work))
        await asyncio.to_thread(server.hanging.wait)
        assert [one for one in processes() if server.host in one]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not [one for one in processes() if server.host in one]


def test_git_that_is_cancelled_while_it_begins_leaves_no_process(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hangs = True
    server.repository("a").commit(a="1")
    really = asyncio.create_subprocess_exec

    async def slow(*words: str, **rest: object) -> asyncio.subprocess.Process:
        process = await really(*words, **rest)  # type: ignore[arg-type]
        await asyncio.to_thread(server.hanging.wait)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)

    async def main() -> None:
        order = ResolveGit(f"{server.url}/a.git")
        task = asyncio.create_task(resolve_ref(Registries(), order, tmp_path))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert server.hanging.is_set()
    assert not [one for one in processes() if server.host in one]


def test_a_server_that_never_answers_is_given_up(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.git.fetching, "MAX_S", 1.0)
    commit = server.repository("a").commit(a="1")
    server.hangs = True
    with pytest.raises(RegistryUnavailable, match="not done after 1 s"):
        fetch(server, commit, tmp_path / "work")
    assert not [one for one in processes() if server.host in one]


def test_a_worker_without_git_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitMissing, match=r"has no git.*apt-get install git"):
        Git.find(tmp_path)
