from collections.abc import Callable

import pytest

from solver.dockerfile import Converted, DockerfileError
from worker.wire.ops import (
    BindMount,
    CacheMount,
    ExecOp,
    Mount,
    Network,
    SecretMount,
    Sharing,
    SshMount,
    TmpfsMount,
)

Build = Callable[..., Converted]

PATH = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def last(converted: Converted) -> ExecOp:
    op = converted.graph.vertices[converted.graph.target].op
    assert isinstance(op, ExecOp)
    return op


def test_text_is_run_by_the_shell(build: Build) -> None:
    op = last(build('FROM scratch\nRUN echo "$A" \\\n  && b'))
    assert op == ExecOp(("/bin/sh", "-c", 'echo "$A"   && b'), env=(PATH,), scratch=True)


def test_shell_can_be_changed(build: Build) -> None:
    op = last(build('FROM scratch\nSHELL ["/bin/bash", "-ec"]\nRUN a'))
    assert op.args == ("/bin/bash", "-ec", "a")


def test_json_is_run_as_it_is(build: Build) -> None:
    op = last(build('FROM scratch\nENV A=1\nRUN ["echo", "$A", "a  b"]'))
    assert op.args == ("echo", "$A", "a  b")


def test_lone_heredoc_is_what_the_shell_runs(build: Build) -> None:
    converted = build("FROM scratch\nRUN <<-EOF\n\ta\n\t$b\n\tEOF\n")
    assert last(converted).args == ("/bin/sh", "-c", "a\n$b\n")
    assert last(converted).files == ()
    assert converted.graph.vertices[0].name == "[1/1] RUN <<-EOF (a...)"


def test_heredoc_with_an_interpreter_is_a_script(build: Build) -> None:
    op = last(build("FROM scratch\nRUN <<run\n#!/usr/bin/python3\nprint(1)\nrun\n"))
    assert op.args == ("/bin/sh", "-c", "/dev/pipes/run")
    assert op.files == (("run", "#!/usr/bin/python3\nprint(1)\n"),)


def test_heredocs_of_a_command_are_left_to_the_shell(build: Build) -> None:
    op = last(build("FROM scratch\nRUN python3 <<'A' && cat <<-B >/x\nprint(1)\nA\n\tb\nB\n"))
    text = "python3 <<'A' && cat <<-B >/x\nprint(1)\nA\n\tb\nB"
    assert op.args == ("/bin/sh", "-c", text)


def test_argument_with_the_name_of_a_variable_is_not_passed_beside_it(build: Build) -> None:
    op = last(build("FROM scratch\nENV a=env\nARG a=arg\nARG b=1\nRUN x"))
    assert op.env == (PATH, ("a", "arg"), ("b", "1"))


def test_command_runs_where_and_as_whom_the_image_says(build: Build) -> None:
    op = last(build("FROM scratch\nUSER me:us\nWORKDIR /a\nWORKDIR b\nRUN x"))
    assert (op.cwd, op.user) == ("/a/b", "me:us")


def test_command_sees_the_variables_of_the_image_and_arguments(build: Build) -> None:
    image = {"config": {"Env": ["PATH=/bin", "B=base"], "User": "u", "WorkingDir": "/w/"}}
    text = "FROM i\nENV E=1\nARG A=2\nARG UNSET\nRUN x\nARG LATE=3"
    op = last(build(text, contexts={"i": "oci-layout"}, image=image))
    assert op.env == (("PATH", "/bin"), ("B", "base"), ("E", "1"), ("A", "2"))
    assert (op.user, op.cwd, op.scratch) == ("u", "/w", False)


def test_proxies_are_not_among_the_variables(build: Build) -> None:
    args = {"http_proxy": "http://p", "NO_PROXY": "a"}
    op = last(build("FROM scratch\nRUN x", build_args=args))
    assert op.env == (PATH,)
    assert op.proxy_env == (
        ("HTTP_PROXY", "http://p"),
        ("http_proxy", "http://p"),
        ("NO_PROXY", "a"),
        ("no_proxy", "a"),
    )


def test_proxy_that_is_declared_is_a_variable_like_others(build: Build) -> None:
    args = {"HTTP_PROXY": "http://p"}
    op = last(build("FROM scratch\nARG HTTP_PROXY\nRUN x", build_args=args))
    assert op.env == (PATH, ("HTTP_PROXY", "http://p"))
    assert op.proxy_env == (("http_proxy", "http://p"),)


@pytest.mark.parametrize(
    ("flag", "network"),
    [("default", Network.HOST), ("host", Network.HOST), ("none", Network.NONE)],
)
def test_network_is_as_asked(build: Build, flag: str, network: Network) -> None:
    assert last(build(f"FROM scratch\nRUN --network={flag} x")).network is network


