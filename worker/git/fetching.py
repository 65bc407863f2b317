"""Makes the tree of a commit out of a repository behind a URL.

Importing this takes httpx, which is slow: do it where it is needed.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from filesync.disk.handles import DirectoryHandles
from filesync.errors import StoreError
from filesync.transfer.threads import in_thread
from worker.git.address import Address
from worker.git.errors import BadRepository
from worker.git.listing import (
    Budget,
    Listing,
    Submodule,
    is_kept,
    parse_modules,
)
from worker.git.program import Git, GitFailed
from worker.git.remote import Remote, init_words
from worker.git.trouble import local_trouble
from worker.registry.config import Registries
from worker.registry.errors import RegistryUnavailable
from worker.urls.download import kept_time_s
from worker.wire.urls import FromGit, GitFound, ResolveGit, without_secrets

MAX_S: Final = 3600.0
"""For all that one order asks servers for."""
MAX_REPOSITORIES: Final = 256
MAX_DEPTH: Final = 16
_MAX_MODULES_BYTES: Final = 1 << 20


class Fetched(msgspec.Struct, frozen=True):
    """A commit that has come.

    Attributes:
        path: the directory that has its files.
        time_s: when the commit says that it was made; 1970 where that cannot be kept.
        bytes_moved: what came for it.
    """

    path: Path
    time_s: int
    bytes_moved: int


async def resolve_ref(registries: Registries, order: ResolveGit, home: Path) -> GitFound:
    """Return which commit a ref is now. ``home`` is an empty directory.

    Raises:
        GitMissing: there is no git here.
        GitRefMissing: the repository has no such ref.
        RegistryError, BadRepository: it cannot be asked.
    """
    git = Git.find(home)
    async with _in_time(order.url):
        return await Remote(git, registries, Address.parse(order.url)).resolve(order.ref)


async def fetch_commit(registries: Registries, order: FromGit, work: Path) -> Fetched:
    """Make the tree that an order is about somewhere in ``work``, an empty directory.

    Raises:
        GitMissing: there is no git here.
        GitRefMissing: the repository has no such commit.
        RegistryError, BadRepository: it cannot be had, or cannot be a tree.
        StoreError: this disk cannot take it.
    """
    async with _in_time(order.url):
        await in_thread((work / "home").mkdir)
        fetching = _Fetching(registries, Git.find(work / "home"), work, Budget())
        with _naming(order.url):
            return await fetching.whole(order)


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Have what is wrong with a repository say with which, and what git cannot do be wrong with it."""
    name = without_secrets(url)
    try:
        yield
    except GitFailed as exc:
        raise local_trouble(exc.said, name) from None
    except BadRepository as exc:
        if str(exc).startswith(name):
            raise
        raise BadRepository(f"{name}: {exc}") from exc


