from collections.abc import Callable
from typing import Any

import pytest

from solver.dockerfile import Converted, DockerfileError
from worker.wire.ops import ExecOp, FileOp, MakeDirectory

Build = Callable[..., Converted]


def config(converted: Converted) -> Any:  # noqa: ANN401 - JSON
    return converted.config["config"]


def created_by(converted: Converted) -> list[str]:
    history: Any = converted.config["history"]
    return [entry["created_by"] for entry in history]


SETTINGS = [
    ("ENV a=1 b='x y'", "Env", ["PATH=/p", "a=1", "b=x y"]),
    ("ENV PATH=/x:$PATH", "Env", ["PATH=/x:/p"]),
    ("ENV a b c", "Env", ["PATH=/p", "a=b c"]),
    ("LABEL a=1 b='$PATH' \"c d\"=$PATH", "Labels", {"a": "1", "b": "$PATH", "c d": "/p"}),
    ("CMD a b", "Cmd", ["/bin/sh", "-c", "a b"]),
    ('CMD ["a", "b"]', "Cmd", ["a", "b"]),
    ("ENTRYPOINT a b", "Entrypoint", ["/bin/sh", "-c", "a b"]),
    ('ENTRYPOINT ["a"]', "Entrypoint", ["a"]),
    ("USER $PATH", "User", "/p"),
    (
        "EXPOSE 80/ 53/UDP 8000-8001/tcp",
        "ExposedPorts",
        {"80/tcp", "53/udp", "8000/tcp", "8001/tcp"},
    ),
    ('VOLUME ["/a", " /b c\\n"]', "Volumes", {"/a", "/b c"}),
    ("VOLUME /a $PATH", "Volumes", {"/a", "/p"}),
    ("STOPSIGNAL SIGKILL", "StopSignal", "SIGKILL"),
    ("STOPSIGNAL rtmin+3", "StopSignal", "rtmin+3"),
    ("STOPSIGNAL 9", "StopSignal", "9"),
    ('SHELL ["a", "-b"]', "Shell", ["a", "-b"]),
    ("WORKDIR a/../b", "WorkingDir", "/b"),
    ("HEALTHCHECK NONE", "Healthcheck", {"Test": ["NONE"]}),
    ("HEALTHCHECK --interval=5s NONE", "Healthcheck", {"Test": ["NONE"]}),
    (
        "HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=1.5s --start-interval=0s"
        " --retries=3 CMD curl x",
        "Healthcheck",
        {
            "Test": ["CMD-SHELL", "curl x"],
            "Interval": 90 * 10**9,
            "Timeout": 5 * 10**8,
            "StartPeriod": 15 * 10**8,
            "Retries": 3,
        },
    ),
    ('HEALTHCHECK CMD ["a", "b"]', "Healthcheck", {"Test": ["CMD", "a", "b"]}),
    ("ONBUILD RUN a $b", "OnBuild", ["RUN a $b"]),
]


@pytest.mark.parametrize(("line", "key", "value"), SETTINGS, ids=[s[0] for s in SETTINGS])
def test_instruction_sets_the_images_configuration(
    build: Build, line: str, key: str, value: object
) -> None:
    made = config(build(f"FROM scratch\nENV PATH=/p\n{line}"))[key]
    assert (set(made) if isinstance(value, set) else made) == value


def test_what_instructions_list_is_added_to_what_is_listed(build: Build) -> None:
    made = config(
        build(
            "FROM scratch\nVOLUME /a\nVOLUME /b\nEXPOSE 1\nEXPOSE 2\nONBUILD RUN a\nONBUILD RUN b"
        )
    )
    assert set(made["Volumes"]) == {"/a", "/b"}
    assert set(made["ExposedPorts"]) == {"1/tcp", "2/tcp"}
    assert made["OnBuild"] == ["RUN a", "RUN b"]


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("8080:80", {"80/tcp"}),
        (":80/udp", {"80/udp"}),
        ("1-2:3-4", {"3/tcp", "4/tcp"}),
        ("127.0.0.1:8080:80", {"80/tcp"}),
        ("[::1]::80", {"80/tcp"}),
        ("::1:80:80", {"80/tcp"}),
    ],
)
def test_where_a_port_is_published_is_left_out_and_told(
    build: Build, word: str, ports: set[str]
) -> None:
    converted = build(f"FROM scratch\nEXPOSE {word} 9")
    assert set(config(converted)["ExposedPorts"]) == ports | {"9/tcp"}
    (warning,) = converted.warnings
    assert warning.startswith(f"Dockerfile:2: EXPOSE {word}: where a port is published")


