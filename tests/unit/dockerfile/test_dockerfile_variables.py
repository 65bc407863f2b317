from collections.abc import Callable

import pytest

from solver.dockerfile import Converted, DockerfileError, Platform
from worker.wire.ops import ExecOp

Build = Callable[..., Converted]


def seen(converted: Converted) -> dict[str, str]:
    """Return what the last command sees but for PATH."""
    op = converted.graph.vertices[converted.graph.target].op
    assert isinstance(op, ExecOp)
    return {name: value for name, value in op.env if name != "PATH"}


FORMS = [
    ("$a", "value"),
    ("${a}", "value"),
    ("$unset", ""),
    ("x${a}y", "xvaluey"),
    ("\\$a", "$a"),
    ("'$a'", "$a"),
    ('"$a b"', "value b"),
    ("${unset:-w}", "w"),
    ("${empty:-w}", "w"),
    ("${empty-w}", ""),
    ("${a:-w}", "value"),
    ("${a:+w}", "w"),
    ("${empty:+w}", ""),
    ("${empty+w}", "w"),
    ("${unset+w}", ""),
    ("${unset:-${a}}", "value"),
    ("${a:?no}", "value"),
    ("${p#*/}", "b/c.tar.gz"),
    ("${p##*/}", "c.tar.gz"),
    ("${p%.*}", "a/b/c.tar"),
    ("${p%%.*}", "a/b/c"),
    ("${p/b/x}", "a/x/c.tar.gz"),
    (r"${p//\//-}", "a-b-c.tar.gz"),
]


