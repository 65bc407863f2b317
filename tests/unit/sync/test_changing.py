"""Which attempts of a sync are worth it, and what is left out of the next."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from filesync.errors import ContentCorrupt, RoomMade, SourceChanged, Unavailable
from filesync.manifest.node import is_name
from filesync.sync import local
from filesync.sync.changing import (
    FEW_WHOLE,
    MAX_ATTEMPTS,
    MAX_NARROW,
    MAX_WHOLE,
    PATIENT_ATTEMPTS,
    Attempts,
    changes_of,
)
from filesync.sync.filter import MAX_RULE_BYTES, MAX_RULES, Filter, literal, only
from filesync.sync.listed import Listed
from filesync.sync.options import Options
from filesync.sync.part import Part
from filesync.sync.run import Listing, run
from filesync.sync.saying.report import is_partial
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.errors import Refused

names = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.text("*?[]\\\\!-+ a", min_size=1, max_size=8).map(str.encode),
).filter(is_name)


def changed(path: bytes) -> SourceChanged:
    return SourceChanged(f"{path!r} changed", path)


def test_a_file_that_spoils_two_attempts_is_left_out_of_the_third() -> None:
    attempts = Attempts(Options(rules=(b"+ log",)))
    attempts.note(changed(b"d/log"))
    assert (attempts.left_out, attempts.options.rules) == ([], (b"+ log",))
    attempts.note(changed(b"other"))
    attempts.note(changed(b"d/log"))
    assert attempts.left_out == [b"d/log"]
    filter = Filter(attempts.options.rules)
    assert filter.excludes(b"d/log", False)
    assert not filter.excludes(b"log", False)


def test_rules_that_are_cancelled_do_not_cancel_what_is_left_out() -> None:
    attempts = Attempts(Options(rules=(b"- a", b"!", b"- b", b"!", b"- c")))
    for _ in range(2):
        attempts.note(changed(b"x"))
    filter = Filter(attempts.options.rules)
    assert [filter.excludes(name, False) for name in (b"x", b"a", b"b", b"c")] == [
        True,
        False,
        False,
        True,
    ]


def test_what_never_rests_is_left_alone_even_where_all_else_that_is_excluded_goes() -> None:
    attempts = Attempts(Options(delete=True, delete_excluded=True, rules=(b"- a",)))
    for _ in range(2):
        attempts.note(changed(b"x"))
    assert attempts.options.kept == (b"- /x",)


def test_what_has_no_name_is_tried_once_more_and_then_raised() -> None:
    attempts = Attempts(Options())
    attempts.note(ContentCorrupt("not what was scanned"))
    with pytest.raises(ContentCorrupt):
        attempts.note(ContentCorrupt("not what was scanned"))


def test_a_file_that_comes_out_wrong_is_left_out_as_one_that_changes_is() -> None:
    attempts = Attempts(Options())
    attempts.note(changed(b"d/db"))
    attempts.note(ContentCorrupt("not what was scanned", b"d/db"))
    assert attempts.left_out == [b"d/db"]
    with pytest.raises(ContentCorrupt):  # the rule has not helped: it has another name here
        attempts.note(ContentCorrupt("not what was scanned", b"d/db"))


def test_where_many_files_change_each_is_left_out_at_once_so_that_all_others_arrive() -> None:
    attempts = Attempts(Options())
    for number in range(PATIENT_ATTEMPTS + 30):
        attempts.note(changed(b"%d" % number))
    assert attempts.left_out == [
        b"%d" % number for number in range(PATIENT_ATTEMPTS - 1, PATIENT_ATTEMPTS + 30)
    ]


def test_what_has_no_name_is_tried_once_more_after_many_attempts_too() -> None:
    attempts = Attempts(Options())
    for number in range(PATIENT_ATTEMPTS):
        attempts.note(changed(b"%d" % number))
    attempts.note(ContentCorrupt("not what was scanned"))
    with pytest.raises(ContentCorrupt):
        attempts.note(ContentCorrupt("not what was scanned"))


def test_a_full_disk_of_which_something_was_removed_is_tried_once_more() -> None:
    attempts = Attempts(Options())
    attempts.note(RoomMade("no space left"))
    assert attempts.left_out == []
    with pytest.raises(RoomMade):
        attempts.note(RoomMade("no space left"))


def test_attempts_end_however_many_files_change() -> None:
    attempts = Attempts(Options())
    for number in range(MAX_ATTEMPTS - 1):
        attempts.note(changed(b"%d" % number))
    with pytest.raises(SourceChanged):
        attempts.note(changed(b"another"))


@pytest.mark.parametrize(
    "path",
    [
        b"a",
        b"d/a b",
        b"*",
        b"a*b?[c]\\d/**/***",
        b"back\\slash",
        b"new\nline\xff",
        b"- x",
        b"!",
    ],
)
def test_a_literal_rule_matches_its_path_and_no_other(path: bytes) -> None:
    rule = literal(path)
    assert rule is not None
    filter = Filter((rule,))
    for is_directory in (False, True):
        assert filter.excludes(path, is_directory)
    for other in (b"x", b"x/" + path, path + b"x", path[:-1] + b"x", b"acb" + path[3:]):
        assert not filter.excludes(other, False) or other == path


@pytest.mark.parametrize("path", [b"*" * 65, b"d/" * 2500 + b"f"])
def test_a_path_that_no_rule_can_name_is_raised(path: bytes) -> None:
    assert literal(path) is None
    attempts = Attempts(Options())
    attempts.note(changed(path))
    with pytest.raises(SourceChanged):
        attempts.note(changed(path))


@pytest.mark.parametrize(
    "error",
    [changed(b"f"), Refused("source-changed", "f changed", b"f")],
    ids=["here", "there"],
)
def test_a_change_is_named_as_the_transfer_names_it(error: Exception) -> None:
    with pytest.raises(SourceChanged) as caught, changes_of(Part(b"inside")):
        raise error
    assert caught.value.path == b"inside/f"


def test_other_refusals_stay_what_they_are() -> None:
    with pytest.raises(ContentCorrupt), changes_of(Part()):
        raise Refused("content-corrupt", "wrong")
    with pytest.raises(RoomMade), changes_of(Part()):
        raise Refused("room-made", "no space left")
    for error in (Refused("store", "no space"), Unavailable("gone")):
        with pytest.raises(Unavailable) as caught, changes_of(Part()):
            raise error
        assert caught.value is error


def test_what_is_begun_again_is_one_change_in_a_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = iter((changed(b"log"), None))

    def sync(
        _sources: object, _dest: object, options: Options, *, progress: object
    ) -> SyncStats:
        assert options.on_changes is not None
        options.on_changes(iter((">f+++++++++ a", ">f+++++++++ log")))
        if (error := next(tries)) is not None:
            raise error
        return SyncStats()

    monkeypatch.setattr(local, "sync_local", sync)
    listing = Listing(keep=True)
    run(["src/"], "dst", Options(on_changes=listing.take), listing, progress=False)
    assert list(listing.lines or ()) == [">f+++++++++ a", ">f+++++++++ log"]


def test_what_it_took_is_what_all_attempts_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter((0.0, 5.0, 5.0, 7.0, 7.0))
    monkeypatch.setattr("filesync.sync.run.monotonic", now_s.__next__)
    tries = iter((changed(b"log"), RoomMade("the disk was full"), None))

    def sync(*_: object, **__: object) -> SyncStats:
        if (error := next(tries)) is not None:
            raise error
        return SyncStats(seconds=1.0)

    monkeypatch.setattr(local, "sync_local", sync)
    stats = run(["src/"], "dst", Options(), Listing(keep=True), progress=False)
    assert stats.seconds == 8.0


def test_what_is_done_but_for_files_that_had_changed_is_begun_again_and_then_for_them_alone() -> (
    None
):
    attempts = Attempts(Options(rules=(b"- *.o",), delete=True))
    went_on = []
    for number in range(FEW_WHOLE + MAX_NARROW):
        went_on.append(attempts.go_on([b"d/log", b"db"]))
        assert attempts.is_narrow == (number >= FEW_WHOLE - 1)
    assert went_on == [True] * (FEW_WHOLE + MAX_NARROW - 1) + [False]
    filter = Filter(attempts.options.rules)
    assert not filter.excludes(b"d", True)
    assert [filter.excludes(name, False) for name in (b"d/log", b"db", b"d/x", b"x")] == [
        False,
        False,
        True,
        True,
    ]
    assert not attempts.options.delete


@pytest.mark.parametrize("behind", [[], [b"d" * 200 + b"/%d" % n for n in range(1000)]])
def test_files_that_are_too_many_to_be_named_are_not_synced_alone(behind: list[bytes]) -> None:
    attempts = Attempts(Options())
    assert [attempts.go_on(behind) for _ in range(MAX_WHOLE)] == [True, True, False]
    assert not attempts.is_narrow


def lets_through(filter: Filter, path: bytes, *, is_directory: bool) -> bool:
    """Say whether what is at ``path`` is not left out, nor anything above it."""
    above = [path[:at] for at, byte in enumerate(path) if byte == ord("/")]
    return not filter.excludes(path, is_directory) and not any(
        filter.excludes(one, is_directory=True) for one in above
    )


@pytest.mark.parametrize("path", [b"a", b"d/a b", b"a*b?[c]\\d/**/***", b"back\\slash", b"- x"])
def test_rules_for_a_path_alone_take_it_what_is_in_it_and_nothing_else(path: bytes) -> None:
    rules = only([path], ())
    assert rules is not None
    filter = Filter(rules)
    parts = path.split(b"/")
    for depth in range(1, len(parts)):
        assert not filter.excludes(b"/".join(parts[:depth]), True)
        assert not filter.excludes(b"/".join(parts[:depth]), False)
    assert not filter.excludes(path, False)
    assert not filter.excludes(path, True)
    assert not filter.excludes(path + b"/x", False)
    for other in (b"x", b"x/" + path, path + b"x", b"acb" + path[3:]):
        assert not lets_through(filter, other, is_directory=False) or other == path


@given(st.lists(names, min_size=1, max_size=4))
def test_rules_for_a_path_alone_take_any_path(parts: list[bytes]) -> None:
    rules = only([b"/".join(parts)], ())
    assert rules is not None
    filter = Filter(rules)
    for depth in range(1, len(parts) + 1):
        assert not filter.excludes(b"/".join(parts[:depth]), depth < len(parts))


few = st.lists(st.sampled_from([b"a", b"b", b"*"]), min_size=1, max_size=3).map(b"/".join)
some_rules = st.lists(
    st.one_of(
        st.just(b"!"),
        st.builds(
            b"".join,
            st.tuples(
                st.sampled_from([b"- ", b"+ "]),
                st.sampled_from([b"", b"/"]),
                few,
                st.sampled_from([b"", b"/", b"/**", b"/***"]),
            ),
        ),
    ),
    max_size=4,
)


def are_apart(paths: list[bytes]) -> bool:
    return not any(one.startswith(other + b"/") for one in paths for other in paths)


@given(st.lists(few, min_size=1, max_size=3).filter(are_apart), some_rules, few, st.booleans())
def test_rules_for_paths_alone_let_through_of_them_what_the_others_do(
    paths: list[bytes], others: list[bytes], path: bytes, is_directory: bool
) -> None:
    """Whatever has become of these paths, and of what leads to them."""
    rules = only(paths, others)
    assert rules is not None
    below, above = path + b"/", [one + b"/" for one in paths]
    is_of_them = any(below.startswith(one) or one.startswith(below) for one in above)
    assert lets_through(Filter(rules), path, is_directory=is_directory) == (
        is_of_them and lets_through(Filter(others), path, is_directory=is_directory)
    )


@pytest.mark.parametrize(
    "rules",
    [
        (b"x" * MAX_RULE_BYTES,) * 40,
        (b"x",) * MAX_RULES,
        (b"- " + b"d" * (MAX_RULE_BYTES - 3) + b"/",),
    ],
)
def test_rules_that_leave_no_room_for_others_are_none_for_paths_alone(
    rules: tuple[bytes, ...],
) -> None:
    assert only([b"d" * (MAX_RULE_BYTES - 3)], rules) is None


def test_what_is_synced_alone_completes_what_was_synced_before() -> None:
    whole = SyncStats(names=10, size=100, files=4, changing=["a", "b"], refused={"x": "full"})
    rest = SyncStats(names=2, size=7, files=1, changing=["b"], refused={"y": "full"})
    assert whole.behind == [b"a", b"b"]
    assert whole.with_rest(rest) == SyncStats(
        names=10, size=100, files=5, changing=["b"], refused={"x": "full", "y": "full"}
    )


def test_what_is_synced_alone_and_lacks_something_then_is_told_of() -> None:
    whole = SyncStats(not_kept=Counter(owner=2, xattr=1), unnamed_refused=3)
    rest = SyncStats(
        not_kept=Counter(xattr=2, twin=1),
        left_out=1,
        left_out_paths=["a"],
        stuck={"b": "denied"},
        unnamed=1,
        unnamed_unwritable=1,
        unnamed_refused=1,
    )
    told = whole.with_rest(rest)
    assert told == replace(rest, not_kept=Counter(owner=2, xattr=2, twin=1), unnamed_refused=3)
    assert is_partial(told)


def test_of_a_list_what_is_behind_is_a_list_again() -> None:
    attempts = Attempts(Options(listed=Listed([b"a/b", b"c"]), rules=(b"- d",)))
    for _ in range(FEW_WHOLE):
        assert attempts.go_on([b"a/b"])
    assert attempts.is_narrow
    options = attempts.options
    assert options.listed is not None
    assert options.listed.of(b"src", b"dst") == ([b"src/a"], b"dst/")
    filter = options.filter()
    assert not filter.excludes(b"a/b", is_directory=False)
    assert filter.excludes(b"c", is_directory=False)
    many = [b"%d/%d" % (number, number) for number in range(300)]
    assert [Attempts(options).go_on(many)] == [True]


@pytest.mark.parametrize("listed", [None, Listed([b"a/"], all_below=True)])
def test_what_is_behind_and_becomes_a_directory_comes_with_what_the_rules_let_through_of_it(
    listed: Listed | None,
) -> None:
    attempts = Attempts(Options(listed=listed, rules=(b"- *.key", b"- c/")))
    for _ in range(FEW_WHOLE):
        assert attempts.go_on([b"a/b", b"a/c"])
    for _ in range(2):
        attempts.note(changed(b"a/b/log"))
    assert attempts.go_on([b"a/b", b"a/c"])
    filter = attempts.options.filter()
    assert not filter.excludes(b"a/b", is_directory=True)
    assert not filter.excludes(b"a/b/in", is_directory=False)
    assert filter.excludes(b"a/b/secret.key", is_directory=False)
    assert filter.excludes(b"a/b/log", is_directory=False)
    assert not filter.excludes(b"a/c", is_directory=False)
    assert filter.excludes(b"a/c", is_directory=True)
    assert filter.excludes(b"a/d", is_directory=False)
