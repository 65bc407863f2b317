"""ADD of URLs: what becomes of them in the graph, and what nobody gets to see of them."""

from collections.abc import Callable

import msgspec
import pytest

from solver.dockerfile import Converted, unknown_remotes, with_ops
from solver.keys import definition_keys, url_key
from worker.wire.ops import Copy, FileOp, HttpOp, op_digest
from worker.wire.urls import FromUrl, ResolveUrl, without_secrets

Build = Callable[..., Converted]

SUM = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
URL = "https://example.org/dir/file.tar.gz"


def files_of(converted: Converted) -> list[HttpOp]:
    return [v.op for v in converted.graph.vertices if isinstance(v.op, HttpOp)]


def copies_of(converted: Converted) -> tuple[object, ...]:
    op = converted.graph.vertices[converted.graph.target].op
    assert isinstance(op, FileOp)
    return op.actions


COPIES = [
    (f"ADD {URL} /b", Copy(0, "/file.tar.gz", "/b")),
    (f"ADD {URL} /b/", Copy(0, "/file.tar.gz", "/b/")),
    (f"ADD --unpack {URL} /", Copy(0, "/file.tar.gz", "/", unpack=True)),
    (f"ADD --unpack=false {URL} /", Copy(0, "/file.tar.gz", "/")),
    (f"ADD --chown=1:2 --chmod=644 {URL} /", Copy(0, "/file.tar.gz", "/", "1:2", "644")),
    ("ADD https://example.org/a%20b?c=*#d /", Copy(0, "/a b", "/")),
    ("ADD https://example.org/x%2f%2e%2e%2fpasswd /", Copy(0, "/passwd", "/")),
    ("ADD https://example.org/dir/ /", Copy(0, "/dir", "/")),
    ("ADD https://example.org /b", Copy(0, "/__unnamed__", "/b")),
    ("ADD HTTPS://example.org/[a]* /", Copy(0, "/[a]*", "/")),
    ("ADD $U/x /", Copy(0, "/x", "/")),
]


@pytest.mark.parametrize(("line", "action"), COPIES, ids=[c[0] for c in COPIES])
def test_a_url_is_a_file_by_its_last_name_which_is_copied(
    build: Build, line: str, action: Copy
) -> None:
    converted = build(f"FROM scratch\nARG U=http://example.org\n{line}\n")
    assert copies_of(converted) == (action,)
    (file,) = files_of(converted)
    assert f"/{file.name}" == action.source
    assert converted.selectors == {}, "no context is read for it"


def test_a_url_keeps_its_query_and_loses_its_fragment(build: Build) -> None:
    (file,) = files_of(build("FROM scratch\nADD https://example.org/a?b=c#d /"))
    assert file.url == "https://example.org/a?b=c"


def test_a_checksum_is_the_files_own_and_else_it_is_not_known(build: Build) -> None:
    text = f"FROM scratch\nARG S={SUM}\nADD --checksum=$S {URL} /a\n"
    known = build(text)
    assert [op.checksum for op in files_of(known)] == [SUM]
    assert unknown_remotes(known.graph) == {}
    lacking = build(f"FROM scratch\nADD {URL} /a\n").graph
    (position,) = unknown_remotes(lacking)
    assert unknown_remotes(with_ops(lacking, {position: files_of(known)[0]})) == {}


def test_one_add_reads_a_context_urls_and_a_heredoc(build: Build) -> None:
    text = f"FROM scratch\nADD {URL} a http://x/b {URL} <<c /d/\nhi\nc\n"
    converted = build(text)
    target = converted.graph.vertices[converted.graph.target]
    names = [converted.graph.vertices[i].name for i in target.inputs]
    assert names == [
        "[internal] load build context",
        "[internal] prepare inline document",
        f"[internal] download {URL}",
        "[internal] download http://x/b",
    ]
    read = [(c.source, c.input) for c in copies_of(converted) if isinstance(c, Copy)]
    assert read == [
        ("/file.tar.gz", 2),
        ("/a", 0),
        ("/b", 3),
        ("/file.tar.gz", 2),
        ("/c", 1),
    ]


def test_stages_that_add_the_same_url_share_it(build: Build) -> None:
    text = f"FROM scratch AS a\nADD {URL} /x\nFROM scratch\nADD {URL} /y\nCOPY --from=a /x /\n"
    assert len(files_of(build(text))) == 1


def test_a_file_is_known_by_name_and_checksum_wherever_it_comes_from(build: Build) -> None:
    def target_key(url: str, checksum: str) -> bytes:
        graph = build(f"FROM scratch\nADD --checksum={checksum} {url} /a\n").graph
        return definition_keys(graph)[graph.target]

    assert target_key("https://u:p@one.org/f?token=1", SUM) == target_key("http://two/f", SUM)
    assert target_key("https://one.org/f", SUM) != target_key("https://one.org/f", OTHER)
    assert target_key("https://one.org/f", SUM) != target_key("https://one.org/g", SUM)


SECRETS = [
    ("https://me:pass@x.org/a", "https://xxxxx:xxxxx@x.org/a"),
    ("https://me@x.org/a", "https://xxxxx:xxxxx@x.org/a"),
    ("http://me:p@ss@x.org/a?sig=pass&b=pass", "http://xxxxx:xxxxx@x.org/a?xxxxx"),
    ("https://x.org/a", "https://x.org/a"),
    ("mail me@x.org", "mail me@x.org"),
    (
        'ADD ["https://me:pass@x/a?b=pass", "http://x/?pass", "/d?"]',
        'ADD ["https://xxxxx:xxxxx@x/a?xxxxx", "http://x/?xxxxx", "/d?"]',
    ),
    ("HTTPS://me:pass@x/a", "HTTPS://xxxxx:xxxxx@x/a"),
]


@pytest.mark.parametrize(("text", "shown"), SECRETS, ids=[s[0] for s in SECRETS])
def test_what_may_be_a_secret_in_a_url_is_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_no_name_history_key_or_repr_has_a_secret_of_a_url(build: Build) -> None:
    url = "https://me:hunter2@example.org/f?sig=hunter2"
    converted = build(
        f"FROM scratch\nARG P=hunter2\nADD {url} /a\nADD https://me:$P@example.org/f /b\n"
    )
    op = files_of(converted)[0]
    assert "hunter2" in op.url
    said = [v.name for v in converted.graph.vertices]
    said += [repr(converted.config), repr(op), repr(FromUrl(url, "f"))]
    said += [repr(ResolveUrl(url, "f", url_key(url, "f")))]
    history = converted.config["history"]
    assert isinstance(history, list)
    assert history[-1]["created_by"] == "ADD https://xxxxx:xxxxx@example.org/f /b # buildkit"
    long = f"https://example.org/{'d/' * 200}f"
    made = build(f"FROM scratch\nADD {long} /a\n").config["history"]
    assert isinstance(made, list)
    assert made[-1]["created_by"] == f"ADD {long} /a # buildkit"
    # What a build argument is, history says of itself: ARG P=hunter2.
    said = [text.replace("ARG P=hunter2", "") for text in said]
    assert not [text for text in said if "hunter2" in text]
    without = msgspec.structs.replace(op, url="https://example.org/f")
    assert op_digest(op) == op_digest(without)
    assert url_key(url, "f") == url_key("https://example.org/f?sig=hunter2", "f")
