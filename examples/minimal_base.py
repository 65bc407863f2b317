"""Make a minimal root filesystem out of this host's own files, as an OCI image layout.

    python3 examples/minimal_base.py --output base
    python3 examples/minimal_base.py --output toolchain --compiler --with bash --with make

Nothing is downloaded and no privilege is needed. Same host, same options: same digests.
Only the standard library is used, so that any Python from 3.11 on can run it.
"""

import argparse
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


IMAGE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEM_PATH: Final = "/usr/bin:/bin:/usr/sbin:/sbin"
"""Where the host's own programs are; what users built is looked for after it."""
MTIME_S: Final = 1_704_067_200
"""2024-01-01. Not 0: tar warns of an implausibly old time stamp."""
CREATED: Final = "2024-01-01T00:00:00Z"
MAX_LINKS: Final = 40

REQUIRED: Final = _words("""
    sh awk basename cat chmod cp cut date dirname echo env false find grep gzip head id ln ls
    mkdir mktemp mv od printf pwd readlink rm rmdir sed seq sha256sum sleep sort split stat
    tail tar tee test touch tr true uname uniq wc xargs
""")
OPTIONAL: Final = _words("""
    [ arch b2sum base32 base64 cksum cmp comm csplit dd df diff dir du egrep expand expr factor
    fgrep fmt fold groups gunzip hostid install join link logname md5sum mkfifo mknod nice nl
    nohup nproc numfmt paste pathchk pr printenv ptx realpath runcon sha1sum sha224sum
    sha384sum sha512sum shred shuf stdbuf stty sum sync tac timeout truncate tsort tty
    unexpand unlink users vdir which who whoami yes zcat
""")
COMPILER_PROGRAMS: Final = _words("""
    cc1 collect2 lto-wrapper as ld ar nm objcopy objdump ranlib strip
""")
HEADERS: Final = _words("""
    aio alloca arpa/inet assert complex cpio ctype dirent dlfcn elf endian err errno error
    execinfo fcntl features fenv float fnmatch ftw getopt glob grp iconv ifaddrs inttypes
    iso646 langinfo libgen libintl limits link locale malloc math memory mntent monetary
    mqueue net/if netdb netinet/in netinet/ip netinet/tcp netinet/udp nl_types paths poll
    pthread pty pwd regex sched search semaphore setjmp shadow signal spawn stdalign stdarg
    stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings sys/auxv
    sys/epoll sys/eventfd sys/file sys/inotify sys/ioctl sys/ipc sys/mman sys/mount sys/msg
    sys/param sys/prctl sys/ptrace sys/random sys/resource sys/select sys/sem sys/sendfile
    sys/shm sys/signalfd sys/socket sys/stat sys/statfs sys/statvfs sys/syscall
    sys/sysinfo sys/sysmacros sys/time sys/timerfd sys/times sys/types sys/uio sys/un
    sys/utsname sys/vfs sys/wait sys/xattr sysexits syslog tar termios tgmath threads time
    uchar ucontext unistd utime utmp wait wchar wctype wordexp
""")
LINKED: Final = _words("""
    crt1.o Scrt1.o rcrt1.o gcrt1.o crti.o crtn.o libc.so libc.a libc_nonshared.a libm.so libm.a
    libpthread.so libpthread.a libdl.so libdl.a librt.so librt.a libutil.a libresolv.so
    libatomic.so libatomic.so.1 libgcc_s.so libgcc_s.so.1 liblto_plugin.so
""")
ARCHITECTURES: Final = {
    3: "386",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}
"""ELF's e_machine, as OCI names it."""


class BaseError(Exception):
    """The base cannot be made; the text says why and what to do."""


# --- the tree -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostFile:
    """A regular file whose bytes are the host's."""

    mode: int


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A regular file of ours."""

    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory."""

    mode: int = 0o755


Entry = HostFile | MadeFile | Link | Directory


