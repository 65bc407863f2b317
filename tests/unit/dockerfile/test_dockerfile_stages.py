from collections.abc import Callable

import pytest

from filesync.errors import LocalError, UsageError
from solver.dockerfile import BaseImage, Converted, DockerfileError, Options, Platform, convert
from solver.dockerfile.platform import parse_platform
from solver.graph import Vertex
from worker.wire.ops import ExecOp, FileOp, ImageOp, LocalOp, MakeDirectory, op_digest

Build = Callable[..., Converted]

MANIFEST = "sha256:" + "a" * 64
ALPINE = {"alpine": "oci-layout"}


def names(converted: Converted) -> list[str]:
    return [vertex.name for vertex in converted.graph.vertices]


def target(converted: Converted) -> Vertex:
    return converted.graph.vertices[converted.graph.target]


def test_every_vertex_is_named_as_buildkit_prints_it(build: Build) -> None:
    converted = build(
        "FROM alpine AS build\nWORKDIR /src\nCOPY . .\nRUN make\n"
        "FROM scratch\nCOPY --from=build /out/app /app\n",
        contexts=ALPINE,
    )
    assert names(converted) == [
        "[internal] load context alpine",
        "[build 1/4] FROM alpine",
        "[build 2/4] WORKDIR /src",
        "[internal] load build context",
        "[build 3/4] COPY . .",
        "[build 4/4] RUN make",
        "[stage-1 1/1] COPY --from=build /out/app /app",
    ]
    assert [v.stage for v in converted.graph.vertices[4:]] == ["build", "build", "stage-1"]


def test_only_stage_is_not_named_in_its_vertices(build: Build) -> None:
    assert names(build("FROM scratch\nRUN a\nRUN b")) == ["[1/2] RUN a", "[2/2] RUN b"]


def test_numbers_are_aligned_from_ten_steps_on(build: Build) -> None:
    converted = build("FROM scratch\n" + "RUN a\n" * 10)
    assert names(converted)[0] == "[ 1/10] RUN a"


def test_only_what_the_target_needs_is_in_the_graph(build: Build) -> None:
    converted = build(
        "FROM scratch AS unused\nCOPY unused /\nFROM debian AS broken\n"
        "FROM scratch AS wanted\nRUN wanted\nFROM scratch\nRUN last",
        target="wanted",
    )
    assert names(converted) == ["[wanted 1/1] RUN wanted"]
    assert converted.selectors == {}


@pytest.mark.parametrize("chosen", ["second", "SECOND", "1"])
def test_target_is_a_name_in_any_case_or_a_number(build: Build, chosen: str) -> None:
    text = "FROM scratch\nRUN a\nFROM scratch AS Second\nRUN b\nFROM scratch\nRUN c"
    op = target(build(text, target=chosen)).op
    assert isinstance(op, ExecOp)
    assert op.args[-1] == "b"


@pytest.mark.parametrize("base", ["build", "Build", "0"])
def test_stage_starts_from_an_earlier_one_by_name_or_number(build: Build, base: str) -> None:
    converted = build(f"FROM scratch AS build\nRUN a\nFROM {base}\nRUN b")
    assert [vertex.inputs for vertex in converted.graph.vertices] == [(), (0,)]


def test_stage_that_only_names_its_base_is_its_base(build: Build) -> None:
    converted = build("FROM scratch AS build\nRUN a\nFROM build AS same\nFROM same")
    assert names(converted) == ["[build 1/1] RUN a"]


def test_target_with_nothing_in_it_is_an_empty_tree(build: Build) -> None:
    op = target(build("FROM scratch")).op
    assert op == FileOp((MakeDirectory("/"),), scratch=True)


def test_what_is_copied_from_an_empty_stage_comes_from_an_empty_tree(build: Build) -> None:
    converted = build("FROM scratch AS none\nFROM scratch\nCOPY --from=none /* /x/")
    assert converted.graph.vertices[0].op == FileOp((MakeDirectory("/"),), scratch=True)


def test_named_image_is_a_local_context_and_an_image_on_it(build: Build) -> None:
    converted = build("FROM alpine", contexts=ALPINE)
    context, image = converted.graph.vertices
    assert isinstance(context.op, LocalOp)
    assert context.op.name == "alpine"
    assert (context.op.content, context.op.tree) == (bytes(32), bytes(32))
    assert image.op == ImageOp("sha256:" + "a" * 64)
    assert image.inputs == (0,)


@pytest.mark.parametrize("name", ["alpine", "alpine:latest", "docker.io/library/alpine"])
def test_image_is_found_under_each_of_its_names(build: Build, name: str) -> None:
    assert isinstance(target(build(f"FROM {name}", contexts=ALPINE)).op, ImageOp)


