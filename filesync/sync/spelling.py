"""rsync's options as its users type them: what is always so here, and what is not there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, Final, TypeVar

import click

from filesync.command.instead import InsteadCommand
from filesync.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

ARCHIVE: Final[Mapping[str, tuple[str, ...]]] = {
    "recursive": ("-r", "--recursive"),
    "links": ("-l", "--links"),
    "perms": ("-p", "--perms"),
    "times": ("-t", "--times"),
    "group": ("-g", "--group"),
    "owner": ("-o", "--owner"),
    "devices": ("-D", "--devices", "--specials"),
}
"""What ``-a`` stands for."""
ALWAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "archive": ("-a", "--archive"),
    "hard_links": ("-H", "--hard-links"),
    "acls": ("-A", "--acls"),
    "xattrs": ("-X", "--xattrs"),
    "sparse": ("-S", "--sparse"),
    "executability": ("-E", "--executability"),
    "fuzzy": ("-y", "--fuzzy"),
    "partial": ("--partial",),
    "numeric_ids": ("--numeric-ids",),
    "secluded_args": ("-s", "--secluded-args", "--protect-args"),
    "human_readable": ("-h", "--human-readable"),
}
COMPRESS: Final = ("auto", "none", "zstd")
SAME: Final[Mapping[str, str]] = {
    "--info=progress": "--progress",
    "--info=progress2": "--progress",
    "--info=name": "--verbose",
    "--info=name1": "--verbose",
    "--info=stats": "--stats",
    "--info=stats2": "--stats",
}
"""Words that stand for one of our own."""

ALWAYS_SO: Final = """
Always so, and taken as rsync spells it (-aHAXS, -rlptgoD, --numeric-ids, --partial, -y, -h):
directories with all in them; links as links, hard links among the files of one SRC, devices,
FIFOs; modes, owners and groups by number, times, ACLs, xattrs, holes; what has come of a large
file over a connection is gone on with (a copy on one machine begins that file again); what is
renamed is found; numbers are for people. Short options may be grouped: -avnP. Sockets are no
part of a tree: they do not come, and --delete leaves those in DST alone. Files of one SRC that
are linked to those of another arrive each for itself.
"""
_KEEPS: Final = "all metadata is kept as it is in SRC, as far as this user may"
_WHOLE: Final = "a file is written aside and takes its name when it is whole and proved"
_DELTA: Final = "what DST has of a file does not travel; on one machine files are copied whole"
_FILTER: Final = "write --exclude, --include, --exclude-from or --include-from"
_FOLLOW: Final = "links are copied as links; 'SRC/', with a slash, is what a link SRC leads to"
_NO_BASES: Final = (
    "there are no backups or bases besides DST; copy that first, with cp -a --reflink=auto"
)
_SIZES: Final = "files are chosen by name only, with --exclude and --include"
_COMPARES: Final = (
    "whatever differs in size, mtime, ctime or inode since it was last read is read "
    "again, and compared by digest; -c reads all"
)
_OWN_PROTOCOL: Final = (
    "no rsync daemon is used; write host:path, or run `filesync serve` there and write "
    "tcp://host:port/path"
)
_CODEC: Final = "write --compress auto, none or zstd"
_LISTS: Final = (
    "`filesync manifest show SRC` lists a directory of this machine, and -nv one of another, "
    "where DST is a name that is not there"
)
_SAYS: Final = "-v lists names, -i what changes of them, --stats figures, --json all of it"
_WHEN: Final = "with --delete, names go before anything comes, and their space is free after it"
_OF: Final[Mapping[str, str]] = {
    "-U --atimes -N --crtimes": "times of access and of creation are not kept",
    "--open-noatime": "times of access are not cared for",
    "-O --omit-dir-times -J --omit-link-times --chmod": _KEEPS,
    "--usermap --groupmap": "write --chown USER:GROUP for all names at once; none is mapped by itself",
    "--super --fake-super --copy-as": _KEEPS,
    "-d --dirs --old-dirs --old-d": "directories come with all in them, but for what --exclude names",
    "-L --copy-links --copy-unsafe-links --safe-links --munge-links -k --copy-dirlinks": _FOLLOW,
    "-K --keep-dirlinks": "a directory of SRC replaces a link in DST; write 'DST/LINK/' as DST",
    "-R --relative --no-implied-dirs": (
        "SRC comes to stand in DST under its last name only, but for what --files-from lists; for a/b write "
        "--include=/a/ --include='/a/b/***' --exclude='*' ./ DST"
    ),
    "-b --backup --backup-dir --suffix --compare-dest --copy-dest --link-dest": _NO_BASES,
    "--inplace --append --append-verify --write-devices --copy-devices": _WHOLE,
    "--partial-dir --delay-updates -T --temp-dir --preallocate": _WHOLE,
    "--fsync": "nothing waits for the disk; run sync(1) afterwards",
    "-W --whole-file --no-whole-file --no-W -B --block-size": _DELTA,
    "-I --ignore-times --size-only -@ --modify-window --checksum-choice --cc": _COMPARES,
    "--rsync-path": "write --filesync-path; no rsync runs there",
    "-M --remote-option --port --address --sockopts": _OWN_PROTOCOL,
    "--blocking-io --password-file --protocol --daemon --config --server": _OWN_PROTOCOL,
    "-4 --ipv4 -6 --ipv6": "write the address: tcp://192.0.2.7:7701/ or tcp://[2001:db8::7]:7701/",
    "--timeout --contimeout": "a server that is silent for long is given up without being told",
    "--remove-source-files": "SRC is only read",
    "--delete-before --delete-after --delete-delay": f"{_WHEN}; write --delete",
    "--delete-missing-args --ignore-missing-args": "each SRC has to be there",
    "--ignore-errors": "with --delete, nothing goes when not all of SRC can be read",
    "--force": "a directory with anything in it makes way for a file only with --delete",
    "--max-delete": "there is no such bound; -n --delete lists what would go",
    "--max-size --min-size": _SIZES,
    "-m --prune-empty-dirs": (
        "directories come whether there is anything in them or not; "
        "`find DST -type d -empty -delete` afterwards removes them"
    ),
    "--mkpath": "DST is made, but none above it; make that first",
    "--no-compress --no-z --compress-choice --zc --compress-level --zl --compress-threads --zt": _CODEC,
    "--skip-compress": f"what does not get smaller travels as it is; {_CODEC}",
    "-C --cvs-exclude": _FILTER,
    "-f --filter -F": (
        f"{_FILTER}; no file in SRC has rules, but `git ls-files -coz --exclude-standard | filesync sync -0 "
        "--files-from=- ./ DST` leaves out what git ignores"
    ),
    "--info --debug --out-format --log-format --log-file --log-file-format --outbuf": _SAYS,
    "-8 --8-bit-output --stderr --iconv": "names are bytes, and are shown escaped as rsync does",
    "--list-only": _LISTS,
    "--write-batch --only-write-batch --read-batch": (
        "there are no batches; `filesync manifest` writes down what a tree holds"
    ),
    "-V --version": "write `filesync --version`",
}
INSTEAD: Final[Mapping[str, str]] = {
    word: what for words, what in _OF.items() for word in words.split()
}
"""What there is instead of an option of rsync's that is not there, by each of its spellings."""


