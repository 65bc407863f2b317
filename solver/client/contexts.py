"""The trees that a user brings: scanned here, sent only where a step reads them."""

import os
from collections.abc import Container, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

import msgspec

from filesync.command.home import own_caches
from filesync.disk.scanning.scan import scan
from filesync.disk.scanning.statcache import StatCache
from filesync.disk.scanning.statcaches import open_cache
from filesync.errors import PathMissing, TooManyLinks, UsageError
from filesync.manifest import Manifest, MemoryNodes
from filesync.manifest.owner import owned_by
from filesync.trees.glob import compile_name
from filesync.trees.select import Selector, select
from solver.dockerfile import MAIN_CONTEXT, Ignore, ignore_matcher
from solver.dockerfile.suggestion import did_you_mean


class Context(msgspec.Struct, frozen=True):
    """A directory as the build sees it.

    Attributes:
        manifest: what the build reads of it, owned by root.
        root: where it is.
    """

    manifest: Manifest
    root: Path


def cache_home() -> Path:
    """Return the directory for what may be lost without harm.

    Raises:
        UsageError: there is no such place.
    """
    if (caches := own_caches()) is None:
        raise UsageError("this user has no home directory; set XDG_CACHE_HOME, or HOME")
    return caches


class NotInContext(UsageError):
    """A step reads a path that a context does not have.

    Attributes:
        context: its name; path: as the step says it.
    """

    code = "not-in-context"

    def __init__(self, context: str, path: str, sentence: str) -> None:
        super().__init__(context, path, sentence)
        self.context = context
        self.path = path
        self._sentence = sentence

    def __str__(self) -> str:
        return self._sentence


def scan_contexts(
    roots: Mapping[str, Path],
    selectors: Mapping[str, Selector],
    dockerfile: Path | None,
    *,
    layouts: Container[str] = (),
) -> dict[str, Context]:
    """Scan each context that a selector reads, and keep what it reads.

    A context leaves out what its own .dockerignore says, but those called as ``layouts`` says,
    which are images, do not. For the main one the file beside ``dockerfile`` wins.

    Raises:
        NotInContext: a selector names a path that is not there, or leads in a circle.
        StoreError: a directory is not there or not readable.
    """
    found: dict[str, Context] = {}
    for name, selector in selectors.items():
        root, beside = roots[name], dockerfile if name == MAIN_CONTEXT else None
        ignore = None if name in layouts else read_ignore(root, beside)
        try:
            found[name] = _scan(root, selector, ignore)
        except PathMissing as exc:
            sentence = _missing(root, exc.path, ignore)
            raise NotInContext(name, exc.path, sentence) from exc
        except TooManyLinks as exc:
            raise NotInContext(name, exc.path, f"{exc}, in the context {root}") from exc
    return found


def _missing(root: Path, path: str, ignore: Ignore | None) -> str:
    """Return for people that a context does not have ``path``, and why, as far as that is seen."""
    names = path.strip("/")
    missing = f"{path!r} is not in the context {root}"
    if not os.path.lexists(root / names):
        return f"{missing}{_meant(root, names)}"
    if ignore is None:
        return missing
    if ignore.excludes(names):
        return f"{path!r} is in {root}, but its .dockerignore leaves it out"
    return f"{missing}; .dockerignore may leave it out"


def _meant(root: Path, names: str) -> str:
    """Return `` (did you mean X?)`` for the first name on the way that is not there, or nothing."""
    way = root
    for name in names.split("/"):
        if not os.path.lexists(way / name):
            break
        way /= name
    with suppress(OSError):  # a file, or nobody may see what is in it
        return did_you_mean(name, os.listdir(way))
    return ""


def _scan(root: Path, selector: Selector, ignore: Ignore | None) -> Context:
    nodes = MemoryNodes()
    read = _names_read(root, selector)
    with open_context_cache(root) or nullcontext() as cache:
        scanned = scan(
            root,
            nodes,
            cache=cache,
            excludes=ignore,
            leave_out=None if read is None else lambda path, _: path.split(b"/")[0] not in read,
        )
    whole = Manifest(scanned.tree, nodes)
    subset = select(whole, selector, nodes)
    return Context(owned_by(subset, nodes, 0, 0), root)


def _names_read(root: Path, selector: Selector) -> frozenset[bytes] | None:
    """Return the names in ``root`` that ``selector`` reads or leads through; None if it may be any.

    What no step reads need not be scanned, however large it is, and may be unreadable. A link on
    the way can lead anywhere, and so can what a pattern below the root matches.
    """
    names: set[str] = set()
    for pick in selector.picks:
        path = Path(pick.path.strip("/"))
        if not path.parts or ".." in path.parts or (pick.wildcard and len(path.parts) > 1):
            return None
        try:
            ways = {*_matches(root, path.name)} if pick.wildcard else {path, *path.parents[:-1]}
            if any((root / way).is_symlink() for way in ways):
                return None
        except OSError:
            return None  # the scan knows how to say it
        names.update(way.parts[0] for way in ways)
    return frozenset(map(os.fsencode, names))


def _matches(root: Path, pattern: str) -> list[Path]:
    is_match = compile_name(pattern)
    return [Path(name) for name in os.listdir(root) if is_match(name)]


def read_ignore(root: Path, dockerfile: Path | None) -> Ignore | None:
    """Return what a context leaves out; the file beside ``dockerfile``, if it is given, wins.

    Raises:
        UsageError: a pattern in it is not valid.
    """
    paths = [root / ".dockerignore"]
    if dockerfile is not None:
        paths.insert(0, dockerfile.with_name(dockerfile.name + ".dockerignore"))
    for path in paths:
        if path.is_file():
            try:
                return ignore_matcher(path.read_text(), filename=str(path))
            except (OSError, ValueError) as exc:
                raise UsageError(f"{path}: {exc}") from exc
    return None


def open_context_cache(root: Path) -> StatCache | None:
    """Return what is known of the files of a directory from build to build; close it."""
    return open_cache(cache_home() / "contexts", os.fsencode(root))