def test_named_directory_can_be_a_base(build: Build) -> None:
    converted = build("FROM files\nRUN a", contexts={"files": "local"})
    assert converted.graph.vertices[1].inputs == (0,)
    assert [pick.path for pick in converted.selectors["files"].picks] == ["/"]


def test_named_context_takes_the_place_of_a_stage(build: Build) -> None:
    converted = build(
        "FROM debian AS build\nRUN make\nFROM scratch\nCOPY --from=build /a /a",
        contexts={"BUILD": "local"},
    )
    assert isinstance(converted.graph.vertices[0].op, LocalOp)
    assert [pick.path for pick in converted.selectors["BUILD"].picks] == ["/a"]


def test_image_that_two_stages_use_is_there_once(build: Build) -> None:
    converted = build(
        "FROM alpine AS a\nRUN a\nFROM alpine\nCOPY --from=a /a /\nCOPY --from=alpine /b /",
        contexts=ALPINE,
    )
    kinds = [type(vertex.op) for vertex in converted.graph.vertices]
    assert kinds.count(LocalOp) == kinds.count(ImageOp) == 1


def test_every_stage_may_read_a_context_that_is_loaded_once(build: Build) -> None:
    converted = build(
        "FROM scratch AS a\nCOPY x /\nFROM scratch\nCOPY y /\nCOPY --from=a /x /z",
    )
    assert names(converted).count("[internal] load build context") == 1


def test_arguments_before_the_first_from_are_put_into_froms(build: Build) -> None:
    text = "ARG BASE=alp\nARG NAME=${BASE}ine\nFROM ${NAME}"
    assert isinstance(target(build(text, contexts=ALPINE)).op, ImageOp)
    with pytest.raises(DockerfileError, match=r"Dockerfile:3: it is not there"):
        build(text, contexts=ALPINE, build_args={"NAME": "nothing"})


@pytest.mark.parametrize(
    "platform", ["linux/amd64", "$TARGETPLATFORM", "linux", "linux/x86_64"]
)
def test_platform_of_a_from_may_be_the_one_that_is_built_for(
    build: Build, platform: str
) -> None:
    build(f"FROM --platform={platform} scratch")


def test_platform_other_than_the_one_that_is_built_for_is_refused(build: Build) -> None:
    with pytest.raises(DockerfileError, match="other than linux/amd64 is not supported yet"):
        build("FROM --platform=linux/arm64 scratch")
    build("FROM --platform=linux/arm64 scratch", platform=Platform("linux", "arm64", "v8"))


def test_image_for_another_platform_is_warned_of(build: Build) -> None:
    image = {"os": "linux", "architecture": "s390x"}
    converted = build("FROM alpine", contexts=ALPINE, image=image)
    assert converted.warnings == (
        "Dockerfile:1: the image alpine is for linux/s390x, not linux/amd64",
    )


def test_placement_is_on_every_vertex_of_its_stage(build: Build) -> None:
    gpu = (("gpu", "yes"),)
    converted = build(
        "FROM alpine AS train\nCOPY . .\nRUN train\nFROM alpine\nCOPY --from=train /m /",
        contexts=ALPINE,
        place={"train": gpu, "1": (("zone", "a"),)},
    )
    by_name = {vertex.name: vertex.constraints for vertex in converted.graph.vertices}
    assert by_name["[train 3/3] RUN train"] == gpu
    assert by_name["[train 1/3] FROM alpine"] == gpu
    assert by_name["[stage-1 1/2] FROM alpine"] == (("zone", "a"),)
    assert by_name["[internal] load build context"] == ()


def test_no_cache_runs_every_step_anew(build: Build) -> None:
    converted = build("FROM scratch\nCOPY . .\nRUN a", no_cache=True)
    assert [v.ignore_cache for v in converted.graph.vertices] == [False, True, True]


def test_stages_can_be_named_that_run_every_step_anew(build: Build) -> None:
    text = "FROM scratch AS One\nCOPY a .\nFROM one AS two\nCOPY b .\nFROM two\nCOPY c ."
    converted = build(text, no_cache_stages=("ONE", "2"))
    fresh = {v.stage: v.ignore_cache for v in converted.graph.vertices if v.stage}
    assert fresh == {"one": True, "two": False, "stage-2": True}
    with pytest.raises(UsageError, match="--no-cache-filter: there is no stage 'thre'"):
        build(text, no_cache_stages=("thre",))


def test_triggers_of_a_base_image_run_first(build: Build) -> None:
    image = {"config": {"OnBuild": ["COPY . /src", "RUN make"]}}
    converted = build("FROM alpine\nRUN test", contexts=ALPINE, image=image)
    assert names(converted)[-3:] == [
        "[2/4] ONBUILD COPY . /src",
        "[3/4] ONBUILD RUN make",
        "[4/4] RUN test",
    ]
    assert "OnBuild" not in str(converted.config)