def test_there_is_always_a_path(build: Build) -> None:
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert config(build("FROM scratch\nUSER a"))["Env"] == [path]


def test_configuration_of_the_base_goes_on(build: Build) -> None:
    image = {
        "created": "2020-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}],
        "config": {"Env": ["A=1"], "Labels": {"a": "1"}, "Cmd": ["x"], "Volumes": None},
    }
    converted = build("FROM i\nLABEL b=2", contexts={"i": "oci-layout"}, image=image)
    assert config(converted)["Labels"] == {"a": "1", "b": "2"}
    assert config(converted)["Cmd"] == ["x"]
    assert created_by(converted) == ["base", "LABEL b=2"]
    assert converted.config.keys() == {"architecture", "os", "config", "history"}


def test_times_are_those_of_the_base_and_the_epoch_for_what_was_added(build: Build) -> None:
    image = {
        "created": "2020-01-01T00:00:00Z",
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}],
    }
    text = "FROM i AS a\nLABEL b=2\nFROM a\nCOPY c c"
    converted = build(text, contexts={"i": "oci-layout"}, image=image, epoch_s=1)
    history: Any = converted.config["history"]
    ours = "1970-01-01T00:00:01Z"
    assert [entry["created"] for entry in history] == ["2020-01-01T00:00:00Z", ours, ours]
    assert converted.config["created"] == ours


def test_labels_of_the_user_are_above_those_of_the_dockerfile(build: Build) -> None:
    text = "FROM scratch AS a\nLABEL a=1 b=2\nFROM a"
    converted = build(text, labels={"b": "3", "c": ""})
    assert config(converted)["Labels"] == {"a": "1", "b": "3", "c": ""}
    assert config(build("FROM scratch", labels={"a": "1"}))["Labels"] == {"a": "1"}
    assert created_by(converted) == ["LABEL a=1 b=2", "FROM scratch"]


def test_source_date_epoch_needs_no_arg(build: Build) -> None:
    given = {"SOURCE_DATE_EPOCH": "1"}
    assert build("FROM scratch\nRUN x", build_args=given).warnings == ()
    (vertex,) = build(
        "FROM scratch\nARG SOURCE_DATE_EPOCH\nRUN x", build_args=given
    ).graph.vertices
    assert isinstance(vertex.op, ExecOp)
    assert ("SOURCE_DATE_EPOCH", "1") in vertex.op.env


def test_entrypoint_drops_the_command_of_the_base_but_not_its_own_stages(build: Build) -> None:
    text = 'FROM scratch AS a\nCMD ["x"]\nFROM a\n'
    assert config(build(text))["Cmd"] == ["x"]
    assert "Cmd" not in config(build(text + 'ENTRYPOINT ["e"]'))
    assert config(build(text + 'CMD ["y"]\nENTRYPOINT ["e"]'))["Cmd"] == ["y"]


def test_stage_does_not_change_the_stage_it_starts_from(build: Build) -> None:
    text = "FROM scratch AS a\nENV x=1\nLABEL l=1\nFROM a AS b\nENV x=2\nLABEL l=2\nFROM a"
    assert "x=1" in config(build(text))["Env"]
    assert config(build(text))["Labels"] == {"l": "1"}