@dataclass(slots=True)
class Tree:
    """What the image holds: absolute, link-free path of the parent plus name -> entry."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def add(self, path: str) -> str:
        """Add the host's ``path``, each link and directory on the way; return its real path.

        Raises:
            BaseError: it is not there, or neither file nor directory.
        """
        todo = path.split("/")[::-1]
        at: list[str] = []
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del at[-1:]
                continue
            here = "/" + "/".join([*at, name])
            entry = self.entries.setdefault(here, _entry_of(here))
            if isinstance(entry, Link):
                links += 1
                if links > MAX_LINKS:
                    raise BaseError(f"{path}: too many links on the way")
                at = [] if entry.target.startswith("/") else at
                todo.extend(entry.target.split("/")[::-1])
            else:
                at.append(name)
        return "/" + "/".join(at)

    def add_link_if_host_has(self, path: str) -> None:
        """Add ``/bin`` and its like: the host's link (merged /usr), else a directory."""
        self.add(path) if os.path.islink(path) else self.entries.setdefault(path, Directory())


def _entry_of(path: str) -> Entry:
    try:
        if os.path.islink(path):
            return Link(os.readlink(path))
        if os.path.isdir(path):
            return Directory()
        mode = os.stat(path).st_mode
    except OSError as error:
        raise BaseError(f"cannot read {path}: {error.strerror}") from error
    if not os.path.isfile(path):
        raise BaseError(f"{path} is neither a file nor a directory")
    # No set-id bits: nothing in a build base needs them, and this file may be anyone's copy.
    return HostFile(0o755 if mode & 0o111 else 0o644)


# --- programs and what they link ------------------------------------------------------------


def find_program(name: str) -> str | None:
    """Return where a program is: a path as given, a name by the system's PATH, then the user's."""
    if "/" in name:
        return os.path.abspath(name) if os.access(name, os.X_OK) else None
    return shutil.which(name, path=SYSTEM_PATH) or shutil.which(name)


def add_program(tree: Tree, path: str) -> None:
    """Add a program with its loader and libraries, or a script with its interpreter."""
    known = set(tree.entries)
    real = tree.add(path)
    if real in known:
        return
    head = _head(real)
    if head.startswith(b"\x7fELF"):
        for library in libraries_of(real):
            tree.add(library)
    elif head.startswith(b"#!"):
        words = head[2:].split(b"\n")[0].decode(errors="surrogateescape").split()
        add_program(tree, words[0])
        if len(words) > 1 and os.path.basename(words[0]) == "env":
            add_named(tree, words[-1])


def add_named(tree: Tree, name: str) -> None:
    """Add the program called ``name``.

    Raises:
        BaseError: the host does not have it.
    """
    path = find_program(name)
    if path is None:
        raise BaseError(
            f"this host has no program {name!r}: install the package that holds it, or give "
            "its path with --with /path/to/program"
        )
    add_program(tree, path)


def libraries_of(path: str) -> list[str]:
    """Return the shared libraries and the loader that ``path`` needs; none if it is static.

    The host's ldd may run the program's loader: only for programs that the host trusts.

    Raises:
        BaseError: no ldd, or a library is missing on this host.
    """
    ldd = find_program("ldd")
    if ldd is None:
        raise BaseError("this host has no ldd: install it (Debian: apt-get install libc-bin)")
    env = {"PATH": SYSTEM_PATH, "LC_ALL": "C"}
    done = subprocess.run([ldd, path], env=env, capture_output=True, text=True, check=False)
    found: list[str] = []
    for line in done.stdout.splitlines():
        if "not found" in line:
            raise BaseError(f"{path} needs a library that this host lacks: {line.strip()}")
        if match := re.match(r"\s*(?:\S+ => )?(/.+?) \(0x[0-9a-f]+\)$", line):
            found.append(match[1])
    return found


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError as error:
        raise BaseError(
            f"cannot read {path}: {error.strerror}; run as a user who can"
        ) from error