def test_triggers_of_a_stage_run_in_the_stage_on_it_only(build: Build) -> None:
    converted = build(
        "FROM scratch AS a\nONBUILD RUN one\nFROM a AS b\nRUN two\nFROM b\nRUN three"
    )
    assert names(converted) == [
        "[b 1/2] ONBUILD RUN one",
        "[b 2/2] RUN two",
        "[stage-2 1/1] RUN three",
    ]


def test_trigger_may_read_a_stage_that_nothing_else_needs(build: Build) -> None:
    converted = build(
        "FROM scratch AS tools\nRUN t\nFROM scratch AS a\nONBUILD COPY --from=tools /t /\nFROM a"
    )
    assert names(converted)[0] == "[tools 1/1] RUN t"


def test_resolver_is_asked_once_and_only_for_what_is_needed() -> None:
    asked = []

    class Images:
        def image(self, name: str) -> BaseImage | None:
            asked.append(name)
            return BaseImage(name, "sha256:" + "b" * 64, {}, ("index.json",))

        def registry_image(self, reference: str) -> BaseImage:
            raise LocalError(f"nobody named {reference}")

    text = "FROM a AS x\nFROM b AS y\nFROM b\nCOPY --from=b / /\nCOPY --from=y / /"
    options = Options(contexts={"a": "oci-layout", "b": "oci-layout"})
    convert(text, filename="Dockerfile", options=options, images=Images())
    assert asked == ["b"]


REFUSED = [
    ("FROM Alpine", 1, "FROM 'Alpine' names no image"),
    ("FROM a@sha256:0", 1, "a digest is sha256: and 64 hex digits"),
    ("FROM nothing", 1, "it is not there"),
    ("FROM scratch AS 1a", 1, "'1a' cannot name a stage"),
    ("FROM scratch IN b", 1, "FROM is followed by a name"),
    ("FROM", 1, "FROM is followed by a name"),
    ("FROM $nothing", 1, "FROM $nothing names nothing"),
    ("FROM scratch AS build\nFROM nothing/biuld", 2, "it is not there"),
    ("FROM scratch AS nothing2\nFROM nothing1", 2, "not there (did you mean nothing2?)"),
    ("RUN a\nFROM scratch", 1, "RUN before the first FROM; only ARG may be"),
    ("ARG a=1", 1, "there is no FROM"),
    ("# nothing", 1, "the Dockerfile is empty"),
    ("FROM scratch AS a\nCOPY --from=b / /\nFROM scratch AS b\nFROM a", 2, "an earlier stage"),
    ("FROM scratch AS a\nCOPY --from=a / /", 2, "an earlier stage"),
    ("FROM scratch\nCOPY --from=0 / /", 2, "an earlier stage"),
    ("FROM scratch\nFROM scratch\nCOPY --from=2 / /", 3, "the last stage is number 1"),
    ("FROM scratch\nCOPY --from=$x / /", 2, "a variable cannot be used here"),
    ("FROM --platform=a/b/c/d scratch", 1, "'a/b/c/d' is not a platform"),
    ("FROM --platform=linux//v8 scratch", 1, "'linux//v8' is not a platform"),
    ("FROM scratch\n" * 257, 257, "more than 256 stages"),
]


def test_a_guess_belongs_to_a_name_that_was_looked_for_and_not_found(build: Build) -> None:
    with pytest.raises(DockerfileError, match="cannot be reached") as caught:
        build("FROM scratch AS away2\nFROM away1")
    assert "did you mean" not in caught.value.message


