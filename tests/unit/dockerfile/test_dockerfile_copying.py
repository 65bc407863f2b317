from collections.abc import Callable

import pytest

from solver.dockerfile import Converted, DockerfileError
from worker.wire.ops import Copy, FileOp, MakeFile

Build = Callable[..., Converted]


def last(converted: Converted) -> FileOp:
    op = converted.graph.vertices[converted.graph.target].op
    assert isinstance(op, FileOp)
    return op


COPIES = [
    ("COPY a /b", Copy(0, "/a", "/b")),
    ("COPY a b", Copy(0, "/a", "/w/b")),
    ("COPY . .", Copy(0, "/", "/w/")),
    ("COPY a ..", Copy(0, "/a", "/")),
    ("COPY a /x/../y/", Copy(0, "/a", "/y/")),
    ("COPY ../../a/ /", Copy(0, "/a", "/")),
    ('COPY ["a b", "/c d/"]', Copy(0, "/a b", "/c d/")),
    ('COPY "a b" /c', Copy(0, "/a b", "/c")),
    ("COPY *.py /src/", Copy(0, "/*.py", "/src/", wildcard=True)),
    ("COPY target/*.jar app.jar", Copy(0, "/target/*.jar", "/w/app.jar", wildcard=True)),
    ("COPY [ab].c /", Copy(0, "/[ab].c", "/", wildcard=True)),
    (r"COPY a\\*b /", Copy(0, r"/a\*b", "/")),
    ("COPY --chown=1:2 --chmod=0640 a /", Copy(0, "/a", "/", owner="1:2", mode="0640")),
    ("COPY --chmod=u=rwX,go=rX a /", Copy(0, "/a", "/", mode="u=rwX,go=rX")),
    ("COPY --exclude=*.o --exclude=t a /", Copy(0, "/a", "/", exclude=("*.o", "t"))),
    ("COPY --parents a/b /c/", Copy(0, "/a/b", "/c/", parents=True)),
    ("COPY --parents ./**/b /c/", Copy(0, "/**/b", "/c/", wildcard=True, parents=True)),
    ("COPY --parents a/./** /c/", Copy(0, "/a/./**", "/c/", wildcard=True, parents=True)),
    ("COPY --parents a/./b/ /c/", Copy(0, "/a/./b", "/c/", parents=True)),
    ("COPY --parents a/../x/./../b /c/", Copy(0, "/x/./b", "/c/", parents=True)),
    ("COPY --parents /./a/b /c/", Copy(0, "/./a/b", "/c/", parents=True)),
    ("COPY --parents a/./ /c/", Copy(0, "/a/./", "/c/", parents=True)),
    ("COPY a/./b /c/", Copy(0, "/a/b", "/c/")),
    ("COPY $D/$F /", Copy(0, "/dir/f", "/")),
    ("COPY --chown=$U a ${D}/", Copy(0, "/a", "/w/dir/", owner="me")),
    ("ADD a.tar /", Copy(0, "/a.tar", "/", unpack=True)),
    ("ADD --unpack=false a.tar /", Copy(0, "/a.tar", "/")),
]


@pytest.mark.parametrize(("line", "action"), COPIES, ids=[c[0] for c in COPIES])
def test_copy_says_what_comes_from_where(build: Build, line: str, action: Copy) -> None:
    converted = build(f"FROM scratch\nARG D=dir F=f U=me\nWORKDIR /w\nWORKDIR /w\n{line}")
    op = last(converted)
    (made,) = op.actions
    assert isinstance(made, Copy)
    assert (op.scratch, made.input) == (False, 1)
    fields = {name: getattr(action, name) for name in action.__struct_fields__}
    assert made == Copy(**fields | {"input": 1})


def test_copy_on_an_empty_tree_numbers_its_source_zero(build: Build) -> None:
    converted = build("FROM scratch\nCOPY a b /c/\nCOPY d /")
    first, second = (v for v in converted.graph.vertices if isinstance(v.op, FileOp))
    assert first.op == FileOp((Copy(0, "/a", "/c/"), Copy(0, "/b", "/c/")), scratch=True)
    assert second.op == FileOp((Copy(1, "/d", "/"),))
    assert (first.inputs, second.inputs) == ((0,), (1, 0))


@pytest.mark.parametrize("origin", ["tools", "TOOLS", "0"])
def test_copy_reads_an_earlier_stage_by_name_or_number(build: Build, origin: str) -> None:
    converted = build(
        f"FROM scratch AS tools\nRUN a\nFROM scratch\nCOPY --from={origin} /bin/x /"
    )
    assert converted.graph.vertices[converted.graph.target].inputs == (0,)
    assert converted.selectors == {}