def architecture() -> str:
    """Return OCI's name of what this host's shell is compiled for."""
    head = _head(os.path.realpath(find_program("sh") or "/bin/sh"))
    order = "big" if head[5:6] == b"\x02" else "little"
    machine = int.from_bytes(head[18:20], cast("Any", order))
    if machine not in ARCHITECTURES:
        raise BaseError(f"this host's ELF machine {machine} has no OCI architecture we know")
    return ARCHITECTURES[machine]


# --- a C tool chain -------------------------------------------------------------------------


def add_compiler(tree: Tree) -> None:
    """Add GCC for C: driver, cc1, assembler, linker, start files, C library and its headers.

    Raises:
        BaseError: no GCC here, or no C library headers.
    """
    gcc = find_program("gcc") or find_program("cc")
    install = "install GCC and the C library's headers (Debian: apt-get install gcc libc6-dev)"
    if gcc is None:
        raise BaseError(f"--compiler: this host has neither gcc nor cc: {install}")
    if not os.path.isabs(_ask(gcc, "-print-prog-name=cc1")):
        raise BaseError(f"--compiler: {gcc} is not GCC or has no C compiler: {install}")
    add_compiler_programs(tree, gcc)
    add_compiler_files(tree, gcc)
    for header in headers_of(gcc, hint=install):
        tree.add(header)


def add_compiler_programs(tree: Tree, gcc: str) -> None:
    """Add the driver under both its names, and the programs that it starts."""
    asked = [_ask(gcc, f"-print-prog-name={name}") for name in COMPILER_PROGRAMS]
    for name in ("gcc", "cc", *asked):
        if path := find_program(name):
            add_program(tree, path)


def add_compiler_files(tree: Tree, gcc: str) -> None:
    """Add start files and libraries to link, and GCC's own headers."""
    files = [_ask(gcc, f"-print-file-name={name}") for name in LINKED]
    own = Path(os.path.realpath(_ask(gcc, "-print-libgcc-file-name"))).parent
    for pattern in ("crt*.o", "libgcc*", "include/**/*.h", "include-fixed/**/*.h"):
        files.extend(str(file) for file in sorted(own.glob(pattern)))
    for file in files:
        if os.path.isabs(file):
            add_linked(tree, file)


def add_linked(tree: Tree, path: str) -> None:
    """Add a file that the linker reads and, if it is a linker script, the files it names."""
    if (real := tree.add(path)).endswith((".so", ".a")) and _head(real).startswith(
        b"/* GNU ld"
    ):
        for name in re.findall(rb"/[^\s()*]+\.(?:so|a)[.\d]*(?=\s)", _head(real)):
            tree.add(os.fsdecode(name))
    if _head(real).startswith(b"\x7fELF") and ".so" in real:
        for library in libraries_of(real):
            tree.add(library)