@pytest.mark.parametrize(("text", "line", "message"), REFUSED, ids=[r[2] for r in REFUSED])
def test_stage_that_cannot_be_is_refused_with_its_line(
    build: Build, text: str, line: int, message: str
) -> None:
    with pytest.raises(DockerfileError) as caught:
        build(text)
    assert caught.value.line == line
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "biuld"}, "--target: there is no stage 'biuld' (did you mean build?)"),
        ({"target": "2"}, "--target: there is no stage '2'"),
        ({"target": "7"}, "--target: there is no stage '7'"),
        (
            {"place": {"tets": (("a", "b"),)}},
            "--place: there is no stage 'tets' (did you mean test?)",
        ),
    ],
)
def test_options_that_name_no_stage_are_refused(
    build: Build, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build("FROM scratch AS build\nFROM scratch AS test", **options)
    assert str(caught.value) == f"{message}; there are build, test"


def test_base_image_with_a_bad_configuration_or_trigger_is_refused(build: Build) -> None:
    for image, message in (
        ({"config": {"Env": "A=1"}}, "the image configuration of alpine is not valid"),
        ({"config": {"Env": ["=1"]}}, "the name of a variable cannot be empty"),
        ({"config": {"OnBuild": ["FROM x"]}}, "ONBUILD FROM is not allowed"),
        ({"config": {"OnBuild": ["RUNN x"]}}, "unknown instruction: RUNN"),
    ):
        with pytest.raises(DockerfileError, match=message) as caught:
            build("FROM alpine", contexts=ALPINE, image=image)
        assert caught.value.line == 1


def test_stage_may_have_the_name_of_the_image_that_it_or_an_earlier_one_is_made_of(
    build: Build,
) -> None:
    text = "FROM nginx\nRUN a\nFROM nginx AS nginx\nCOPY --from=0 /a /b"
    assert names(build(text, image={}))[1:3] == [
        "[stage-0 2/2] RUN a",
        "[nginx 2/2] COPY --from=0 /a /b",
    ]


def test_image_that_is_not_there_may_have_been_meant_for_a_later_stage(build: Build) -> None:
    with pytest.raises(DockerfileError) as caught:
        build("FROM nothing\nFROM scratch AS nothing\nFROM 0")
    assert caught.value.line == 1
    assert caught.value.message == "it is not there; a stage can only read an earlier stage"


DIGEST = "sha256:" + "d" * 64


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("alpine", "docker.io/library/alpine"),
        ("ghcr.io/a/b:v1", "ghcr.io/a/b"),
        (f"localhost:5000/a@{DIGEST}", "localhost:5000/a"),
    ],
)
def test_name_of_nothing_else_is_an_image_in_a_registry(
    build: Build, name: str, repository: str
) -> None:
    converted = build(f"FROM {name}", image={"config": {"Env": ["A=1"]}})
    (vertex,) = converted.graph.vertices
    assert vertex.op == ImageOp(MANIFEST, repository)
    assert vertex.inputs == ()
    assert converted.selectors == {}
    assert "A=1" in converted.config["config"]["Env"]  # type: ignore[index]


def test_two_images_with_one_manifest_are_read_each_from_its_own_repository(
    build: Build,
) -> None:
    graph = build("FROM a.io/x\nCOPY --from=b.io/x /a /a").graph
    ops = [v.op for v in graph.vertices if isinstance(v.op, ImageOp)]
    assert sorted(op.repository for op in ops) == ["a.io/x", "b.io/x"]


def test_image_in_a_registry_is_copied_from_and_mounted(build: Build) -> None:
    text = "FROM scratch\nCOPY --from=b.io/x /a /a\nRUN --mount=from=b.io/x,target=/b x"
    graph = build(text).graph
    images = [v for v in graph.vertices if isinstance(v.op, ImageOp)]
    assert [v.op for v in images] == [ImageOp(MANIFEST, "b.io/x")]


def test_named_context_stands_for_an_image_in_a_registry(build: Build) -> None:
    contexts = {"alpine": "docker-image://mirror.io/alpine:edge"}
    (vertex,) = build("FROM alpine", contexts=contexts).graph.vertices
    assert vertex.op == ImageOp(MANIFEST, "mirror.io/alpine")


@pytest.mark.parametrize(
    "name", ["alpine:latest", "docker.io/library/alpine", "library/Alpine"]
)
def test_named_context_stands_for_all_that_its_name_is_short_for(
    build: Build, name: str
) -> None:
    graph = build(f"FROM {name}", contexts=ALPINE).graph
    assert [type(v.op) for v in graph.vertices] == [LocalOp, ImageOp]


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("Linux/AMD64", Platform("linux", "amd64")),
        ("riscv64", Platform("freebsd", "riscv64")),
        ("windows", Platform("windows", "arm", "v6")),
    ],
)
def test_platform_takes_from_the_usual_one_what_it_leaves_out(
    text: str, platform: Platform
) -> None:
    assert parse_platform(text, Platform("freebsd", "arm", "v6")) == platform


def test_image_is_one_op_wherever_it_comes_from() -> None:
    assert op_digest(ImageOp(MANIFEST, "a.io/x")) == op_digest(ImageOp(MANIFEST))


def test_context_without_an_image_is_refused() -> None:
    class NoImages:
        def image(self, name: str) -> BaseImage | None:
            return None

        def registry_image(self, reference: str) -> BaseImage:
            raise LocalError(f"nobody named {reference}")

    options = Options(contexts=ALPINE)
    with pytest.raises(DockerfileError, match="no image behind the context alpine"):
        convert("FROM alpine", filename="Dockerfile", options=options, images=NoImages())
