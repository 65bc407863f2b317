"""The operations a worker can be told to run, as typed messages.

They mean what BuildKit's LLB ops mean: an op reads the trees of its inputs and gives one tree.
Inputs are numbered; the vertex that carries the op names the result behind each number.

Paths are text, '/'-separated, and relative to the root of the tree they speak of; a leading
'/' changes nothing and '..' never leaves the root.

Rules for changing this file: new fields go last and have defaults; tags are never reused; a
field that changes meaning gets a new name. Every field is part of the op's digest.
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from filesync.digest import Digest, digest_of
from filesync.trees.select import Pick, Selector

MAX_PATH_CHARS: Final = 4096
MAX_NAME_CHARS: Final = 255
MAX_ITEMS: Final = 10_000
MAX_TEXT_CHARS: Final = 8 << 20
"""Bound on one inline file (a heredoc) or one argument."""

PathText = Annotated[str, msgspec.Meta(max_length=MAX_PATH_CHARS)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_ITEMS)]
Pairs = Annotated[tuple[tuple[Text, Text], ...], msgspec.Meta(max_length=MAX_ITEMS)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=MAX_ITEMS)]
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
Url = Annotated[str, msgspec.Meta(pattern=r"^https?://", max_length=MAX_PATH_CHARS)]
FileName = Annotated[
    str, msgspec.Meta(pattern=r"^(?!\.{1,2}\Z)[^/\x00]+\Z", max_length=MAX_NAME_CHARS)
]
"""One component of a path."""
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Commit = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?\Z")]
"""The whole id of a git commit."""
GitRef = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?![-/])(?!.*(\.\.|//|@\{))[^\x00-\x20\x7f~^:?*\[\\]*\Z",
        max_length=MAX_NAME_CHARS,
    ),
]
"""A branch, a tag or another ref, short or not; never an option, a pattern or an expression."""
GitSubdir = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?![-/])(?!(.*/)?\.{0,2}/)(?!(.*/)?\.{1,2}\Z)[^\x00\n]*\Z",
        max_length=MAX_PATH_CHARS,
    ),
]
"""A directory below the root of a commit, clean; empty for the root."""


class _Message(msgspec.Struct, frozen=True, tag_field="op"):
    pass


# --- file actions ---------------------------------------------------------------------------


class Copy(_Message, frozen=True, tag="copy"):
    """Copy what ``source`` names in input ``input`` to ``dest``, as Dockerfile's COPY does.

    Attributes:
        input: number of the input that is read; never 0, which is the tree being changed.
        source: a path or, with ``wildcard``, a Go ``path.Match`` pattern. A directory gives
            its contents. Links in the path itself are followed inside the input's root.
        dest: where to; a trailing '/' means "into this directory".
        owner: ``user[:group]``, names or numbers, looked up in the tree being changed; empty
            keeps the source's owner.
        mode: octal (``0644``) or symbolic (``u=rwX,go=rX``) for all that is copied; empty keeps. An
            octal one is for directories that are made on the way, too.
        exclude: .dockerignore-like patterns, relative to the source; with ``parents`` to the root, or
            to what stands before a '/./' in ``source``.
        wildcard: ``source`` is a pattern; one that matches nothing copies nothing.
        parents: keep the directories of the source path below ``dest``; in a pattern the name
            '**' stands for any number of directories, none too.
        unpack: a tar archive (plain, gzip, bzip2, xz) is unpacked instead of copied.
    """

    input: Index
    source: PathText
    dest: PathText
    owner: PathText = ""
    mode: PathText = ""
    exclude: Texts = ()
    wildcard: bool = False
    parents: bool = False
    unpack: bool = False


class MakeDirectory(_Message, frozen=True, tag="mkdir"):
    """Make ``path`` and its missing parents; one that is there is left as it is."""

    path: PathText
    mode: Mode = 0o755
    owner: PathText = ""


class MakeFile(_Message, frozen=True, tag="mkfile"):
    """Write ``data`` to ``path``, replacing what is there. Missing parents are made 0755."""

    path: PathText
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
    mode: Mode = 0o644
    owner: PathText = ""


Action = Copy | MakeDirectory | MakeFile


# --- exec mounts ----------------------------------------------------------------------------


class Sharing(StrEnum):
    """Who may use a cache directory at the same time."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