class RsyncCommand(InsteadCommand):
    """A command that knows what rsync's users may mean by an option that it has not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``args``, with our own words for those that mean the same.

        Raises:
            NoSuchOption: one is not there.
            UsageError: there is only one path, of which rsync would list what is there.
        """
        if args == ["-h"]:
            args = ["--help"]
        words = list(_as_ours(args))
        try:
            return super().parse_args(ctx, list(words))
        except click.MissingParameter as exc:
            given, _, _ = self.make_parser(ctx).parse_args(words)
            if not isinstance(given.get("dest"), str):
                raise
            raise click.UsageError(f"DST is missing; {_LISTS}", ctx) from exc

    def instead_of(self, word: str) -> str | None:
        """Return what there is instead of the option ``word`` of rsync's."""
        return instead_of(word)


def _as_ours(args: Sequence[str]) -> Iterator[str]:
    """Yield ``args`` with our own words for those that mean the same."""
    end = args.index("--") if "--" in args else len(args)
    for word, following in pairwise([*args[:end], ""]):
        # In rsync --compress takes no value.
        is_bare = word == "--compress" and following not in COMPRESS
        yield "-z" if is_bare else SAME.get(word, word)
    yield from args[end:]


def instead_of(word: str) -> str | None:
    """Return what there is instead of the option ``word``; None where nobody means anything."""
    if word.startswith("--no-"):
        kept = {name.lstrip("-") for name in chain(*ARCHIVE.values(), *ALWAYS.values())}
        if word.removeprefix("--no-") in kept:
            return "what it would leave out is always so (see --help)"
    return INSTEAD.get(word)


def always_so(command: F) -> F:
    """Add all options that ask for what is always so; see ``check_archive``."""
    for name, words in {**ARCHIVE, **ALWAYS}.items():
        command = click.option(*words, name, is_flag=True, hidden=True)(command)
    return command


def check_archive(flags: Mapping[str, bool]) -> None:
    """Check that what ``-a`` stands for was asked for as a whole, or not at all.

    Raises:
        UsageError: some of it was, and rsync would leave out the rest.
    """
    missing = [words[0] for name, words in ARCHIVE.items() if not flags[name]]
    if missing and len(missing) < len(ARCHIVE) and not flags["archive"]:
        given = next(words[0] for name, words in ARCHIVE.items() if flags[name])
        raise UsageError(
            f"{given} without {' '.join(missing)}: {_KEEPS}; write -a, or leave out {given}"
        )