def test_copy_reads_a_named_context(build: Build) -> None:
    converted = build("FROM scratch\nCOPY --from=docs a /", contexts={"docs": "local"})
    assert [pick.path for pick in converted.selectors["docs"].picks] == ["/a"]


def documents(converted: Converted) -> FileOp:
    """Return the op that makes the last step's heredocs."""
    vertex = converted.graph.vertices[converted.graph.target]
    op = converted.graph.vertices[vertex.inputs[-1]].op
    assert isinstance(op, FileOp)
    assert op.scratch
    return op


def test_heredoc_is_copied_from_a_tree_of_its_own(build: Build) -> None:
    converted = build(
        "FROM scratch\nENV X=1\nCOPY --chmod=755 --chown=me <<EOF /a/run.sh\n"
        "#!/bin/sh\necho \"$X\" '$X' \\$X\nEOF\n"
    )
    data = b"#!/bin/sh\necho \"1\" '1' $X\n"
    assert last(converted).actions == (Copy(0, "/EOF", "/a/run.sh", owner="me", mode="755"),)
    assert documents(converted).actions == (MakeFile("/EOF", data),)


def test_heredocs_go_into_a_directory_under_their_names(build: Build) -> None:
    converted = build(
        "FROM scratch\nENV X=1\nCOPY --exclude=a file <<'a' <<-b /etc/\n$X\na\n\t\tone\n\tb\n"
    )
    assert last(converted).actions == (
        Copy(0, "/file", "/etc/", exclude=("a",)),
        Copy(1, "/a", "/etc/"),
        Copy(1, "/b", "/etc/"),
    )
    made = documents(converted).actions
    assert made == (MakeFile("/a", b"$X\n"), MakeFile("/b", b"one\n"))


def test_tabs_of_a_heredoc_go_only_where_a_dash_asks_for_it(build: Build) -> None:
    text = (
        "FROM scratch\nCOPY <<Makefile <<-b /\nall:\n\tcc a.c\nMakefile\nall:\n\tcc a.c\n\tb\n"
    )
    made = documents(build(text)).actions
    assert made == (
        MakeFile("/Makefile", b"all:\n\tcc a.c\n"),
        MakeFile("/b", b"all:\ncc a.c\n"),
    )


def test_heredoc_is_made_where_its_stage_runs(build: Build) -> None:
    text = "FROM scratch AS s\nCOPY <<EOF /a\nEOF\n"
    converted = build(text, place={"s": (("gpu", "true"),)})
    assert {v.constraints for v in converted.graph.vertices} == {(("gpu", "true"),)}


def test_heredoc_alone_reads_no_context(build: Build) -> None:
    converted = build("FROM scratch\nCOPY <<EOF /a\nEOF\n")
    assert [v.inputs for v in converted.graph.vertices] == [(), (0,)]
    assert converted.selectors == {}


def test_link_is_a_plain_copy_with_a_warning(build: Build) -> None:
    converted = build("FROM scratch\nCOPY --link a /")
    assert last(converted) == FileOp((Copy(0, "/a", "/"),), scratch=True)
    assert converted.warnings[0].startswith(
        "Dockerfile:2: COPY --link is taken as a plain copy"
    )
    assert build("FROM scratch\nCOPY --link=false a /").warnings == ()


@pytest.mark.parametrize("line", ["COPY a b /c", "COPY <<a <<b /c\na\nb", "ADD a b c"])
def test_several_sources_and_no_slash_are_copied_one_after_another_with_a_warning(
    build: Build, line: str
) -> None:
    converted = build(f"FROM scratch\n{line}\n")
    op = last(converted)
    assert isinstance(op, FileOp)
    assert [action.dest for action in op.actions if isinstance(action, Copy)] == ["/c", "/c"]
    (warning,) = converted.warnings
    keyword, *_, dest = line.split("\n")[0].split()
    assert warning == (
        f"Dockerfile:2: {keyword}: several sources go into {dest!r} if it is a directory, else"
        f" the last file is what it becomes; '{dest}/' is always a directory"
    )
    assert build("FROM scratch\nCOPY a b /c/").warnings == ()