def test_network_of_all_steps_is_what_they_have_that_name_none(build: Build) -> None:
    lines = ["RUN x", "RUN --network=default x", "RUN --network=host x"]
    networks = [last(build(f"FROM scratch\n{one}", network="none")).network for one in lines]
    assert networks == [Network.NONE, Network.NONE, Network.HOST]


MOUNTS: list[tuple[str, Mount]] = [
    ("target=/a", BindMount("/a", 1)),
    ("type=bind,dst=a,src=x/../y", BindMount("/w/a", 1, "/y")),
    ("destination=/a,source=/y,rw", BindMount("/a", 1, "/y", writable=True)),
    ("target=/a,rw=false", BindMount("/a", 1)),
    ("target=/a,ro=false", BindMount("/a", 1, writable=True)),
    ("Type=BIND,Target=/a,RO=True", BindMount("/a", 1)),
    ('"target=/a,b"', BindMount("/a,b", 1)),
    ("target=$T", BindMount("/t", 1)),
    ("type=cache,target=/c", CacheMount("/c", "/c")),
    ("type=cache,target=c/./d", CacheMount("/w/c/d", "c/d")),
    (
        "type=cache,target=/c,id=i,sharing=locked,mode=1770,uid=1009,gid=4294967295,ro",
        CacheMount("/c", "i", Sharing.LOCKED, 0o1770, 1009, 2**32 - 1, read_only=True),
    ),
    ("type=cache,target=/c,ro=false", CacheMount("/c", "/c")),
    ("type=tmpfs,target=/t", TmpfsMount("/t")),
    ("type=tmpfs,target=/t,size=64m", TmpfsMount("/t", 64 << 20)),
    ("type=tmpfs,target=/t,size=1.5GiB", TmpfsMount("/t", 3 << 29)),
    ("type=tmpfs,target=/t,size=4096", TmpfsMount("/t", 4096)),
    ("type=secret,id=a", SecretMount("/run/secrets/a", "a")),
    ("type=secret,id=a/b", SecretMount("/run/secrets/b", "a/b")),
    ("type=secret,target=/root/.npmrc", SecretMount("/root/.npmrc", ".npmrc")),
    ("type=secret,src=a,dst=b/../c", SecretMount("/w/c", "a")),
    ("type=secret,id=$T", SecretMount("/run/secrets/t", "/t")),
    ("type=secret,id=a,ro", SecretMount("/run/secrets/a", "a")),
    ("type=secret,id=a,readwrite=true", SecretMount("/run/secrets/a", "a")),
    ("type=secret,id=a,required", SecretMount("/run/secrets/a", "a", required=True)),
    ("type=secret,id=a,required=false", SecretMount("/run/secrets/a", "a")),
    (
        "type=secret,id=a,target=$T/x,mode=0440,uid=7,gid=8,required=TRUE",
        SecretMount("/t/x", "a", 0o440, 7, 8, required=True),
    ),
    ("type=secret,id=a,env=A", SecretMount("", "a", env="A")),
    ("type=secret,id=a,env=A,target=", SecretMount("", "a", env="A")),
    ("type=secret,source=a,ENV=$T,required", SecretMount("", "a", required=True, env="/t")),
    ("type=secret,id=a,env=A,dst=b", SecretMount("/w/b", "a", env="A")),
    ("type=secret,target=/b/c,env=A", SecretMount("/b/c", "c", env="A")),
    ("type=secret,id=a,env=A,mode=0440,uid=7", SecretMount("", "a", 0o440, 7, env="A")),
]


@pytest.mark.parametrize(("flag", "mount"), MOUNTS, ids=[m[0] for m in MOUNTS])
def test_mount_is_as_asked(build: Build, flag: str, mount: Mount) -> None:
    text = f"FROM scratch\nARG T=/t\nWORKDIR /w\nRUN --mount='{flag}' x"
    assert last(build(text)).mounts == (mount,)


def test_a_secret_variable_is_masked_in_the_name_of_its_step_and_of_no_other(
    build: Build,
) -> None:
    converted = build(
        "FROM scratch\nENV A=own B=b\n"
        "RUN --mount=type=secret,id=a,env=A --mount=type=secret,id=c use $A $B ${C}\nRUN use $A"
    )
    names = [vertex.name for vertex in converted.graph.vertices]
    assert names[0].endswith("use **** b ${C}")
    assert names[1].endswith("use own")


def test_mounts_read_each_source_through_one_input(build: Build) -> None:
    converted = build(
        "FROM scratch AS tools\nRUN t\nFROM scratch\nRUN --mount=target=/a,source=a"
        " --mount=from=Tools,target=/t,source=/bin --mount=from=docs,target=/d"
        " --mount=target=/b,source=b x",
        contexts={"docs": "local"},
    )
    op = last(converted)
    vertex = converted.graph.vertices[converted.graph.target]
    assert op.scratch
    assert [m.input for m in op.mounts if isinstance(m, BindMount)] == [0, 1, 2, 0]
    assert len(vertex.inputs) == 3
    assert [pick.path for pick in converted.selectors["context"].picks] == ["/a", "/b"]
    assert [pick.path for pick in converted.selectors["docs"].picks] == ["/"]


