"""Asks git's servers: what refs are, and for commits.

Importing this takes httpx, which is slow: do it where it is needed.
"""

import ssl
from pathlib import Path
from typing import Final

import msgspec

from filesync.transfer.threads import in_thread
from worker.git.address import Address
from worker.git.errors import BadRepository, GitRefMissing
from worker.git.listing import Budget, find_ref
from worker.git.program import Git, GitFailed
from worker.git.trouble import is_no_way, trouble
from worker.registry.config import Host, Registries
from worker.registry.trouble_http import retrying
from worker.wire.urls import GitFound, without_secrets

_HELPER: Final = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n"'
    ' "$FILESYNC_GIT_USER" "$FILESYNC_GIT_PASSWORD"; }; f'
)
_EVERYTHING: Final = ("+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")
_ALL_HISTORY: Final = f"--depth={(1 << 31) - 1}"


class Remote(msgspec.Struct, frozen=True):
    """A repository behind an address, as one git speaks with it."""

    git: Git
    registries: Registries
    address: Address

    @property
    def name(self) -> str:
        """What people see of it."""
        return without_secrets(self.address.url)

    async def resolve(self, ref: str) -> GitFound:
        """Return what a ref is now; the empty one is the repository's HEAD.

        Raises:
            GitRefMissing: nothing.
            RegistryError, BadRepository: it cannot be asked, or understood.
        """
        is_head = ref in ("", "HEAD")
        patterns = ("HEAD",) if is_head else (ref, f"{ref}^{{}}")
        words = ("ls-remote", "--quiet", "--symref", "--", self.address.url, *patterns)
        printed = await self._asked(*words)
        found = find_ref(printed.decode(errors="replace"), ref)
        if found is None and is_head:
            raise GitRefMissing(f"{self.name}: it has no HEAD: nothing was ever pushed to it")
        if found is None:
            raise GitRefMissing(
                f"{self.name}: it has no branch or tag {ref!r}; a commit is named by all 40 digits"
            )
        try:
            return msgspec.convert(msgspec.to_builtins(found), GitFound)
        except msgspec.ValidationError:
            raise BadRepository(f"{self.name}: it answers with something else") from None

    async def fetch(self, commit: str, ref: str, at: Path, budget: Budget) -> int:
        """Have a commit, as little else as its server allows, in the new repository ``at``.

        Returns the bytes that came.

        Args:
            commit: the whole id.
            ref: under which it was found, if that is known.
            at: where the repository is made.
            budget: what may come; what has come is taken of it.

        Raises:
            GitRefMissing: the server does not have it, or not any more.
            RegistryError, BadRepository, StoreError: it cannot be had.
        """
        await self.git.run(*init_words(commit), "--bare", at=at)
        if not await self._try(at, budget, "--depth=1", commit):
            is_here = ref and await self._try(at, budget, "--depth=1", ref)
            if not is_here or not await self._has(at, commit):
                depth = (_ALL_HISTORY,) if (at / "shallow").exists() else ()
                await self._try(at, budget, *depth, *_EVERYTHING)
        if not await self._has(at, commit):
            raise GitRefMissing(
                f"{self.name}: it has no commit {commit} that a branch or a tag leads to"
            )
        size = await in_thread(_size, at / "objects")
        budget.take(size=size)
        return size

    async def _try(self, at: Path, budget: Budget, *what: str) -> bool:
        """Fetch; say whether the server gives commits in this way."""
        options = [word for word in what if word.startswith("--")]
        refs = [word for word in what if not word.startswith("--")]
        fixed = ("--quiet", "--no-tags", "--no-recurse-submodules", "--refmap=")
        words = ("fetch", *fixed, *options, "--", self.address.url, *refs)
        try:
            await self._asked(*words, at=at, max_bytes=budget.bytes)
        except _NoWay:
            return False
        return True

    async def _has(self, at: Path, commit: str) -> bool:
        try:
            kind = await self.git.run("cat-file", "-t", commit, at=at)
        except GitFailed:
            return False
        if kind.strip() != b"commit":
            raise GitRefMissing(f"{self.name}: {commit} is no commit")
        return True

    async def _asked(
        self, *words: str, at: Path | None = None, max_bytes: int = 1 << 30
    ) -> bytes:
        config = await in_thread(self._settings)
        login = self.address.login
        environment = {"GIT_ALLOW_PROTOCOL": self._protocols()}
        if login is not None:
            environment["FILESYNC_GIT_USER"] = login.user
            environment["FILESYNC_GIT_PASSWORD"] = login.password

        async def once() -> bytes:
            try:
                return await self.git.run(
                    *words, at=at, config=config, environment=environment, max_bytes=max_bytes
                )
            except GitFailed as exc:
                if at is not None and is_no_way(exc.said):
                    raise _NoWay from None
                raise trouble(exc.said, self.name) from None

        return await retrying(once)

    def _protocols(self) -> str:
        """Return what may be spoken, also after a redirect: what nobody can change stays so."""
        is_open = self.address.url.startswith("http:")
        return "http:https" if is_open else "https"

    def _settings(self) -> list[str]:
        """Return how to speak with this host: as a download would (``registries``)."""
        origin = self.address.origin
        config = [] if self.address.login is None else [f"credential.{origin}.helper={_HELPER}"]
        host = self.registries.of_named(self.address.host)
        if host.ca:
            config.append(f"http.sslCAInfo={_bundle(host, self.git.home)}")
            config.append(f"http.sslCAPath={ssl.get_default_verify_paths().openssl_capath}")
        if host.keypair:
            config.append(f"http.{origin}/.sslCert={host.keypair[0].cert}")
            config.append(f"http.{origin}/.sslKey={host.keypair[0].key}")
        if host.insecure:
            config.append(f"http.{origin}/.sslVerify=false")
        return config


def init_words(commit: str) -> list[str]:
    """Return the command that makes a repository for commits with such ids."""
    form = ["--object-format=sha256"] if len(commit) == 64 else []
    return ["init", "--quiet", "--template=", *form]


class _NoWay(Exception):
    """A server gives no commits so; see ``is_no_way``."""


def _bundle(host: Host, home: Path) -> Path:
    """Write all certificates that may vouch for a host, beside the system's, to one file."""
    path = home / "ca.pem"
    path.write_bytes(b"\n".join(Path(ca).read_bytes() for ca in host.ca))
    return path


def _size(directory: Path) -> int:
    return sum(one.stat().st_size for one in directory.rglob("*") if one.is_file())