@pytest.mark.parametrize(("form", "expected"), FORMS, ids=[f[0] for f in FORMS])
def test_variable_is_put_in(build: Build, form: str, expected: str) -> None:
    text = f"FROM scratch\nENV a=value empty= p=a/b/c.tar.gz\nENV result={form}\nRUN x"
    assert seen(build(text))["result"] == expected


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("${unset:?why not}", "unset: why not"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${a", "missing '}'"),
        ("${a!b}", "unsupported modifier"),
        ('"a', "looking for matching double-quote"),
    ],
)
def test_word_that_cannot_be_expanded_is_refused(build: Build, form: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        build(f"FROM scratch\nENV empty=\nENV result {form}")
    assert caught.value.line == 3
    assert message in caught.value.message


def test_values_are_those_before_the_instruction(build: Build) -> None:
    text = "FROM scratch\nENV a=1\nENV a=2 b=$a\nENV c=$a\nRUN x"
    assert seen(build(text)) == {"a": "2", "b": "1", "c": "2"}


def test_arguments_of_one_line_see_each_other(build: Build) -> None:
    assert seen(build("FROM scratch\nARG a=1 b=$a\nRUN x")) == {"a": "1", "b": "1"}


def test_argument_is_the_users_value_then_its_default(build: Build) -> None:
    text = "FROM scratch\nARG a=1\nARG b=2\nARG c\nARG d\nRUN x"
    args = {"a": "given", "c": "also"}
    assert seen(build(text, build_args=args)) == {"a": "given", "b": "2", "c": "also"}


def test_global_argument_is_seen_in_a_stage_only_where_it_is_declared(build: Build) -> None:
    text = "ARG a=1\nARG b=2\nFROM scratch\nARG a\nENV c=$b\nRUN x"
    assert seen(build(text)) == {"a": "1", "c": ""}


def test_argument_is_seen_from_its_line_on(build: Build) -> None:
    text = "FROM scratch\nENV early=$a\nARG a=1\nENV late=$a\nRUN x"
    assert seen(build(text)) == {"early": "", "late": "1", "a": "1"}


@pytest.mark.parametrize(
    ("order", "value"),
    [
        ("ARG a=arg\nENV a=env", "env"),
        ("ENV a=env\nARG a=arg", "arg"),
        ("ENV a=env\nARG a", "env"),
        ("ENV a=env\nARG a=arg\nENV a=${a}2", "arg2"),
        ("ENV a=env\nARG a=arg\nFROM p", "env"),
        ("ARG a=arg\nENV a=env\nFROM p\nARG a=again", "again"),
    ],
)
def test_of_a_variable_and_an_argument_of_one_name_the_later_counts(
    build: Build, order: str, value: str
) -> None:
    assert seen(build(f"FROM scratch AS p\n{order}\nRUN x")) == {"a": value}


def test_an_argument_counts_over_what_the_base_has_set_and_is_not_in_the_image(
    build: Build,
) -> None:
    image = {"config": {"Env": ["V=base"]}}
    text = "FROM alpine\nARG V\nENV W=$V\nRUN x"
    converted = build(text, image=image, build_args={"V": "given"})
    assert {"V": "given", "W": "given"}.items() <= seen(converted).items()
    assert {"V=base", "W=given"} <= set(converted.config["config"]["Env"])  # type: ignore[index]
    assert seen(build(text, image=image))["V"] == "base"


def test_arguments_end_with_their_stage_but_go_to_stages_on_it(build: Build) -> None:
    text = "FROM scratch AS p\nARG a=1\nENV e=1\nFROM {}\nENV b=$a\nRUN x"
    assert seen(build(text.format("p"))) == {"e": "1", "b": "1", "a": "1"}
    assert seen(build(text.format("scratch"))) == {"b": ""}


def test_platform_is_known_where_it_is_declared(build: Build) -> None:
    declared = "ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM TARGETSTAGE"
    text = f"FROM scratch AS t\n{declared}\nRUN x"
    platform = Platform("linux", "arm64", "v8")
    assert seen(build(text, platform=platform, target="t")) == {
        "TARGETPLATFORM": "linux/arm64/v8",
        "TARGETOS": "linux",
        "TARGETARCH": "arm64",
        "TARGETVARIANT": "v8",
        "BUILDPLATFORM": "linux/arm64/v8",
        "TARGETSTAGE": "t",
    }
    assert seen(build("FROM scratch\nENV a=$TARGETOS\nRUN x")) == {"a": ""}


def test_user_may_say_another_platform_to_what_asks_for_it(build: Build) -> None:
    text = "FROM base-$TARGETARCH"
    contexts = {"base-riscv64": "oci-layout"}
    graph = build(text, contexts=contexts, build_args={"TARGETARCH": "riscv64"}).graph
    assert graph.vertices[graph.target].name == "[1/1] FROM base-riscv64"


def test_global_argument_without_a_value_is_not_set(build: Build) -> None:
    text = "ARG a\nFROM scratch\nARG a\nENV b=${a-unset}\nRUN x"
    assert seen(build(text)) == {"b": "unset"}


def test_variables_of_a_stage_are_bounded(build: Build) -> None:
    for word in ("ENV", "ARG"):
        line = f"{word} " + " ".join(f"v{i}=1" for i in range(4096))
        with pytest.raises(DockerfileError, match="more than 4096 variables"):
            build(f"FROM scratch\nENV PATH=/p\n{line}")


def test_build_argument_that_nothing_asks_for_is_warned_of(build: Build) -> None:
    args = {"versoin": "1", "HTTP_PROXY": "p", "TARGETARCH": "arm64"}
    converted = build("FROM scratch\nARG version", build_args=args)
    assert converted.warnings == (
        "no ARG asks for the build argument versoin (did you mean version?)",
    )


def test_setting_of_buildkits_frontend_that_means_nothing_here_is_warned_of(
    build: Build,
) -> None:
    args = {
        "BUILDKIT_INLINE_CACHE": "1",
        "BUILDKIT_SANDBOX_HOSTNAME": "h",
        "BUILDKIT_MINE": "1",
    }
    assert build("FROM scratch\nARG BUILDKIT_MINE", build_args=args).warnings == (
        "the build argument BUILDKIT_SANDBOX_HOSTNAME changes nothing here",
    )


def test_values_that_double_again_and_again_are_refused(build: Build) -> None:
    lines = ["ENV a=" + "x" * 1000, *["ENV a=$a$a"] * 60]
    with pytest.raises(DockerfileError, match="expands to more than"):
        build("FROM scratch\n" + "\n".join(lines))
    with pytest.raises(DockerfileError, match="expands to more than"):
        build(f"FROM scratch\nENV a={'x' * 100_000}\nENV b={'$a' * 400_000}")


@pytest.mark.parametrize(
    "form",
    ["${a##" + "*x" * 20 + "y}", "${a//x/" + "y" * 100_000 + "}", "${a%" + "x" * 100_000 + "}"],
    ids=["backtracks", "replaces", "reverses"],
)
def test_pattern_that_costs_too_much_is_refused(build: Build, form: str) -> None:
    with pytest.raises(DockerfileError, match="Dockerfile:3: "):
        build(f"FROM scratch\nENV a={'x' * 10_000}\nENV b={form}")


@pytest.mark.parametrize("line", ["ENV =1", "ARG =1", "ENV $none=1", "ENV 'a=b'=1 "])
def test_variable_without_a_proper_name_is_refused(build: Build, line: str) -> None:
    with pytest.raises(DockerfileError):
        build(f"FROM scratch\n{line}\n{line}")