class BindMount(_Message, frozen=True, tag="bind"):
    """Show ``source`` of input ``input`` at ``target``.

    Read-only; with ``writable`` the op may write there and its writes are thrown away.
    """

    target: PathText
    input: Index
    source: PathText = "/"
    writable: bool = False


class CacheMount(_Message, frozen=True, tag="cache"):
    """Show the worker's directory ``id`` at ``target``; it outlives the op and is no input."""

    target: PathText
    id: PathText
    sharing: Sharing = Sharing.SHARED
    mode: Mode = 0o755
    uid: int = 0
    gid: int = 0
    read_only: bool = False


class TmpfsMount(_Message, frozen=True, tag="tmpfs"):
    """Show an empty tmpfs at ``target``; ``size_bytes`` 0 is the kernel's default."""

    target: PathText
    size_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class SecretMount(_Message, frozen=True, tag="secret"):
    """Show the build's secret ``id`` as the read-only file ``target``, as a variable, or as both.

    Its data is no part of the op. Without the secret the op fails if it is ``required``, and
    else runs without the file, and with an empty variable.

    Attributes:
        target: empty where there is an ``env`` and no file.
        env: the variable's name, empty where there is none. Of the op's own variables that
            has the same name is not set, and of secrets the last one counts.
    """

    target: PathText
    id: PathText
    mode: Mode = 0o400
    uid: int = 0
    gid: int = 0
    required: bool = False
    env: PathText = ""


class SshMount(_Message, frozen=True, tag="ssh"):
    """Show a socket ``target`` at which the SSH agent ``id`` of the build's user answers.

    Without the agent the op fails if it is ``required``, and else runs without the socket. With
    it ``SSH_AUTH_SOCK`` names the first one's, unless the op sets it.
    """

    target: PathText
    id: PathText
    mode: Mode = 0o600
    uid: int = 0
    gid: int = 0
    required: bool = False


GivenMount = SecretMount | SshMount
"""Shows what the build's client gives, by its id."""
Mount = BindMount | CacheMount | TmpfsMount | GivenMount


class Network(StrEnum):
    """What network an exec sees."""

    HOST = "host"
    NONE = "none"


# --- ops ------------------------------------------------------------------------------------


class LocalOp(_Message, frozen=True, tag="local"):
    """The tree that a client offers under ``name``; no inputs.

    Attributes:
        name: the context's name (``context`` for the main one).
        content: content digest of the tree, so that equal trees are equal ops.
        tree: tree digest, which the sync must reach. Not part of the op's digest.
    """

    name: PathText
    content: Annotated[Digest, msgspec.Meta(min_length=32, max_length=32)]
    tree: Annotated[Digest, msgspec.Meta(min_length=32, max_length=32)]


class ImageOp(_Message, frozen=True, tag="image"):
    """The root filesystem of an image in the OCI layout that input 0 holds, or in a registry.

    Attributes:
        manifest: ``sha256:...`` of the image manifest (not of an index).
        repository: host and path in a registry; there is then no input. Not part of the op's
            digest: an image is the same wherever it comes from.
    """

    manifest: Sha256
    repository: PathText = ""


class HttpOp(_Message, frozen=True, tag="http"):
    """A tree with one file, root's and 0600, that a web server gives; no inputs.

    Attributes:
        url: may have a password in it. Not part of the op's digest: a file is the same wherever
            it comes from, and whatever time its server says that it is from.
        name: of the file.
        checksum: of its content, which must be known before the op has a cache key.
    """

    url: Url
    name: FileName
    checksum: Sha256

    def __repr__(self) -> str:
        return f"HttpOp({self.name!r}, {self.checksum!r})"


