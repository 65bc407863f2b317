"""What rsync's users type: taken where it means what is done, else answered with a sentence."""

import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from filesync.errors import UsageError
from filesync.sync.commands import sync
from filesync.sync.spelling import ALWAYS, ARCHIVE, INSTEAD, SAME, instead_of

_OURS = {name for param in sync.params for name in (*param.opts, *param.secondary_opts)}


def _run(*words: str) -> str:
    """Run ``filesync sync`` in this process; return what it prints."""
    done = CliRunner().invoke(sync, words, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    assert done.return_value == 0
    return done.stdout


@pytest.fixture
def src(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    src = tmp_path / "src"
    (src / "d").mkdir(parents=True)
    (src / "d/file").write_text("text")
    (src / "link").symlink_to("d/file")
    (src / "other").hardlink_to(src / "d/file")
    return src


@pytest.mark.parametrize(
    "words",
    [
        "-a",
        "-av",
        "-avz",
        "-aHAXSv",
        "-avP",
        "-avhP",
        "-rlptgoD",
        "-Drvlpotg --no-progress",
        "--archive --verbose --compress",
        "-a --numeric-ids --partial --info=progress2 --info=stats2",
        "-aq --delete-during --del",
        "-azyE -s --human-readable --specials",
    ],
)
def test_what_is_always_so_is_taken_as_rsync_spells_it(src: Path, words: str) -> None:
    _run(*words.split(), "src/", "dst")
    assert (src.parent / "dst/d/file").read_text() == "text"


@pytest.mark.parametrize("words", ["-r", "-rv", "-rt", "-t", "-rlptg", "--recursive"])
def test_a_part_of_archive_alone_is_refused(src: Path, words: str) -> None:
    with pytest.raises(UsageError, match="write -a, or leave out -"):
        _run(*words.split(), "src/", "dst")
    assert not (src.parent / "dst").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("-a --no-perms", "always so"),
        ("-a --no-o", "always so"),
        ("-a --rsync-path=rsync", "--filesync-path"),
        ("-a --inplace", "when it is whole"),
        ("-aW", "copied whole"),
        ("-a --delete-after", "write --delete"),
        ("-a --max-delete=3", "there is no such bound"),
        ("-a --backup-dir=x", "there are no backups"),
        ("-aR", "--include='/a/b/"),
        ("-am", "-empty -delete"),
        ("-a --no-compress", "--compress auto, none or zstd"),
        ("-aL", "links are copied as links"),
        ("-a --info=flist2", "--stats"),
        ("-zz --zl=9", "--compress auto, none or zstd"),
    ],
)
def test_another_meaning_is_refused_with_what_is_done_instead(
    src: Path, words: str, sentence: str
) -> None:
    with pytest.raises(click.NoSuchOption, match=sentence):
        _run(*words.split(), "src/", "dst")
    assert not (src.parent / "dst").exists()


def test_one_path_alone_is_answered_with_what_lists_it(src: Path) -> None:
    # A server, or another machine, is listed by what would come from it.
    ways = (
        "`filesync manifest show SRC` lists a directory of this machine, and -nv one of another"
    )
    with pytest.raises(click.UsageError, match=f"DST is missing; {ways}"):
        _run("-av", "src/")
    with pytest.raises(click.NoSuchOption, match=f"--list-only is not there: {ways}"):
        _run("--list-only", "src/")
    with pytest.raises(click.MissingParameter, match="sources"):
        _run("-av")


def test_a_pattern_that_no_shell_has_expanded_is_answered_with_what_does(src: Path) -> None:
    done = CliRunner().invoke(sync, ["src/*.c", "nothing", "dst"], standalone_mode=False)
    assert done.return_value == 23
    hint = "No such file or directory (SRC is no pattern: name the directory, with a slash"
    assert f"'src/*.c' cannot be read: {hint}" in done.stderr
    assert "'nothing' cannot be read: No such file or directory; it was left out" in done.stderr


def test_an_option_that_nobody_has_is_no_such_option(src: Path) -> None:
    with pytest.raises(click.NoSuchOption, match="No such option"):
        _run("--sideways", "src/", "dst")
    assert instead_of("--no-sideways") is None


@pytest.mark.needs("rsync")
def test_every_long_option_of_rsync_is_taken_or_answered() -> None:
    help = subprocess.run(["rsync", "--help"], capture_output=True, text=True, check=True)
    named = {
        word.rstrip(",").partition("=")[0]
        for line in help.stdout.splitlines()
        if line.startswith("-")
        for word in line.split()[:2]
        if word.startswith("-")
    }
    answered = {"--help"} | _OURS | INSTEAD.keys() | {word.partition("=")[0] for word in SAME}
    # About inner workings that have no counterpart, or only there to undo something.
    beyond = {"--inc-recursive", "--i-r", "--no-inc-recursive", "--no-i-r", "--no-motd"}
    beyond |= {"--no-OPTION", "--max-alloc", "--trust-sender", "--old-args", "--early-input"}
    beyond |= {"--stop-after", "--stop-at", "--checksum-seed", "--drop-D"}
    beyond |= {"--insecure-links", "--confine-root"}
    assert len(named) > 150
    assert named - answered - beyond == set()