def test_history_is_what_buildkit_writes(build: Build) -> None:
    converted = build(
        "FROM scratch\nARG V=1\nENV A=b\nWORKDIR /w\nCOPY --chown=1 a b /c/\n"
        'RUN make "$V"\nEXPOSE 80 443\nVOLUME /v\nCMD ["a", "b\\n"]\nSHELL ["/bin/sh"]\n'
        "HEALTHCHECK --interval=90s --timeout=250ms CMD x\nUSER u\nSTOPSIGNAL 9\nWORKDIR /\n"
        'MAINTAINER A B\nENTRYPOINT ["e"]\nCOPY --parents --chmod=600 a /\n'
    )
    assert created_by(converted) == [
        "ARG V=1",
        "ENV A=b",
        "WORKDIR /w",
        "COPY --chown=1 a b /c/ # buildkit",
        'RUN |1 V=1 /bin/sh -c make "$V" # buildkit',
        "EXPOSE [443/tcp 80/tcp]",
        "VOLUME [/v]",
        'CMD ["a" "b\\n"]',
        "SHELL [/bin/sh]",
        r"""HEALTHCHECK &{["CMD-SHELL" "x"] "1m30s" "250ms" "0s" "0s" '\x00'}""",
        "USER u",
        "STOPSIGNAL 9",
        "WORKDIR /",
        "MAINTAINER A B",
        'ENTRYPOINT ["e"]',
        "COPY --parents --chmod=600 a / # buildkit",
    ]
    history: Any = converted.config["history"]
    layers = [e["created_by"].split()[0] for e in history if not e.get("empty_layer")]
    assert layers == ["WORKDIR", "COPY", "RUN", "COPY"]


def test_what_cannot_be_printed_is_in_the_history_as_go_writes_it(build: Build) -> None:
    text = r'CMD ["\u0001\u0007\u007f\u0085\u200b\udb40\udc01"]'
    written = r'CMD ["\x01\a\x7f\u0085\u200b\U000e0001"]'
    assert created_by(build(f"FROM scratch\n{text}"))[0] == written


@pytest.mark.parametrize(
    ("retries", "written"),
    [
        (0, r"\x00"),
        (7, r"\a"),
        (39, r"\'"),
        (34, '"'),
        (65, "A"),
        (127, r"\x7f"),
        (1 << 21, "\ufffd"),
        (0xD800, "\ufffd"),
        (0xE000, r"\ue000"),
    ],
)
def test_number_of_retries_is_in_the_history_as_go_quotes_a_character(
    build: Build, retries: int, written: str
) -> None:
    converted = build(f"FROM scratch\nHEALTHCHECK --retries={retries} CMD x")
    assert created_by(converted)[0].endswith(f""" "0s" '{written}'}}""")


def test_working_directory_is_made_for_the_user_of_the_moment(build: Build) -> None:
    converted = build("FROM scratch\nUSER me\nWORKDIR /a\nWORKDIR b\nWORKDIR /")
    assert [vertex.op for vertex in converted.graph.vertices] == [
        FileOp((MakeDirectory("/a", owner="me"),), scratch=True),
        FileOp((MakeDirectory("/a/b", owner="me"),)),
    ]


def test_maintainer_is_the_author_with_a_warning(build: Build) -> None:
    converted = build("FROM scratch\nMAINTAINER A B")
    assert converted.config["author"] == "A B"
    assert converted.warnings[0].startswith("Dockerfile:2: MAINTAINER is deprecated")


