"""COPY and ADD: files from a context, a stage, a URL, a git repository or the Dockerfile itself."""

import posixpath
import re
from collections.abc import Mapping

import msgspec
from e2b_dockerfile_utils import PatternMatcher, parse_heredoc

from filesync.trees.glob import DEEP
from solver.dockerfile.errors import Invalid
from solver.dockerfile.flags import Flags, parse_flags
from solver.dockerfile.modes import check_mode
from solver.dockerfile.remote import (
    UNNAMED,
    Remote,
    RemoteFile,
    RemoteRepository,
    check_checksum,
    commit_of,
    is_remote,
    parse_remote,
)
from solver.dockerfile.state import State
from solver.dockerfile.syntax import Heredoc, Instruction
from solver.dockerfile.vertices import UNKNOWN_CHECKSUM
from solver.graph import Vertex
from worker.wire.ops import Action, Copy, FileOp, GitOp, HttpOp, MakeFile
from worker.wire.urls import without_secrets


class _Words(msgspec.Struct, frozen=True):
    """The words of one COPY or ADD, variables put in."""

    paths: tuple[str | Remote, ...]
    heredocs: tuple[Heredoc, ...]
    dest: str

    @property
    def local(self) -> bool:
        """Whether a tree is read for any of them."""
        return any(isinstance(path, str) for path in self.paths)

    @property
    def remote(self) -> tuple[Remote, ...]:
        """The URLs."""
        return tuple(path for path in self.paths if not isinstance(path, str))


def apply_copy(state: State, instruction: Instruction) -> None:
    """Apply COPY or ADD: one file op, one action a source.

    Raises:
        Invalid: it cannot be done, or not yet.
    """
    flags = parse_flags(instruction)
    if flags.switch("link"):
        note = "--link is taken as a plain copy: its result is not re-used on another base"
        state.around.warn(instruction.line, f"{instruction.keyword} {note}")
    words = _read_words(state, instruction)
    owner, mode = state.expand(flags.text("chown")), state.expand(flags.text("chmod"))
    if mode:
        check_mode(mode)
    dest = _destination(state, words.dest)
    if len(words.paths) + len(words.heredocs) > 1 and not dest.endswith("/"):
        note = (
            f"several sources go into {words.dest[:200]!r} if it is a directory, else the last"
            f" file is what it becomes; {words.dest[:200] + '/'!r} is always a directory"
        )
        state.around.warn(instruction.line, f"{instruction.keyword}: {note}")
    for path in words.paths:
        if isinstance(path, str) and posixpath.normpath(path.lstrip("/")).startswith("../"):
            inside = posixpath.normpath("/" + path).lstrip("/")
            note = (
                f"{path[:200]!r} leads out of what it is copied from: taken as {inside[:200]!r}"
            )
            state.around.warn(instruction.line, f"{instruction.keyword}: {note}")
    remote = _remote_vertices(state, flags, words)
    sources: list[int] = []
    if words.local:
        origin = flags.text("from")
        sources.append(state.source(origin, asked_by=f"{instruction.keyword} --from="))
    if words.heredocs:
        sources.append(_documents(state, words.heredocs))
    sources += dict.fromkeys(remote.values())
    scratch = state.vertex is None
    first_input = 0 if scratch else 1
    model = Copy(
        input=first_input,
        source="",
        dest=dest,
        owner=owner,
        mode=mode,
        exclude=_excludes(state, flags),
        parents=bool(flags.switch("parents")),
        unpack=_unpacks(flags, instruction.keyword),
    )
    inputs = {vertex: number for number, vertex in enumerate(sources, first_input)}
    numbers = {one: inputs[vertex] for one, vertex in remote.items()}
    actions = _actions(model, words, numbers, flags)
    shown = state.around.words.show(instruction.original, state.variables)
    state.add(
        FileOp(tuple(actions), scratch=scratch),
        tuple(sources),
        instruction=instruction,
        shown=_headed(shown, instruction.keyword),
    )
    state.commit(_created_by(instruction.keyword, model, words), layer=True)


def has_wildcard(path: str) -> bool:
    r"""Whether ``path`` has a '*', '?' or '[' that no '\' escapes."""
    return re.search(r"[*?\[]", re.sub(r"\\.", "", path, flags=re.DOTALL)) is not None