def headers_of(gcc: str, *, hint: str) -> list[str]:
    """Return the C library's headers: what GCC itself reads for the standard ones.

    /usr/include as a whole would bring every -dev package of the host. ``bits`` directories
    come whole, since which of their files is read depends on the flags.

    Raises:
        BaseError: not even stdio.h is here.
    """
    lines = [f"#if __has_include(<{h}.h>)\n#include <{h}.h>\n#endif" for h in HEADERS]
    source = "#include <stdio.h>\n" + "\n".join(lines) + "\n"
    found: set[str] = set()
    for flags in ([], ["-O2", "-D_FORTIFY_SOURCE=2"], ["-D_GNU_SOURCE"], ["-std=c11"]):
        done = subprocess.run(
            [gcc, "-M", "-w", *flags, "-x", "c", "-"],
            input=source,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BaseError(f"--compiler: {done.stderr.strip().splitlines()[0]}: {hint}")
        found.update(word for word in done.stdout.split() if word.startswith("/"))
    bits = {os.path.dirname(path) for path in found if "/bits/" in path}
    found.update(str(file) for place in bits for file in Path(place).glob("*.h"))
    return sorted(found)


def _ask(gcc: str, question: str) -> str:
    done = subprocess.run([gcc, question], capture_output=True, text=True, check=False)
    return done.stdout.strip()


# --- putting it together --------------------------------------------------------------------


def plan_tree(programs: list[str], *, compiler: bool) -> tuple[Tree, list[str]]:
    """Return what the base holds, and the optional programs that this host lacks."""
    tree = Tree()
    for path in ("/bin", "/sbin", "/lib", "/usr/sbin"):
        tree.add_link_if_host_has(path)
    for path in ("/lib64", "/lib32", "/libx32"):
        if os.path.islink(path):
            tree.add_link_if_host_has(path)
    for name in (*REQUIRED, *programs):
        add_named(tree, name)
    missing = [name for name in OPTIONAL if find_program(name) is None]
    for name in OPTIONAL:
        if name not in missing:
            add_named(tree, name)
    add_name_service(tree)
    if compiler:
        add_compiler(tree)
    add_loader_cache(tree)
    for path, entry in SKELETON.items():
        tree.entries.setdefault(path, entry)
    return tree, missing


def add_name_service(tree: Tree) -> None:
    """Add what glibc loads by name to look users up; newer ones have it built in."""
    for path in list(tree.entries):
        beside = os.path.join(os.path.dirname(path), "libnss_files.so.2")
        if os.path.basename(path) == "libc.so.6" and os.path.exists(beside):
            tree.add(beside)


def add_loader_cache(tree: Tree) -> None:
    """Add glibc's cache if a library lies where the loader finds it by the cache alone."""
    names = [path for path in tree.entries if re.search(r"\.so(\.|$)", path)]
    places = {os.path.dirname(path) for path in names}
    system = {os.path.dirname(path) for path in names if path.endswith("/libc.so.6")}
    system |= {os.path.realpath(path) for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")}
    strange = {place for place in places if os.path.realpath(place) not in system}
    if any("/gcc/" not in place for place in strange) and os.path.exists("/etc/ld.so.cache"):
        tree.add("/etc/ld.so.cache")


SKELETON: Final[dict[str, Entry]] = {
    **{
        f"/{path}": Directory()
        for path in _words("""
            dev etc home mnt opt proc run srv sys usr usr/bin usr/lib usr/local usr/local/bin
            usr/sbin usr/share var var/cache var/lib var/log
        """)
    },
    "/root": Directory(0o700),
    "/tmp": Directory(0o1777),
    "/var/tmp": Directory(0o1777),
    "/etc/passwd": MadeFile(
        b"root:x:0:0:root:/root:/bin/sh\n"
        b"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        b"nobody:x:65534:65534:nobody:/:/bin/false\n"
    ),
    "/etc/group": MadeFile(b"root:x:0:\ndaemon:x:1:\nusers:x:100:\nnogroup:x:65534:\n"),
    "/etc/nsswitch.conf": MadeFile(b"passwd: files\ngroup: files\nhosts: files dns\n"),
}


# --- the image layout -----------------------------------------------------------------------


class HashingWriter(io.RawIOBase):
    """Passes bytes on and keeps their SHA-256 and count. Closing it leaves ``out`` open."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__()
        self._out = out
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401  any buffer, as RawIOBase has it
        self._out.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)
        return len(data)


def write_layer(tree: Tree, out: IO[bytes]) -> tuple[dict[str, object], str]:
    """Write the gzip'ed tar of ``tree``; return its descriptor and diffID."""
    packed = HashingWriter(out)
    with gzip.GzipFile("", "wb", 6, cast("IO[bytes]", packed), mtime=0) as zipped:
        plain = HashingWriter(cast("IO[bytes]", zipped))
        with tarfile.open(mode="w|", fileobj=plain, format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(tree.entries):
                write_entry(tar, path, tree.entries[path])
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    return _descriptor(media_type, packed.digest, packed.size_bytes), plain.digest


def write_entry(tar: tarfile.TarFile, path: str, entry: Entry) -> None:
    """Append one entry, owned by root, at the fixed time."""
    info = tarfile.TarInfo(path.lstrip("/"))
    info.mtime = MTIME_S
    match entry:
        case Directory():
            info.type, info.mode = tarfile.DIRTYPE, entry.mode
            tar.addfile(info)
        case Link():
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, entry.target
            tar.addfile(info)
        case MadeFile():
            info.mode, info.size = entry.mode, len(entry.data)
            tar.addfile(info, io.BytesIO(entry.data))
        case HostFile():
            info.mode = entry.mode
            try:
                with open(path, "rb") as file:
                    info.size = os.fstat(file.fileno()).st_size
                    tar.addfile(info, file)
            except OSError as error:
                raise BaseError(
                    f"cannot copy {path}: {error}; run as a user who can"
                ) from error


def write_layout(tree: Tree, output: Path, *, ref: str) -> str:
    """Make ``output`` an OCI layout of one image; return the manifest's digest.

    Blobs first, then index.json by rename: whoever reads sees the old image or the new one.
    """
    with _locked(output):
        blobs = output / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        with _replacing(blobs / "layer") as file:
            layer, diff_id = write_layer(tree, file)
        (blobs / "layer").rename(blobs / _hex(layer))
        config = _write_json(
            blobs, "application/vnd.oci.image.config.v1+json", image_config(diff_id)
        )
        media_type = "application/vnd.oci.image.manifest.v1+json"
        manifest = _write_json(
            blobs,
            media_type,
            {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]},
        )
        named = manifest | {
            "annotations": {"org.opencontainers.image.ref.name": ref},
            "platform": {"architecture": architecture(), "os": "linux"},
        }
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [named],
        }
        _write(output / "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _write(output / "index.json", _json(index))
        _remove_others(blobs, keep={_hex(layer), _hex(config), _hex(manifest)})
        return str(manifest["digest"])


def image_config(diff_id: str) -> dict[str, object]:
    """Return the image's configuration."""
    return {
        "created": CREATED,
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": [f"PATH={IMAGE_PATH}"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": CREATED, "created_by": "minimal_base.py"}],
    }