def test_no_option_is_both_taken_and_refused() -> None:
    assert _OURS.isdisjoint(INSTEAD.keys())
    words = [word for words in (*ARCHIVE.values(), *ALWAYS.values()) for word in words]
    assert len(words) == len(set(words))


@pytest.mark.needs("rsync")
def test_verbose_lists_names_as_rsync_does(src: Path) -> None:
    root = src.parent
    for tool in ("ours", "theirs"):
        (root / tool / "d").mkdir(parents=True)
        (root / tool / "d/gone").write_text("old")
        for path in (root / tool / "d", root / tool):
            os.utime(path, ns=(0, 0))  # rsync compares whole seconds
    rsync = ["rsync", "-avH", "--delete", "src/", "theirs/"]
    theirs = subprocess.run(rsync, cwd=root, capture_output=True, text=True, check=True)
    said = theirs.stdout.splitlines()[1:-3]  # without its first line and its figures
    ours = _run("-av", "--delete", "src/", "ours/")
    assert sorted(ours.splitlines()) == sorted(said)
    assert "deleting d/gone" in ours
    assert _run("-av", "--delete", "src/", "ours/") == ""


def test_a_dry_run_with_verbose_lists_what_a_run_then_does(src: Path) -> None:
    will = _run("-avn", "src/", "dst")
    assert not (src.parent / "dst").exists()
    assert _run("-av", "src/", "dst") == will
    assert will.splitlines() == ["./", "d/", "d/file", "link -> d/file", "other => d/file"]


def test_itemize_says_more_than_verbose_and_quiet_nothing(src: Path) -> None:
    assert "cd+++++++++ d/" in _run("-nvi", "src/", "dst").splitlines()
    assert _run("-nvq", "src/", "dst") == ""


def test_progress_that_goes_to_a_file_is_lines(src: Path) -> None:
    (src / "more").write_bytes(bytes(100))
    done = CliRunner().invoke(sync, ["-aP", "src/", "dst"], standalone_mode=False)
    assert done.stderr.splitlines()[-1] == "2 files, 104 bytes"
    assert "\n\n" not in done.stderr


def test_h_alone_is_help(src: Path) -> None:
    assert "Always so" in _run("-h")


@pytest.mark.needs("rsync")
def test_patterns_are_read_from_files_in_their_order(src: Path) -> None:
    root = src.parent
    for name in ("a.c", "b.c", "c.h", "#odd"):
        (src / name).write_text(name)
    (root / "in").write_bytes(b"; a comment\r\n\nb.c\r\n")
    (root / "out").write_bytes(b"# a comment\n- *.c\n+ /d/\n/d\n")
    words = ["-a", "--include-from", "in", "--exclude-from=out", "--exclude", "#*"]
    _run(*words, "src/", "ours")
    subprocess.run(["rsync", *words, "src/", "theirs"], cwd=root, check=True)
    names = sorted(path.name for path in (root / "ours").iterdir())
    assert names == sorted(path.name for path in (root / "theirs").iterdir())
    assert names == ["b.c", "c.h", "d", "link", "other"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--files-from=nowhere"], "nowhere cannot be read"),
        (["--files-from=list", "--delete"], "a list says nothing of that"),
        (["--files-from=list", "src/"], "there is one SRC"),
        (["-0"], "write that, too"),
        (["--exclude-from=list"], "has a NUL"),
    ],
)
def test_a_list_that_has_no_meaning_is_a_sentence(
    src: Path, words: list[str], why: str
) -> None:
    (src.parent / "list").write_bytes(b"d/file\0")
    with pytest.raises(UsageError, match=why):
        _run("-a", *words, "src/", "ours")
    assert not Path("ours").exists()


def test_patterns_that_cannot_be_read_are_a_sentence(src: Path) -> None:
    with pytest.raises(UsageError, match="nowhere cannot be read"):
        _run("-a", "--exclude-from", "nowhere", "src/", "dst")


@pytest.mark.parametrize(
    "option", ["--exclude", "--include", "--exclude-from", "--include-from"]
)
def test_an_option_without_anything_to_it_takes_no_source_in_its_place(
    src: Path, option: str
) -> None:
    with pytest.raises(UsageError, match=r"empty pattern|cannot be read"):
        _run("-a", option, "", "src", "src/", "dst")
    with pytest.raises(click.BadOptionUsage, match="requires an argument"):
        _run("-a", "src", "dst", option)


@pytest.mark.parametrize("path", ["host::module/x", "rsync://h/m", ":path"])
def test_a_path_on_another_machine_as_rsync_has_it_is_told_how_to_write_it(
    src: Path, path: str
) -> None:
    with pytest.raises(UsageError, match="tcp://host:port/path"):
        _run("-av", "src/", path)


@pytest.mark.parametrize("name", ["--info=name", "--compress", "-a"])
def test_what_stands_behind_two_dashes_is_a_path_whatever_it_is_called(
    src: Path, name: str
) -> None:
    src.rename(name)
    _run("-a", "--", name, "dst")
    assert os.listdir("dst") == [name]