def _headed(shown: str, keyword: str) -> str:
    _, space, rest = shown.partition(" ")
    return without_secrets(f"{keyword}{space}{rest}")


def _unpacks(flags: Flags, keyword: str) -> bool:
    asked = flags.switch("unpack")
    return keyword == "ADD" if asked is None else asked


def _read_words(state: State, instruction: Instruction) -> _Words:
    if len(instruction.args) < 2:
        raise Invalid(f"{instruction.keyword} needs at least one source and a destination")
    *given, last = instruction.args
    bodies = {heredoc.name: heredoc for heredoc in instruction.heredocs}
    paths: list[str | Remote] = []
    heredocs: list[Heredoc] = []
    for word in given:
        body = bodies.get(_heredoc_name(word)) if bodies else None
        if body is not None:
            heredocs.append(body)
        else:
            paths.append(_read_path(state.expand(word), instruction.keyword))
    if bodies and _heredoc_name(last) in bodies:
        raise Invalid(f"{instruction.keyword}: a heredoc cannot be the destination", last)
    return _Words(tuple(paths), tuple(heredocs), state.expand(last))


def _heredoc_name(word: str) -> str:
    try:
        heredoc = parse_heredoc(word)
    except ValueError:
        return ""
    return heredoc.name if heredoc else ""


def _read_path(path: str, keyword: str) -> str | Remote:
    if not path:
        raise Invalid(f"{keyword}: a source cannot be empty")
    if is_remote(path):
        return parse_remote(path, keyword)
    if has_wildcard(path):
        check_pattern(path)
    return path


def _remote_vertices(state: State, flags: Flags, words: _Words) -> dict[Remote, int]:
    """Return the vertices of the URLs."""
    if "checksum" in flags.values and (
        len(words.remote) != 1 or len(words.paths) + len(words.heredocs) != 1
    ):
        raise Invalid("ADD --checksum is for one URL, and nothing beside it", "--checksum")
    if "keep-git-dir" in flags.values and not any(
        isinstance(one, RemoteRepository) for one in words.remote
    ):
        raise Invalid("ADD --keep-git-dir is for git repositories", "--keep-git-dir")
    checksum = state.expand(flags.text("checksum"))
    is_given = "checksum" in flags.values
    found: dict[Remote, int] = {}
    for one in words.remote:
        if isinstance(one, RemoteFile):
            if one.name == UNNAMED and _destination(state, words.dest).endswith("/"):
                raise Invalid(
                    f"ADD {one.shown[:200]}: this URL has no name for a file; say one in the"
                    f" destination, like {words.dest[:80].rstrip('/')}/NAME",
                    words.dest,
                )
            if is_given:
                check_checksum(checksum)
            op: HttpOp | GitOp = HttpOp(one.url, one.name, checksum or UNKNOWN_CHECKSUM)
        else:
            op = _git_op(one, flags, checksum if is_given else None)
        found[one] = state.around.vertices.remote(op, constraints=state.constraints)
    return found


def _git_op(one: RemoteRepository, flags: Flags, checksum: str | None) -> GitOp:
    keep_git_dir = bool(flags.switch("keep-git-dir")) and not one.subdir
    return GitOp(one.url, commit_of(one, checksum), one.subdir, keep_git_dir, one.ref)


def check_pattern(pattern: str) -> None:
    """Raise Invalid unless ``pattern`` is one of Go's."""
    try:
        PatternMatcher(["/" + pattern])
    except ValueError as error:
        reason = str(error).rpartition(": ")[2]
        raise Invalid(f"{pattern[:200]!r}: {reason}", pattern) from error


def _excludes(state: State, flags: Flags) -> tuple[str, ...]:
    patterns = state.expand_all(flags.texts("exclude"))
    for pattern in patterns:
        check_pattern(pattern.removeprefix("!"))
    return patterns


def _destination(state: State, dest: str) -> str:
    """Return the absolute destination; what can only be a directory ends in '/'."""
    is_directory = dest.rpartition("/")[2] in ("", ".", "..")
    path = state.absolute(dest)
    return path if not is_directory or path == "/" else path + "/"


