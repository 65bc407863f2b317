from collections.abc import Callable

import pytest

from filesync.errors import UsageError
from solver.dockerfile import MAIN_CONTEXT, Converted, DockerfileError, reader_of
from solver.dockerfile.excerpt import Excerpt

Build = Callable[..., Converted]


def test_error_shows_the_line_and_underlines_the_culprit(build: Build) -> None:
    with pytest.raises(DockerfileError) as caught:
        build("FROM scratch\n\n\n\n\n\n  RUNN make\n")
    assert str(caught.value) == (
        "Dockerfile:7: unknown instruction: RUNN (did you mean RUN?)\n"
        "   7 |   RUNN make\n"
        "     |   ^^^^"
    )
    assert isinstance(caught.value, UsageError)
    assert (caught.value.filename, caught.value.line) == ("Dockerfile", 7)
    assert caught.value.text == "  RUNN make"


def test_comment_may_be_in_any_encoding(build: Build) -> None:
    latin = b"# \xe9\nFROM scratch\nRUN a \\\n  # \xe9\n  b\n".decode(errors="surrogateescape")
    converted = build(latin)
    assert converted.graph.vertices[0].name == "[1/1] RUN a   b"
    assert converted.excerpts[0].lines == ("RUN a \\", "  # \ufffd", "  b")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("RUN \udce9", 2),
        ("\udce9", 2),
        ("RUN <<E\na\n# \udce9\nE", 2),
        ("RUN a\\\n\x1c#\udce9", 2),  # what looks like a comment to Python alone
        ("COPY --exclude=\\\n\x1c#\udce9 a /c", 2),
    ],
)
def test_what_is_no_comment_must_be_utf_8(build: Build, text: str, line: int) -> None:
    with pytest.raises(DockerfileError, match="cannot be written as UTF-8") as caught:
        build(f"FROM scratch\n{text}")
    assert caught.value.line == line
    str(caught.value).encode()


def test_each_step_knows_the_lines_that_ask_for_it(build: Build) -> None:
    converted = build(
        "FROM scratch AS base\n\nCOPY a /\nRUN one && \\\n# why\n  two\n"
        "RUN <<E\nthree\nE\nONBUILD RUN later\nFROM base\n"
    )
    steps = zip(converted.graph.vertices, converted.excerpts, strict=True)
    found = {step.name.partition("] ")[2]: (shown.line, shown.lines) for step, shown in steps}
    assert found["COPY a /"] == (3, ("COPY a /",))
    assert found["RUN one &&   two"] == (4, ("RUN one && \\", "# why", "  two"))
    assert found["RUN <<E (three)"] == (7, ("RUN <<E", "three", "E"))
    assert found["ONBUILD RUN later"] == (11, ("FROM base",)), "the base has asked for it"


def test_an_excerpt_is_of_few_lines_none_too_long_and_nothing_that_a_terminal_obeys() -> None:
    lines = ("RUN <<E", "\x1b[31mred", "x" * 500, *map(str, range(500)), "E")
    said, *shown = Excerpt("Dockerfile", 9, lines).under("it failed").split("\n")
    assert said == "Dockerfile:9: it failed"
    assert shown[:2] == ["   9 | RUN <<E", "  10 |  [31mred"]
    assert shown[2].endswith("x…")
    assert len(shown[2]) < 140
    assert shown[-1] == "     | …"
    assert len(shown) < 20


def test_the_first_step_that_reads_a_path_of_a_context_is_found(build: Build) -> None:
    converted = build("FROM scratch\nCOPY a /\nCOPY ./b/ c /\nCOPY c /d\n")
    lines = {
        path: converted.excerpts[found].line
        for path in ("a", "b", "c", "d")
        if (found := reader_of(converted.graph, MAIN_CONTEXT, path)) is not None
    }
    assert lines == {"a": 2, "b": 3, "c": 3}


def test_the_step_whose_pattern_is_for_names_in_a_directory_is_found(build: Build) -> None:
    converted = build("FROM scratch\nCOPY *.js /\nCOPY dist/\\\\[a]/*/*.js /\n")
    found = reader_of(converted.graph, MAIN_CONTEXT, "dist/[a]")
    assert found is not None
    assert converted.excerpts[found].line == 3
    assert reader_of(converted.graph, MAIN_CONTEXT, "dist") is None


def test_error_without_a_culprit_underlines_the_line(build: Build) -> None:
    with pytest.raises(DockerfileError) as caught:
        build("FROM scratch\nUSER")
    assert str(caught.value) == (
        "Dockerfile:2: USER needs exactly one argument\n   2 | USER\n     | ^^^^"
    )


def test_error_is_no_way_into_a_terminal(build: Build) -> None:
    with pytest.raises(DockerfileError) as caught:
        build("FROM scratch\nR\x1b[2J x")
    assert "\x1b" not in str(caught.value)


def test_error_shows_the_start_of_a_long_line(build: Build) -> None:
    with pytest.raises(DockerfileError) as caught:
        build("FROM scratch\nUSER " + "x" * 5000 + "${")
    assert all(len(line) < 250 for line in str(caught.value).splitlines()[1:])