def _descriptor(media_type: str, digest: str, size_bytes: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size_bytes}


def _hex(descriptor: dict[str, object]) -> str:
    return str(descriptor["digest"]).removeprefix("sha256:")


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _write_json(blobs: Path, media_type: str, value: object) -> dict[str, object]:
    data = _json(value)
    digest = hashlib.sha256(data).hexdigest()
    _write(blobs / digest, data)
    return _descriptor(media_type, f"sha256:{digest}", len(data))


def _write(path: Path, data: bytes) -> None:
    with _replacing(path) as file:
        file.write(data)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file that takes ``path``'s place if the block ends well, else is removed."""
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            os.fchmod(file.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Make ``output`` if need be and hold it against other runs of this tool."""
    output.mkdir(parents=True, exist_ok=True)
    ours = {"oci-layout", "index.json", "blobs"}
    strange = sorted(
        p.name for p in output.iterdir() if p.name not in ours and p.name[0] != "."
    )
    if strange:
        raise BaseError(
            f"{output} holds {strange[0]!r}, which is no part of an OCI layout: give --output a "
            "new or empty directory"
        )
    handle = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_others(blobs: Path, *, keep: set[str]) -> None:
    for path in blobs.iterdir():
        if path.name not in keep:
            path.unlink()


# --- command line ---------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--ref", default="latest", help="name of the image in the layout")
    parser.add_argument(
        "--with",
        dest="programs",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="add this program, a name or a path (repeatable)",
    )
    parser.add_argument("--compiler", action="store_true", help="add the host's GCC for C")
    options = parser.parse_args(arguments)
    try:
        tree, missing = plan_tree(options.programs, compiler=options.compiler)
        digest = write_layout(tree, options.output, ref=options.ref)
    except BaseError as error:
        print(f"minimal_base: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"minimal_base: cannot write {options.output}: {error.strerror}", file=sys.stderr)
        return 1
    if missing:
        print(f"left out, not on this host: {' '.join(missing)}", file=sys.stderr)
    print(f"{options.output}:{options.ref} {digest} ({len(tree.entries)} entries)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