def _actions(
    model: Copy, words: _Words, numbers: Mapping[Remote, int], flags: Flags
) -> list[Action]:
    """Return what is done, in order; ``numbers`` are the inputs that hold what is behind URLs."""
    actions: list[Action] = []
    for path in words.paths:
        match path:
            case str():
                actions.append(_copy(model, path))
            case RemoteFile():
                actions.append(_copy_file(model, path, numbers[path], flags))
            case RemoteRepository():
                whole = {"input": numbers[path], "source": "/", "unpack": False}
                actions.append(msgspec.structs.replace(model, **whole))
    document = model.input + int(words.local)
    return actions + [_copy_document(model, heredoc, document) for heredoc in words.heredocs]


def _copy_file(model: Copy, file: RemoteFile, number: int, flags: Flags) -> Copy:
    """Return the copy of a file from a URL, which is unpacked only where that is asked for."""
    return Copy(
        number,
        f"/{file.name}",
        model.dest,
        owner=model.owner,
        mode=model.mode,
        unpack=bool(flags.switch("unpack")),
    )


def _copy(model: Copy, path: str) -> Copy:
    source = _source(path, keep_pivot=model.parents)
    if model.parents:
        _check_deep(source)
    return Copy(
        input=model.input,
        source=source,
        dest=model.dest,
        owner=model.owner,
        mode=model.mode,
        exclude=model.exclude,
        wildcard=has_wildcard(source),
        parents=model.parents,
        unpack=model.unpack,
    )


def _check_deep(source: str) -> None:
    above, pivot, _ = source.partition("/./")
    names = source.split("/")
    if (pivot and DEEP in above) or any(DEEP in name and name != DEEP for name in names):
        raise Invalid(
            f"COPY --parents: '**' in {source[:200]!r} has to be the whole name of a directory, and"
            " behind the pivot '/./'",
            DEEP,
        )


def _source(path: str, *, keep_pivot: bool) -> str:
    """Return a source as an absolute path; a pivot, which only ``--parents`` has, stays."""
    above, pivot, below = path.partition("/./")
    if not pivot or not keep_pivot:
        return posixpath.normpath("/" + path.lstrip("/"))
    head = posixpath.normpath("/" + above.lstrip("/")).rstrip("/")
    return head + pivot + posixpath.normpath("/" + below.lstrip("/")).lstrip("/")


def _documents(state: State, heredocs: tuple[Heredoc, ...]) -> int:
    """Return the vertex of a tree that holds just ``heredocs``.

    They are then copied as any file is, so that the destination means the same for both: it may
    be a directory or a link to one, and its missing parents have the owner.
    """
    files: list[Action] = []
    for heredoc in heredocs:
        text = heredoc.content
        if heredoc.expand:
            text = state.around.words.expand_text(text, state.variables)
        files.append(MakeFile(_document_path(heredoc), text.encode()))
    vertex = Vertex(
        FileOp(tuple(files), scratch=True),
        inputs=(),
        name="[internal] prepare inline document",
        stage=state.stage.label,
        constraints=state.constraints,
    )
    return state.around.vertices.add(vertex)


def _document_path(heredoc: Heredoc) -> str:
    if heredoc.name.rpartition("/")[2] in ("", ".", ".."):
        raise Invalid(f"{heredoc.name!r} cannot name a file", heredoc.name)
    return posixpath.normpath("/" + heredoc.name.lstrip("/"))


def _copy_document(model: Copy, heredoc: Heredoc, number: int) -> Copy:
    source = _document_path(heredoc)
    return Copy(number, source, model.dest, owner=model.owner, mode=model.mode)


def _created_by(keyword: str, model: Copy, words: _Words) -> str:
    parts = [keyword]
    parts += ["--parents"] if model.parents else []
    parts += [f"--chown={model.owner}"] if model.owner else []
    parts += [f"--chmod={model.mode}"] if model.mode else []
    parts += [path if isinstance(path, str) else path.shown for path in words.paths]
    parts += [*(f"<<{heredoc.name}" for heredoc in words.heredocs), words.dest]
    return " ".join(parts) + " # buildkit"