def test_error_can_be_pickled() -> None:
    import pickle

    error = DockerfileError("Dockerfile", 3, "RUN", "wrong", "RUN")
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "COPY --chwon=1 a b",
            "unknown flag of COPY: --chwon (did you mean --chown?); COPY has ",
        ),
        ("ADD --from=x a b", "unknown flag of ADD: --from"),
        ("WORKDIR --x /a", "WORKDIR has no flags, but is given --x"),
        ("COPY --chown a b", "--chown needs a value"),
        ("COPY --chown=1 --chown=2 a b", "--chown is given twice"),
        ("COPY --link=yes a b", "--link is true or false, not 'yes'"),
        ("RUN <<EOF", "unterminated heredoc"),
        ('CMD ["a", 1]', "Only strings are supported in JSON arrays"),
        ('CMD ["\\u0000"]', "there is a NUL character"),
        ('CMD ["\\ud800"]', "cannot be written as UTF-8"),
        ("RUN a\0b", "there is a NUL character"),
        ("ENV a", "ENV must have two arguments"),
        ("COPY a", "COPY needs at least one source and a destination"),
        ("RUN", "RUN needs a command"),
        ("RUN []", "RUN needs a command"),
        ("CMD " + "[" * 100_000, "brackets are nested too deeply"),
    ],
    ids=lambda value: value[:40],
)
def test_line_that_cannot_be_read_is_refused(build: Build, line: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        build(f"FROM scratch\n{line}\n")
    assert caught.value.line == 2
    assert message in caught.value.message


def test_flags_are_checked_in_stages_that_are_not_built_too(build: Build) -> None:
    with pytest.raises(DockerfileError, match="Dockerfile:2: unknown flag of RUN: --moun"):
        build("FROM scratch\nRUN --moun=x a\nFROM scratch")


def test_what_is_too_large_is_refused(build: Build) -> None:
    with pytest.raises(DockerfileError, match="larger than 1048576 characters"):
        build("FROM scratch\n#" + "x" * (1 << 20))
    with pytest.raises(DockerfileError, match="Dockerfile:4097: more than 4096 instructions"):
        build("FROM scratch\n" + "USER a\n" * 5000)


@pytest.mark.parametrize("trigger", ["RUN a\nRUN b", "", "# nothing"])
def test_trigger_of_an_image_that_is_not_one_instruction_is_refused(
    build: Build, trigger: str
) -> None:
    with pytest.raises(DockerfileError, match="ONBUILD"):
        build("FROM a.io/b", image={"config": {"OnBuild": [trigger]}})


def test_triggers_cannot_make_more_steps_than_a_graph_has(build: Build) -> None:
    text = "FROM scratch AS a\n" + "ONBUILD RUN x\n" * 3000
    text += "".join(f"FROM a AS b{i}\n" for i in range(4)) + "FROM scratch\n"
    text += "".join(f"COPY --from=b{i} / /\n" for i in range(4))
    with pytest.raises(DockerfileError, match="more than 10000 steps"):
        build(text)


def test_path_that_no_worker_would_take_is_refused(build: Build) -> None:
    with pytest.raises(DockerfileError, match="Dockerfile:2: too large or malformed"):
        build("FROM scratch\nWORKDIR /" + "x" * 5000)


def test_escape_directive_makes_a_backslash_plain(build: Build) -> None:
    converted = build("# escape=`\nFROM scratch\nENV a=c:\\x `\n  b=2")
    assert {"a=c:\\x", "b=2"} <= set(converted.config["config"]["Env"])  # type: ignore[index]


def test_mark_of_byte_order_and_windows_line_ends_are_no_trouble(build: Build) -> None:
    converted = build("\ufeffFROM scratch\r\nUSER a\r\n")
    assert converted.config["config"]["User"] == "a"  # type: ignore[index]


def test_empty_continuation_line_is_warned_of(build: Build) -> None:
    (warning,) = build("FROM scratch\nRUN a \\\n\n  b\n").warnings
    assert warning.startswith("Dockerfile:4: Empty continuation line")


def test_onbuild_inside_a_heredoc_is_not_blamed_for_an_unknown_instruction(
    build: Build,
) -> None:
    with pytest.raises(DockerfileError, match="unknown instruction: NOPE"):
        build("FROM scratch\nRUN <<A\nONBUILD RUN <<B\nA\nNOPE\n")


@pytest.mark.parametrize(
    "line",
    [
        "# syntax=docker/dockerfile:1",
        "#syntax = docker/dockerfile:1.7-labs",
        "# escape=`\n# syntax=docker/dockerfile-upstream:master",
        "# syntax=mirror.example:5000/hub/docker/dockerfile@sha256:" + "0" * 64,
        "# a comment\n# syntax=example.org/mine",
        "# syntax",
    ],
)
def test_dockers_frontend_may_be_named_in_any_version(build: Build, line: str) -> None:
    given = {"BUILDKIT_SYNTAX": "docker/dockerfile:1"}
    assert build(f"{line}\nFROM scratch\n", build_args=given).warnings == ()


@pytest.mark.parametrize("above", ["", "#!/usr/bin/env x\n", "# check=skip=all\n"])
def test_another_frontend_is_refused_as_it_would_not_be_run(build: Build, above: str) -> None:
    with pytest.raises(DockerfileError, match="asks for a frontend, and none is run") as caught:
        build(f"{above}# syntax=example.org/dockerfile-x:1\nFROM scratch\n")
    assert caught.value.line == above.count("\n") + 1
    given = {"BUILDKIT_SYNTAX": "example.org/mine"}
    with pytest.raises(DockerfileError, match="--build-arg BUILDKIT_SYNTAX=example"):
        build("FROM scratch", build_args=given)


def test_checks_that_are_to_fail_a_build_are_said_not_to_be_made(build: Build) -> None:
    (warning,) = build(
        "# syntax=docker/dockerfile:1\n# check=skip=all; error=true\nFROM scratch"
    ).warnings
    assert warning.startswith("Dockerfile:2: # check=error=true: BuildKit's build checks")
    assert build("# check=skip=JSONArgsRecommended\nFROM scratch").warnings == ()