@asynccontextmanager
async def _in_time(url: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(MAX_S):
            yield
    except TimeoutError:
        raise RegistryUnavailable(
            f"{without_secrets(url)}: not done after {MAX_S:.0f} s; try again later"
        ) from None


class _Fetching(msgspec.Struct):
    """One commit, with its submodules, on its way."""

    registries: Registries
    git: Git
    work: Path
    _budget: Budget
    _count: int = 0
    _bytes_moved: int = 0

    async def whole(self, order: FromGit) -> Fetched:
        address = Address.parse(order.url)
        path = await self._made(address, order.commit, order.subdir, ref=order.ref)
        at = self._repository(1)
        if order.keep_git_dir and not order.subdir:
            await self._keep_git_dir(at, order, path / ".git")
        words = ("rev-list", "--no-walk", "--timestamp", order.commit)
        time, *_ = (await self.git.run(*words, at=at)).split()
        seconds = int(time) if time.isdigit() and len(time) < 19 else 0
        return Fetched(path, kept_time_s(seconds), self._bytes_moved)

    def _repository(self, number: int) -> Path:
        return self.work / f"{number}.git"

    async def _made(
        self, address: Address, commit: str, subdir: str, *, ref: str = "", depth: int = 0
    ) -> Path:
        """Return the directory that has the files of a commit, or of a directory in it."""
        self._count += 1
        number = self._count
        if number > MAX_REPOSITORIES or depth > MAX_DEPTH:
            raise BadRepository(f"more than {MAX_REPOSITORIES} submodules, or {MAX_DEPTH} deep")
        at, tree = self._repository(number), self.work / f"tree-{number}"
        remote = Remote(self.git, self.registries, address)
        self._bytes_moved += await remote.fetch(commit, ref, at, self._budget)
        listing = Listing(self._budget, subdir)
        words = ("ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit)
        await self.git.run(*words, at=at, take=listing.take)
        inner = _Inner(address, listing.submodules, await self._modules(at, listing), depth + 1)
        if subdir and not listing.has_subdir:
            return await self._within_submodule(inner, subdir, commit)
        await self._check_out(at, commit, tree, subdir, is_empty=listing.is_empty)
        for path in inner.below(subdir):
            await in_thread(_put, await self._submodule(inner, path, ""), tree, path)
        await in_thread(_check_directory, tree, subdir)
        return tree / subdir

    async def _submodule(self, inner: "_Inner", path: bytes, subdir: str) -> Path:
        commit = inner.commits[path]
        return await self._made(inner.address(path), commit, subdir, depth=inner.depth)

    async def _within_submodule(self, inner: "_Inner", subdir: str, commit: str) -> Path:
        for path in inner.commits:
            name = f"{os.fsdecode(path)}/"
            if f"{subdir}/".startswith(name):
                return await self._submodule(inner, path, subdir[len(name) :])
        raise BadRepository(f"{subdir!r} is no directory in commit {commit}")

    async def _modules(self, at: Path, listing: Listing) -> dict[bytes, Submodule]:
        if not listing.submodules or not listing.modules:
            return {}
        words = ("config", "--no-includes", "-z", "--blob", listing.modules, "--list")
        try:
            printed = await self.git.run(*words, at=at)
        except GitFailed:
            raise BadRepository("its .gitmodules cannot be understood") from None
        if len(printed) > _MAX_MODULES_BYTES:
            raise BadRepository("its .gitmodules is too long")
        return parse_modules(printed)

    async def _check_out(
        self, at: Path, commit: str, tree: Path, subdir: str, *, is_empty: bool
    ) -> None:
        """Write the files of a commit, or of a directory in it, to the new directory ``tree``."""
        await in_thread(_make_directory, tree)
        if is_empty:
            return
        # All of the commit is in the index, so that attributes from above the directory count.
        await self.git.run("read-tree", commit, at=at, tree=tree)
        words = ("checkout", "--force", "--quiet", "--", subdir or ".")
        await self.git.run(*words, at=at, tree=tree)

    async def _keep_git_dir(self, at: Path, order: FromGit, git_dir: Path) -> None:
        """Make a repository with one commit, the same wherever and whenever it is made.

        What servers send is not the same each time, so it is packed anew, and what an index
        knows of files is left out. It does not say where it is from: a commit is the same from anywhere.
        """
        tree = git_dir.parent
        config = ("init.defaultBranch=master",)
        await self.git.run(*init_words(order.commit), at=git_dir, tree=tree, config=config)
        words = ("rev-list", "--no-walk", "--objects", "--no-object-names", order.commit)
        listed = await self.git.run(*words, at=at)
        pack = str(git_dir / "objects/pack/pack")
        new = ("--quiet", "--no-reuse-delta", "--no-reuse-object")
        await self.git.run("pack-objects", *new, pack, at=at, given=listed)
        await in_thread((git_dir / "shallow").write_text, f"{order.commit}\n")
        if is_kept(order.ref):
            await self.git.run("update-ref", order.ref, order.commit, at=git_dir, tree=tree)
        await in_thread((git_dir / "HEAD").write_text, f"{order.commit}\n")
        await self.git.run("read-tree", order.commit, at=git_dir, tree=tree)


class _Inner(msgspec.Struct, frozen=True):
    """The submodules of a repository: their commits by path, and what ``.gitmodules`` says of each."""

    outer: Address
    commits: Mapping[bytes, str]
    modules: Mapping[bytes, Submodule]
    depth: int

    def address(self, path: bytes) -> Address:
        module = self.modules.get(path)
        if module is None or not module.url:
            raise BadRepository(f"its .gitmodules has no URL for {os.fsdecode(path)!r}")
        return self.outer.of_submodule(module.url)

    def below(self, subdir: str) -> list[bytes]:
        """Return those that come: below ``subdir``, and not left out by who made them."""
        prefix = os.fsencode(f"{subdir}/") if subdir else b""
        left_out = {path for path, one in self.modules.items() if one.is_left_out}
        return [
            path for path in self.commits if path.startswith(prefix) and path not in left_out
        ]


def _make_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


def _check_directory(tree: Path, subdir: str) -> None:
    """Raise BadRepository unless ``subdir`` is a directory, and no link leads there."""
    with DirectoryHandles(tree) as handles:
        try:
            handles.open(os.fsencode(subdir))
        except (OSError, StoreError) as exc:
            raise BadRepository(f"{subdir!r} is no directory in it") from exc


def _put(made: Path, tree: Path, path: bytes) -> None:
    """Move the directory ``made`` to where git has left an empty one for it; follow no links.

    Raises:
        BadRepository: there is none, or no way there.
    """
    above, _, name = path.rpartition(b"/")
    with DirectoryHandles(tree) as handles:
        try:
            os.rename(made, name, dst_dir_fd=handles.open(above))
        except (OSError, StoreError) as exc:
            raise BadRepository(f"no submodule can be at {os.fsdecode(path)!r}") from exc
