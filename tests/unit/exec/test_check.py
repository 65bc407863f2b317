import pytest

from worker.exec import BadExec, BadSecret
from worker.exec.check import (
    MAX_VARIABLE_BYTES,
    check_op,
    clean_target,
    environment,
    is_below,
    secret_environment,
)
from worker.wire.ops import BindMount, CacheMount, ExecOp, SecretMount, TmpfsMount


def test_ordinary_op_passes() -> None:
    check_op(
        ExecOp(
            args=("make", "all"),
            env=(("CC", "gcc"), ("EMPTY", "")),
            cwd="/src",
            mounts=(
                BindMount("/src", 1),
                CacheMount("/root/.cache", "c"),
                TmpfsMount("/dev/shm"),
                SecretMount("/run/secrets/s", "s", uid=1000),
                SecretMount("", "s", env="S"),
            ),
            files=(("EOF", "#!/bin/sh\n"),),
        )
    )


@pytest.mark.parametrize(
    "op",
    [
        ExecOp(args=("a\0b",)),
        ExecOp(args=("",)),
        ExecOp(args=("a", "\ud800")),
        ExecOp(args=("a",), env=(("A", "x\0"),)),
        ExecOp(args=("a",), env=(("", "x"),)),
        ExecOp(args=("a",), env=(("A=B", "x"),)),
        ExecOp(args=("a",), proxy_env=(("A=B", "x"),)),
        ExecOp(args=("a",), cwd="src"),
        ExecOp(args=("a",), cwd="/a\0"),
        ExecOp(args=("a",), user="a\0"),
        ExecOp(args=("a",), hostname="-x"),
        ExecOp(args=("a",), hostname="x" * 65),
        ExecOp(args=("a",), hostname="a\nb"),
        ExecOp(args=("a",), files=(("../x", ""),)),
        ExecOp(args=("a",), files=(("..", ""),)),
        ExecOp(args=("a",), files=(("n" * 256, ""),)),
        ExecOp(args=("a",), mounts=(CacheMount("/c", "c", uid=-1),)),
        ExecOp(args=("a",), mounts=(CacheMount("/c", "c", gid=1 << 32),)),
        ExecOp(args=("a",), mounts=(SecretMount("/s", "s", uid=-1),)),
        ExecOp(args=("a",), mounts=(SecretMount("/s", "s", gid=(1 << 32) - 1),)),
        ExecOp(args=("a",), mounts=(SecretMount("", "s", env="A=B"),)),
        ExecOp(args=("a",), mounts=(SecretMount("", "s", env="A\0"),)),
        ExecOp(args=("a",), mounts=(SecretMount("", "s", env="\ud800"),)),
        ExecOp(args=("a",), mounts=(SecretMount("/proc/s", "s", env="A"),)),
        ExecOp(args=("a",), mounts=(SecretMount("", "s", uid=-1, env="A"),)),
        ExecOp(args=("a",), mounts=tuple(TmpfsMount(f"/t{n}") for n in range(257))),
    ],
)
def test_what_cannot_be_passed_to_a_container_is_refused(op: ExecOp) -> None:
    with pytest.raises(BadExec):
        check_op(op)


@pytest.mark.parametrize(
    "target",
    ["", "/", "..", "/a/../..", "/proc", "/proc/self", "a/../proc//sys", "/sys/fs", "/dev",
     "/dev/pts", "/dev/mqueue", "/x\0"],
)  # fmt: skip
def test_target_that_would_open_the_container_is_refused(target: str) -> None:
    for mount in (TmpfsMount(target), SecretMount(target, "s")):
        with pytest.raises(BadExec):
            check_op(ExecOp(args=("a",), mounts=(mount,)))


@pytest.mark.parametrize(
    ("text", "clean"),
    [("a/b", "/a/b"), ("//a//b/", "/a/b"), ("/../../etc", "/etc"), ("/a/./b/../c", "/a/c")],
)
def test_target_stays_inside_the_root(text: str, clean: str) -> None:
    assert clean_target(text) == clean


def test_below_means_whole_names() -> None:
    assert is_below("/a/b", "/a")
    assert is_below("/a", "/a")
    assert is_below("/a", "/")
    assert not is_below("/ab", "/a")


def test_environment_adds_what_is_missing_and_overrides_nothing() -> None:
    op = ExecOp(
        args=("a",),
        env=(("B", "1"), ("HOME", "/h"), ("http_proxy", "mine")),
        proxy_env=(("http_proxy", "p"), ("no_proxy", "n")),
    )
    assert environment(op, home="/root", path="/bin") == (
        ("B", "1"),
        ("HOME", "/h"),
        ("http_proxy", "mine"),
        ("no_proxy", "n"),
        ("PATH", "/bin"),
    )


def test_secrets_are_variables_as_the_op_names_them_and_empty_where_they_are_missing() -> None:
    mounts = (
        SecretMount("", "a", env="A"),
        TmpfsMount("/t"),
        SecretMount("/file", "a"),
        SecretMount("/b", "b", env="B"),
        SecretMount("", "none", env="C"),
    )
    found = secret_environment(
        ExecOp(args=("a",), mounts=mounts), {"a": b"1", "b": b"\xc3\xa4 =\n"}
    )
    assert found == (("A", "1"), ("B", "\u00e4 =\n"), ("C", ""))


LONGEST = b"x" * (MAX_VARIABLE_BYTES - len("A="))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hor\0se", "NUL character"),
        (b"horse\xff", "no UTF-8 text"),
        (LONGEST + b"x", "longer than 128 KiB"),
    ],
)
def test_a_secret_that_no_environment_can_have_is_refused_and_not_shown(
    data: bytes, reason: str
) -> None:
    op = ExecOp(args=("a",), mounts=(SecretMount("", "token", env="A"),))
    assert secret_environment(op, {"token": LONGEST}) == (("A", LONGEST.decode()),)
    with pytest.raises(
        BadSecret, match=f"'token' cannot be the variable A: .*{reason}"
    ) as caught:
        secret_environment(op, {"token": data})
    assert "hor" not in repr(caught.value)
    assert caught.value.__context__ is None
