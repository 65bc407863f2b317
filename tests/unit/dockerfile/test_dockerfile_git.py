"""ADD of git repositories: what becomes of them in the graph, and what nobody gets to see of them."""

from collections.abc import Callable

import msgspec
import pytest

from solver.client.urls import _questions
from solver.dockerfile import Converted, unknown_remotes
from solver.dockerfile.vertices import UNKNOWN_COMMIT
from solver.keys import definition_keys
from solver.wire import AskGit
from worker.wire.ops import Copy, FileOp, GitOp, op_digest
from worker.wire.urls import FromGit, ResolveGit

Build = Callable[..., Converted]

URL = "https://example.org/a.git"
COMMIT = "1" * 40


def ops_of(converted: Converted) -> list[GitOp]:
    return [v.op for v in converted.graph.vertices if isinstance(v.op, GitOp)]


FORMS = [
    (URL, GitOp(URL, UNKNOWN_COMMIT)),
    (f"{URL}#", GitOp(URL, UNKNOWN_COMMIT)),
    (f"{URL}#main", GitOp(URL, UNKNOWN_COMMIT, ref="main")),
    (f"{URL}#refs/pull/1/head", GitOp(URL, UNKNOWN_COMMIT, ref="refs/pull/1/head")),
    (f"{URL}#v1:docs/a/", GitOp(URL, UNKNOWN_COMMIT, "docs/a", ref="v1")),
    (f"{URL}#:docs", GitOp(URL, UNKNOWN_COMMIT, "docs")),
    (f"{URL}#main:.", GitOp(URL, UNKNOWN_COMMIT, ref="main")),
    (f"{URL}#main:/", GitOp(URL, UNKNOWN_COMMIT, ref="main")),
    (f"{URL}#main:/docs/./b", GitOp(URL, UNKNOWN_COMMIT, "docs/b", ref="main")),
    (f"{URL}#a%2Fb:c%20d", GitOp(URL, UNKNOWN_COMMIT, "c d", ref="a/b")),
    (f"{URL}#{COMMIT}", GitOp(URL, COMMIT)),
    (f"{URL}#{COMMIT}:docs", GitOp(URL, COMMIT, "docs")),
    (f"{URL}#{'1' * 64}", GitOp(URL, "1" * 64)),
    (f"{URL}#{'1' * 39}", GitOp(URL, UNKNOWN_COMMIT, ref="1" * 39)),
    (f"--checksum={COMMIT} {URL}#main", GitOp(URL, COMMIT, ref="main")),
    (f"--checksum={COMMIT} {URL}#{COMMIT}", GitOp(URL, COMMIT)),
    (f"--keep-git-dir {URL}", GitOp(URL, UNKNOWN_COMMIT, keep_git_dir=True)),
    (f"--keep-git-dir=false {URL}", GitOp(URL, UNKNOWN_COMMIT)),
    (f"--keep-git-dir {URL}#:docs", GitOp(URL, UNKNOWN_COMMIT, "docs")),
    ("HTTP://me:p@x:8080/a/b.git", GitOp("http://me:p@x:8080/a/b.git", UNKNOWN_COMMIT)),
]


@pytest.mark.parametrize(("words", "op"), FORMS, ids=[form[0] for form in FORMS])
def test_a_url_that_ends_in_git_is_a_commit_of_a_repository(
    build: Build, words: str, op: GitOp
) -> None:
    converted = build(f"FROM scratch\nADD {words} /b/\n")
    assert ops_of(converted) == [op]
    assert list(unknown_remotes(converted.graph)) == (
        [0] if op.commit == UNKNOWN_COMMIT else []
    )
    assert converted.selectors == {}, "no context is read for it"


@pytest.mark.parametrize(
    "url", ["https://example.org/a.git/", "https://example.org/git", "https://x/a.git/b"]
)
def test_a_url_that_does_not_is_a_file(build: Build, url: str) -> None:
    assert ops_of(build(f"FROM scratch\nADD {url} /b\n")) == []