@pytest.mark.parametrize("line", ["COPY ../a/b /c", "COPY x/../../a/b /c", "COPY /../a/b /c"])
def test_a_source_that_leads_out_is_taken_inside_with_a_warning(
    build: Build, line: str
) -> None:
    converted = build(f"FROM scratch\n{line}\n")
    op = last(converted)
    assert isinstance(op, FileOp)
    assert [action.source for action in op.actions if isinstance(action, Copy)] == ["/a/b"]
    keyword, *_, source, _ = line.split()
    said = f"{source!r} leads out of what it is copied from: taken as 'a/b'"
    assert converted.warnings == (f"Dockerfile:2: {keyword}: {said}",)


SUM = "sha256:" + "ab" * 32

REFUSED = [
    ("COPY a <<b\nb", "a heredoc cannot be the destination"),
    ("COPY <<.. /c/\n..", "'..' cannot name a file"),
    ("COPY $nothing /c", "a source cannot be empty"),
    ("ADD git@github.com:a/b.git /b", "is added by its https:// address, which ends in .git"),
    ("ADD git://example.org/a /b", "is added by its https:// address"),
    ("ADD ssh://git@example.org/a.git#main /b", "a RUN --mount=type=ssh clone it"),
    ("COPY https://example.org/a.git /b", "use ADD for URLs"),
    ("ADD https://example.org/a.git?ref=b /b", "takes no '?'; say which branch"),
    ("ADD https:///a.git /b", "not an address"),
    *(
        (f"ADD https://example.org/a.git#{ref} /b", "cannot name a branch or a tag")
        for ref in (
            "-u",
            "--upload-pack=x",
            "/a",
            "a..b",
            "HEAD~1",
            "a^",
            "x*",
            "a@{1}",
            "a%00",
        )
    ),
    *(
        (f"ADD https://example.org/a.git#main:{subdir} /b", "is no directory in it")
        for subdir in ("../a", "a/../../b", "-x", "..", "/..%2f..", "a%0ab")
    ),
    (f"ADD --checksum={SUM} https://example.org/a.git /b", "write all 40 small hex digits"),
    ("ADD --checksum=abcdef https://example.org/a.git /b", "write all 40 small hex digits"),
    ("ADD --checksum=$none https://example.org/a.git /b", "write all 40 small hex digits"),
    (f"ADD --checksum={'0' * 40} https://example.org/a.git /b", "no commit has an id of zeros"),
    (f"ADD https://example.org/a.git#{'0' * 40} /b", "no commit has an id of zeros alone"),
    (
        f"ADD --checksum={'1' * 40} https://example.org/a.git#{'2' * 40} /b",
        f"--checksum={'1' * 40} is another commit",
    ),
    ("ADD https:///a /b", "not an address"),
    ("ADD https://[::1/a /b", "not an address"),
    ("ADD https://example.org:x/a /b", "not an address"),
    (
        "ADD https://example.org /b/",
        "no name for a file; say one in the destination, like /b/NAME",
    ),
    ("ADD https://example.org/a/.. /b/", "no name for a file"),
    ("ADD https://example.org/%2e%2e /", "no name for a file"),
    ("ADD https://example.org/a%00 /b", "cannot name a file"),
    ("ADD https://example.org/" + "a" * 256 + " /b", "cannot name a file"),
    ("COPY https://example.org/a /b", "use ADD for URLs"),
    ("ADD --checksum=sha256:aa a /b", "ADD --checksum is for one URL, and nothing beside it"),
    (f"ADD --checksum={SUM} http://x/a http://x/b /c/", "ADD --checksum is for one URL"),
    ("ADD --checksum=sha256:aa http://x/a /b", "write it as sha256: and 64 small hex digits"),
    (
        f"ADD --checksum=sha256:{'0' * 64} http://x/a /b",
        "no file has a checksum of zeros alone",
    ),
    ("ADD --checksum=$none http://x/a /b", "write it as sha256: and 64 small hex digits"),
    ("ADD --keep-git-dir a /b", "ADD --keep-git-dir is for git repositories"),
    ("COPY --chmod=9 a /b", "an octal mode is between 0 and 07777"),
    ("COPY --chmod=u~x a /b", "not a mode"),
    ("COPY --parents a/b** /c/", "'**' in '/a/b**' has to be the whole name"),
    ("COPY --parents a/**/./b /c/", "'**' in '/a/**/./b' has to be"),
    ("COPY [a /b/", "syntax error in pattern"),
    ("COPY --exclude=[a a /b/", "syntax error in pattern"),
    (
        "COPY --from=nothing a /b",
        "it is not there",
    ),
]


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_copy_that_cannot_be_done_is_refused(build: Build, line: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        build(f"FROM scratch\n{line}\n")
    assert caught.value.line == 2
    assert message in caught.value.message