REFUSED = [
    ("ONBUILD", "ONBUILD needs an instruction"),
    ("ONBUILD ONBUILD RUN a", "ONBUILD ONBUILD is not allowed"),
    ("ONBUILD FROM a", "ONBUILD FROM is not allowed"),
    ("ONBUILD MAINTAINER a", "ONBUILD MAINTAINER is not allowed"),
    ("ONBUILD RUN <<EOF\necho a\nEOF", "a here-document after ONBUILD is not supported yet"),
    ("ONBUILD COPY a <<-E /\nRUN b\n\tE", "a here-document after ONBUILD is not supported"),
    ("ONBUILD RUNN a", "unknown instruction after ONBUILD: RUNN (did you mean RUN?)"),
    ("EXPOSE", "EXPOSE needs at least one argument"),
    ("EXPOSE http", "'http' is not a port"),
    ("EXPOSE 70000", "'70000' is not a port"),
    ("EXPOSE localhost:1:80", "'localhost:1:80' is not a port"),
    ("EXPOSE http:80", "'http:80' is not a port"),
    ("EXPOSE 2-1", "'2-1' is not a port"),
    ("EXPOSE " + "1-65535 " * 3, "more than 131072 ports"),
    ("EXPOSE 80/icmp", "'80/icmp' is not a port"),
    ('VOLUME [""]', "a VOLUME cannot be empty"),
    ('VOLUME [" "]', "a VOLUME cannot be empty"),
    ("STOPSIGNAL SIGTREM", "'SIGTREM' is not a signal (did you mean SIGTERM?)"),
    ("STOPSIGNAL 99", "'99' is not a signal"),
    ("SHELL /bin/sh", "SHELL is followed by a JSON array"),
    ("HEALTHCHECK", "HEALTHCHECK is followed by CMD or NONE"),
    ("HEALTHCHECK curl", "HEALTHCHECK is followed by CMD or NONE, not curl"),
    ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes nothing else"),
    ("HEALTHCHECK CMD", "HEALTHCHECK CMD needs a command"),
    ("HEALTHCHECK --interval=5 CMD x", "'5' is not a duration"),
    ("HEALTHCHECK --interval=5us CMD x", "--interval cannot be less than 1ms"),
    ("HEALTHCHECK --retries=-1 CMD x", "--retries is a number"),
    ("LABEL ''=1", "the name of a label cannot be empty"),
    ("CMD", "CMD needs at least one argument"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_setting_that_cannot_be_is_refused(build: Build, line: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        build(f"FROM scratch\n{line}\n")
    assert caught.value.line == 2
    assert message in caught.value.message


def test_ports_of_many_instructions_are_bounded_together(build: Build) -> None:
    with pytest.raises(DockerfileError, match="more than 524288 ports") as caught:
        build("FROM scratch\n" + "EXPOSE 1-65535\n" * 9)
    assert caught.value.line == 10


BASE_LAYER, BASE_SETTING = {"created_by": "layer"}, {"created_by": "ENV", "empty_layer": True}


@pytest.mark.parametrize(
    ("history", "layers", "tells_of_layers"),
    [
        ([BASE_LAYER, BASE_SETTING], 1, [True, False]),
        (None, 2, [True, True]),
        ([BASE_SETTING], 1, [False, True]),
        ([BASE_LAYER, BASE_SETTING, BASE_LAYER, BASE_LAYER], 2, [True, False, True, False]),
        ([BASE_LAYER], 0, [False]),
    ],
)
def test_the_history_of_a_base_image_is_made_to_fit_its_layers(
    build: Build, history: object, layers: int, tells_of_layers: list[bool]
) -> None:
    made = build("FROM a.io/b\nRUN x\n", image={"history": history}, layers=layers)
    told: Any = made.config["history"]
    assert [not entry.get("empty_layer", False) for entry in told] == [*tells_of_layers, True]


def test_what_a_base_image_says_with_null_it_does_not_say(build: Build) -> None:
    settings = {"Env": None, "User": None, "WorkingDir": None, "Volumes": None, "Labels": None}
    image = {"author": None, "config": settings, "history": None}
    made = build("FROM a.io/b\nENV a=1\n", image=image)
    assert set(config(made)) == {"Env"}
    assert config(made)["Env"][1:] == ["a=1"]
    assert build("FROM a.io/b\n", image={"config": None}).config["os"] == "linux"


def test_an_image_without_layers_is_as_nothing_and_keeps_its_settings(build: Build) -> None:
    image = {"config": {"User": "me"}}
    made = build("FROM a.io/b\nCOPY x /\n", image=image, layers=0)
    assert config(made)["User"] == "me"
    (copy,) = (v for v in made.graph.vertices if isinstance(v.op, FileOp))
    assert isinstance(copy.op, FileOp)
    assert copy.op.scratch
    assert copy.name == "[1/1] COPY x /"
    made = build("FROM scratch\nCOPY --from=a.io/b / /x\n", image=image, layers=0)
    assert [type(vertex.op) for vertex in made.graph.vertices] == [FileOp, FileOp]
