"""What git prints of a repository that somebody else has made. Pure."""

from typing import Final

import msgspec

from worker.git.errors import BadRepository
from worker.wire.ops import MAX_NAME_CHARS
from worker.wire.urls import GitFound

MAX_FILES: Final = 1_000_000
MAX_BYTES: Final = 64 << 30
MAX_LINE_BYTES: Final = 64 << 10
_PEELED: Final = "^{}"
_SYMBOLIC: Final = "ref: "


def find_ref(printed: str, ref: str) -> GitFound | None:
    """Return what ``ref`` is by the lines of ``git ls-remote --symref``, None if it is nothing.

    A branch comes before a tag of the same name, and an annotated tag is the commit that it is for.
    """
    found: dict[str, str] = {}
    head = ""
    for line in printed.split("\n"):
        value, tab, name = line.partition("\t")
        if name == "HEAD" and value.startswith(_SYMBOLIC):
            head = value.removeprefix(_SYMBOLIC)
        elif tab:
            found.setdefault(name, value)
    if ref in ("", "HEAD"):
        commit = found.get("HEAD")
        return None if commit is None else GitFound(commit, head if is_kept(head) else "")
    whole = ref if ref.startswith("refs/") else f"refs/{ref}"
    for name in (whole, f"refs/heads/{ref}", f"refs/tags/{ref}"):
        commit = found.get(name + _PEELED) or found.get(name)
        if commit is not None:
            return GitFound(commit, name if len(name) <= MAX_NAME_CHARS else "")
    return None


def is_kept(ref: str) -> bool:
    """Say whether a ``.git`` that is kept has ``ref``."""
    return ref.startswith(("refs/heads/", "refs/tags/"))


class Budget(msgspec.Struct):
    """What may still come of a repository and its submodules."""

    files: int = MAX_FILES
    bytes: int = MAX_BYTES

    def take(self, *, files: int = 0, size: int) -> None:
        """Take of it.

        Raises:
            BadRepository: so much is not left.
        """
        self.files -= files
        self.bytes -= size
        if self.files < 0:
            raise BadRepository(f"more than {MAX_FILES} names are not taken")
        if self.bytes < 0:
            raise BadRepository(f"more than {MAX_BYTES} bytes are not taken")


class Listing(msgspec.Struct):
    """The tree of a commit, while ``git ls-tree -r -t -l -z`` prints it.

    Attributes:
        submodules: path and commit of each.
        modules: the id of the file ``.gitmodules``, if there is one.
        has_subdir: whether ``subdir`` is a directory, and not the link to one.
        is_empty: whether there is nothing in it.
    """

    budget: Budget
    subdir: str
    submodules: dict[bytes, str] = msgspec.field(default_factory=dict)
    modules: str = ""
    has_subdir: bool = False
    is_empty: bool = True
    _rest: bytes = b""

    def take(self, block: bytes) -> None:
        """Take what is printed next.

        Raises:
            BadRepository: it is too much.
        """
        *lines, self._rest = (self._rest + block).split(b"\0")
        if len(self._rest) > MAX_LINE_BYTES:
            raise BadRepository("a path in it is too long")
        self.is_empty = self.is_empty and not lines
        for line in lines:
            about, _, path = line.partition(b"\t")
            mode, kind, name, size = about.split()
            self.budget.take(files=1, size=int(size) if size.isdigit() else 0)
            if kind == b"commit":
                self.submodules[path] = name.decode()
            elif kind == b"tree" and path == self.subdir.encode():
                self.has_subdir = True
            elif path == b".gitmodules" and mode in (b"100644", b"100755"):
                self.modules = name.decode()


class Submodule(msgspec.Struct, frozen=True):
    """What ``.gitmodules`` says of one: where it is, and whether nobody wants it."""

    url: str
    is_left_out: bool = False


def parse_modules(printed: bytes) -> dict[bytes, Submodule]:
    """Return the submodules by path, out of what ``git config -z --list`` prints of ``.gitmodules``."""
    sections: dict[bytes, dict[bytes, bytes]] = {}
    for item in printed.split(b"\0"):
        key, _, value = item.partition(b"\n")
        section, _, name = key.rpartition(b".")
        if section.startswith(b"submodule."):
            sections.setdefault(section, {})[name] = value
    return {
        one[b"path"].rstrip(b"/"): Submodule(
            one.get(b"url", b"").decode(errors="replace"), one.get(b"update") == b"none"
        )
        for one in sections.values()
        if b"path" in one
    }