class GitOp(_Message, frozen=True, tag="git"):
    """The tree of a commit with its submodules, or of a directory in it; no inputs.

    All in it is root's, and from when the commit says that it is.

    Attributes:
        url: may have a password in it. Not part of the op's digest: a commit is the same
            wherever it comes from.
        commit: must be known before the op has a cache key.
        keep_git_dir: ``.git`` is there too, with that commit alone; not in a ``subdir``.
        ref: under which the commit was found; it is asked for where a server gives none by id.
            Part of the digest only where ``.git`` is kept, which has it.
    """

    url: Url
    commit: Commit
    subdir: GitSubdir = ""
    keep_git_dir: bool = False
    ref: GitRef = ""

    def __repr__(self) -> str:
        return f"GitOp({self.commit!r}, {self.subdir!r})"


class FileOp(_Message, frozen=True, tag="file"):
    """Change the tree of input 0 (or an empty one) by ``actions``, in order.

    Attributes:
        scratch: start from an empty tree; input 0 is then not there, and the numbers of
            ``Copy.input`` start from 0 all the same, so number 0 is the first source.
    """

    actions: Annotated[tuple[Action, ...], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
    scratch: bool = False


class ExecOp(_Message, frozen=True, tag="exec"):
    """Run a command on the tree of input 0; what it leaves there is the result.

    Attributes:
        args: the command, never empty; not passed through a shell.
        env: names and values, in order, no name twice.
        cwd: absolute; made if missing.
        user: ``user[:group]``, names or numbers; empty is root.
        files: (name, text) of scripts shown read-only below ``/dev/pipes`` (heredocs with
            an interpreter line).
        proxy_env: like ``env`` but no part of the op's digest.
        scratch: start from an empty tree; inputs are then numbered from 0 without a root.
    """

    args: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
    env: Pairs = ()
    cwd: PathText = "/"
    user: PathText = ""
    mounts: Annotated[tuple[Mount, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()
    network: Network = Network.HOST
    files: Pairs = ()
    proxy_env: Pairs = ()
    scratch: bool = False
    hostname: PathText = "buildkitsandbox"


Op = LocalOp | ImageOp | HttpOp | GitOp | FileOp | ExecOp


def op_digest(op: Op) -> Digest:
    """Return what identifies ``op`` without its inputs: the BLAKE3 of its encoding.

    What may differ between two runs that must give the same result is left out: a local
    tree's mtimes, where a file comes from, proxy addresses.
    """
    match op:
        case LocalOp():
            op = msgspec.structs.replace(op, tree=op.content, name="")
        case ExecOp():
            op = msgspec.structs.replace(op, proxy_env=())
        case ImageOp():
            op = msgspec.structs.replace(op, repository="")
        case HttpOp():
            op = msgspec.structs.replace(op, url="")
        case GitOp():
            op = msgspec.structs.replace(op, url="", ref=op.ref if op.keep_git_dir else "")
        case FileOp():
            pass
    return digest_of(msgspec.msgpack.encode(op))


def given_to(op: Op, kind: type[GivenMount]) -> frozenset[str]:
    """Return the ids that the mounts of ``kind`` name in ``op``."""
    mounts = op.mounts if isinstance(op, ExecOp) else ()
    return frozenset(mount.id for mount in mounts if isinstance(mount, kind))


def selector_of(op: Op, index: int) -> Selector | None:
    """Return the subpaths that ``op`` reads of input ``index``, or None where it needs all.

    The rules are BuildKit's for content keys: only a copy's source or a bind mount whose
    writes are not kept may be partial, and never the tree that the op changes.
    """
    match op:
        case FileOp():
            return _file_selector(op, index)
        case ExecOp():
            return _exec_selector(op, index)
        case LocalOp() | ImageOp() | HttpOp() | GitOp():
            return None


def _file_selector(op: FileOp, index: int) -> Selector | None:
    if index == 0 and not op.scratch:
        return None
    picks = [
        Pick(a.source, exclude=a.exclude, wildcard=a.wildcard, parents=a.parents)
        for a in op.actions
        if isinstance(a, Copy) and a.input == index
    ]
    return Selector(tuple(picks)) if picks else None


def _exec_selector(op: ExecOp, index: int) -> Selector | None:
    if index == 0 and not op.scratch:
        return None
    picks = [Pick(m.source) for m in op.mounts if isinstance(m, BindMount) and m.input == index]
    return Selector(tuple(picks)) if picks else None