def test_an_agent_is_shown_where_buildkit_shows_it_each_with_its_number(build: Build) -> None:
    op = last(
        build(
            "FROM scratch\nRUN --mount=type=ssh --mount=type=tmpfs,target=/t"
            " --mount=type=ssh,id=two,required,mode=0660,uid=1,gid=2"
            " --mount=type=ssh,target=a x"
        )
    )
    assert [mount for mount in op.mounts if isinstance(mount, SshMount)] == [
        SshMount("/run/buildkit/ssh_agent.0", "default"),
        SshMount("/run/buildkit/ssh_agent.1", "two", 0o660, 1, 2, required=True),
        SshMount("/a", "default"),
    ]


REFUSED = [
    ("--mount=type=secret x", "--mount=type=secret needs id= or target="),
    ("--mount=type=secret,env=A x", "--mount=type=secret needs id= or target="),
    ("--mount=type=secret,id=a,env= x", "the name of a variable cannot be empty"),
    ("--mount=type=secret,id=a,env x", "'env' is not key=value"),
    ("--mount=type=secret,id=a,env=A=B x", "the name of a variable cannot have a '='"),
    ("--mount=type=secret,id=a,env=A,mode=rw x", "'rw' cannot be a mode"),
    ("--mount=type=secret,id=a,env=A,target=/ x", "the target cannot be '/'"),
    ("--mount=type=ssh,env=A x", "unknown key of a ssh mount: env"),
    ("--mount=type=secret,id=a,target=/ x", "the target cannot be '/'"),
    ("--mount=type=secret,id=a,required=maybe x", "required is true or false, not 'maybe'"),
    ("--mount=type=secret,id=a,mode=rw x", "'rw' cannot be a mode"),
    ("--mount=type=secret,id=a,reqired x", "'reqired' is not key=value"),
    ("--mount=type=secret,id=a,ro=x x", "readonly is true or false, not 'x'"),
    ("--mount=type=ssh,rw=x x", "readwrite is true or false, not 'x'"),
    ("--mount=type=secrets,id=a x", "unknown mount type: secrets (did you mean secret?)"),
    ("--mount=type=ssh,source=a x", "unknown key of a ssh mount: source"),
    ("--mount=type=ssh,target=/ x", "the target cannot be '/'"),
    ("--mount=type=cach,target=/a x", "unknown mount type: cach (did you mean cache?)"),
    ("--mount=type=cache,target=/a,from=b x", "type=cache,from= is not supported yet"),
    ("--mount=type=cache,target=/a,source=b x", "type=cache,source= is not supported yet"),
    ("--mount=type=cache,target=/a,sharing=lock x", "sharing is shared, private or locked"),
    ("--mount=type=cache,target=/a,mode=9 x", "'9' cannot be a mode"),
    ("--mount=type=cache,target=/a,mode=17777 x", "'17777' cannot be a mode"),
    ("--mount=type=cache,target=/a,uid=-1 x", "'-1' cannot be a uid"),
    ("--mount=type=cache,target=/a,gid=4294967296 x", "'4294967296' cannot be a gid"),
    ("--mount='target=/a,\"b' x", "unexpected end of data"),
    ("--mount=type=cache x", "--mount=type=cache needs target="),
    ("--mount=type=bind x", "--mount=type=bind needs target="),
    ("--mount=target=/ x", "the target cannot be '/'"),
    ("--mount=target=/a,size=1 x", "unknown key of a bind mount: size"),
    ("--mount=target=/a,tarhet=/b x", "(did you mean target?)"),
    ("--mount=target=/a,ro,rw x", "give either ro or rw"),
    ("--mount=target=/a,ro=maybe x", "readonly is true or false"),
    ("--mount=target x", "'target' is not key=value"),
    ("--mount=type=tmpfs,target=/t,size=big x", "'big' is not a size"),
    ("--mount=target=/a,from=$x x", "a variable cannot be used here"),
    ("--mount=target=/a,from=Debian x", "--from='Debian' names no image"),
    (
        "--network=hosst x",
        "--network is default, host or none, not 'hosst' (did you mean host?)",
    ),
    ("--security=insecure x", "RUN --security=insecure is not supported yet"),
    ("--device=gpu x", "RUN --device is not supported yet"),
    ("<<a/b\n#!/bin/sh\na/b", "'a/b' cannot name a script"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_run_that_cannot_be_done_is_refused(build: Build, line: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        build(f"FROM scratch\nRUN {line}\n")
    assert caught.value.line == 2
    assert message in caught.value.message
