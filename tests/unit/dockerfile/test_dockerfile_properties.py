import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filesync.command.quantities import format_duration, parse_duration
from solver.dockerfile import (
    BaseImage,
    Converted,
    DockerfileError,
    Options,
    convert,
    ignore_matcher,
)
from solver.graph import Graph, reachable
from worker.wire.ops import LocalOp

CONTEXTS = {"alpine": "oci-layout", "docs": "local"}

WORDS = """\
a b / . .. * ? [a] [ ] \\ $a ${a} ${a:-b} ${a#*b} ${a%%*} ${a//b/c} ${ $ ' " = , < > << <<EOF <<-b EOF
alpine docs stage scratch AS 0 1 NONE CMD --from=stage --from=0 --from=docs --link --chmod=755
--chmod=u+x --chown=1 --exclude=* --parents --unpack --mount=target=/a --mount=type=cache,target=/c
--mount=type=tmpfs,target=t,size=1m --network=none 80 80/tcp a=b a=$a ["a"] ["a","/b/"] [] #! é `"""
KEYWORDS = """\
ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL MAINTAINER RUN SHELL STOPSIGNAL USER VOLUME
WORKDIR ONBUILD EOF # run"""
HEADS = ["FROM alpine", "FROM scratch AS stage", "FROM scratch", "FROM stage", "ONBUILD COPY"]

words = st.sampled_from([*WORDS.split(), "\u2028", "\ufeff", "\x0b"])
keywords = st.sampled_from([*KEYWORDS.split(), *HEADS, "ONBUILD RUN", "# escape=`"])
spaces = st.sampled_from([" ", " ", " ", "\t", " \\\n", "`\n", "\n", "\r\n"])
lines = st.builds(
    lambda keyword, pairs, end: keyword + "".join(s + w for s, w in pairs) + end,
    keywords,
    st.lists(st.tuples(spaces, words), max_size=5),
    st.sampled_from(["\n", "\n", "\nEOF\n", "\nb\n", "\\\n", ""]),
)
dockerfiles = st.lists(lines, max_size=12).map(
    lambda made: "FROM scratch AS stage\n" + "".join(made)
)

SOUND = [
    "FROM scratch AS {n}",
    "FROM s",
    "FROM alpine AS {n}",
    "FROM docs",
    "COPY a b /c/",
    "COPY . .",
    "COPY --from=s /x /y",
    "COPY --from=alpine /x $A",
    "COPY --from=docs --exclude=*.o *.c /z/",
    "ADD a.tar ${{A:-/}}/",
    "COPY <<EOF /f\n$A\nEOF",
    "RUN make",
    "RUN <<EOF\n#!/bin/sh\nEOF",
    "RUN --mount=from=s,target=/m --mount=target=/c,source=d --mount=type=cache,target=k x",
    "ENV A=$A/x B={n}",
    "ARG A=/arg",
    "WORKDIR w",
    "USER {n}",
    "ONBUILD COPY --from=docs o /o",
    "EXPOSE 80",
    'ENTRYPOINT ["e"]',
]
sound_dockerfiles = st.lists(
    st.builds(str.format, st.sampled_from(SOUND), n=st.sampled_from("stu")), max_size=20
).map(lambda made: "\n".join(["FROM scratch AS s", "FROM s", *made, ""]))


class Images:
    def image(self, name: str) -> BaseImage | None:
        return BaseImage(
            name, "sha256:" + "0" * 64, {"config": {"Env": ["a=b"]}}, ("index.json",)
        )

    def registry_image(self, reference: str) -> BaseImage:
        return BaseImage("", "sha256:" + "1" * 64, {}, repository=f"a.io/{reference[:9]}")


def converted(text: str) -> Converted | None:
    """Return the graph, or None where the error says where it is."""
    options = Options(contexts=CONTEXTS, build_args={"a": "*x*"})
    try:
        return convert(text, filename="Dockerfile", options=options, images=Images())
    except DockerfileError as error:
        refusal = error
    assert str(refusal).startswith(f"Dockerfile:{refusal.line}: ")
    assert 1 <= refusal.line <= text.count("\n") + 1
    return None


def check(made: Converted) -> None:
    encoded = msgspec.msgpack.encode(made.graph)
    assert msgspec.msgpack.decode(encoded, type=Graph) == made.graph
    assert reachable(made.graph) == set(range(len(made.graph.vertices)))
    names = [v.op.name for v in made.graph.vertices if isinstance(v.op, LocalOp)]
    assert sorted(names) == sorted(made.selectors)
    msgspec.json.encode(made.config)


@given(st.text())
@example("FROM scratch\nCOPY <<\n")
@example("FROM scratch\nRUN 1" + "1" * 5000 + "<<EOF\nEOF\n")
@example('FROM scratch\nCMD ["\\ud800"]')
@example("FROM scratch\nENV a=${a" + "${a:-" * 20_000)
def test_any_text_gives_a_graph_or_an_error_with_a_line(text: str) -> None:
    if (made := converted(text)) is not None:
        check(made)


@given(dockerfiles)
@settings(max_examples=400, deadline=None)
def test_any_instructions_give_a_sound_graph_or_an_error_with_a_line(text: str) -> None:
    if (made := converted(text)) is not None:
        check(made)
        assert converted(text) == made


@given(sound_dockerfiles)
@settings(max_examples=200, deadline=None)
def test_sound_instructions_in_any_order_give_a_sound_graph(text: str) -> None:
    made = converted(text)
    assert made is not None
    check(made)


@given(st.text(), st.text())
def test_any_ignore_text_excludes_all_that_it_prunes(text: str, path: str) -> None:
    try:
        ignore = ignore_matcher(text)
    except DockerfileError:
        return
    if ignore.may_prune(path):
        assert ignore.excludes(path)


@given(st.integers(0, 2**62))
def test_duration_that_is_printed_reads_as_the_same(duration_ns: int) -> None:
    assert parse_duration(format_duration(duration_ns)) == duration_ns