def test_all_of_it_is_copied_with_the_flags_of_any_copy(build: Build) -> None:
    flags = "--chown=1:2 --chmod=644 --exclude=*.md --link --unpack"
    converted = build(f"FROM scratch\nADD {flags} {URL} a /b/\n")
    op = converted.graph.vertices[converted.graph.target].op
    assert isinstance(op, FileOp)
    copy = Copy(1, "/", "/b/", "1:2", "644", ("*.md",))
    assert op.actions[0] == copy
    assert op.actions[1] == msgspec.structs.replace(copy, input=0, source="/a", unpack=True)


def test_a_ref_is_asked_for_once_however_often_it_is_added(build: Build) -> None:
    text = f"FROM scratch\nADD {URL}#main:a /a\nADD {URL}#main:b /b\nADD {URL}#v1 /c\n"
    lacking = unknown_remotes(build(text).graph)
    assert len(lacking) == 3
    questions = [*_questions(lacking).values()]
    assert [one.ref for one in questions if isinstance(one, AskGit)] == ["main", "v1"]


def test_a_commit_is_known_by_its_content_wherever_it_comes_from(build: Build) -> None:
    def target_key(words: str) -> bytes:
        graph = build(f"FROM scratch\nADD {words} /a\n").graph
        return definition_keys(graph)[graph.target]

    key = target_key(f"{URL}#{COMMIT}")
    assert target_key(f"--checksum={COMMIT} https://u:p@two.org/b.git#main") == key
    assert target_key(f"{URL}#{'2' * 40}") != key
    assert target_key(f"{URL}#{COMMIT}:docs") != key
    kept = target_key(f"--keep-git-dir {URL}#{COMMIT}")
    assert kept != key
    assert target_key(f"--keep-git-dir https://two.org/b.git#{COMMIT}") == kept
    named = target_key(f"--keep-git-dir --checksum={COMMIT} {URL}#main")
    assert named != kept, "a .git that is kept says what its branch or tag is called"


def test_no_name_history_key_or_repr_has_a_login(build: Build) -> None:
    url = "https://me:hunter2@example.org/a.git"
    converted = build(f"FROM scratch\nADD {url}#main:docs /a\n")
    (op,) = ops_of(converted)
    assert "hunter2" in op.url
    said = [v.name for v in converted.graph.vertices]
    said += [repr(converted.config), repr(op), repr(FromGit(url, COMMIT))]
    said += [repr(ResolveGit(url)), repr(AskGit(1, url))]
    assert not [text for text in said if "hunter2" in text]
    history = converted.config["history"]
    assert isinstance(history, list)
    created = "ADD https://xxxxx:xxxxx@example.org/a.git#main:docs /a # buildkit"
    assert history[-1]["created_by"] == created
    assert op_digest(op) == op_digest(msgspec.structs.replace(op, url=URL, ref="v1"))


@pytest.mark.parametrize("kind", [GitOp, FromGit])
@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ext::sh"},
        {"url": "file:///etc"},
        {"commit": "1" * 39},
        {"commit": "1" * 40 + "\n"},
        {"commit": "-" + "1" * 39},
        {"ref": "-x"},
        {"ref": "a..b"},
        {"ref": "a\n"},
        {"ref": "+a:b"},
        {"ref": "*"},
        {"subdir": "../a"},
        {"subdir": "a/.."},
        {"subdir": "/a"},
        {"subdir": "-a"},
        {"subdir": "a//b"},
        {"subdir": "./a"},
        {"subdir": "a\0"},
    ],
    ids=str,
)
def test_a_message_can_say_nothing_that_git_would_take_for_an_option_or_a_way_out(
    kind: type, wrong: dict[str, str]
) -> None:
    good = msgspec.to_builtins(kind(URL, COMMIT, "a/.b/c..d", ref="refs/heads/a.b"))
    assert msgspec.convert(good, kind) is not None
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(good | wrong, kind)
