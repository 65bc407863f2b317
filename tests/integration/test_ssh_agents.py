"""A user's SSH agent, asked by the steps that name it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from bench.processes import BuildRun, Cluster
from tests.integration.conftest import EXAMPLES

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root", "crun", "ssh-agent", "ssh-add")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image in which a step can ask an agent, as a value of --build-context."""
    layout = tmp_path_factory.mktemp("base") / "layout"
    command = [sys.executable, str(EXAMPLES / "minimal_base.py"), "--output", str(layout)]
    subprocess.run([*command, "--with", "ssh-add"], check=True, capture_output=True)
    return f"base=oci-layout://{layout}"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent that has the key ``key`` beside it."""
    at = tmp_path / "agent"
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with subprocess.Popen(["ssh-agent", "-D", "-a", at], stdout=subprocess.DEVNULL) as process:
        try:
            while not answers(at):
                assert process.poll() is None
                time.sleep(0.01)
            add = ["ssh-add", "-q", str(key)]
            subprocess.run(add, check=True, env={**os.environ, "SSH_AUTH_SOCK": str(at)})
            yield at
        finally:
            process.terminate()


def answers(at: Path) -> bool:
    """Say whether somebody listens at a socket, which is there a moment before."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(at)) == 0


def keys_of(agent: Path) -> str:
    env = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    return subprocess.run(["ssh-add", "-L"], env=env, capture_output=True, text=True).stdout


def built(
    cluster: Cluster, root: Path, base: str, *options: str, check: bool = True
) -> BuildRun:
    given = ("--build-context", base, "--progress", "plain")
    return cluster.build(root, *given, *options, check=check)


def test_a_step_on_any_worker_has_the_users_agent_sign(
    cluster: Cluster, context: ContextMaker, base: str, agent: Path, tmp_path: Path
) -> None:
    public = (tmp_path / "key.pub").read_text()
    asks = "RUN --mount=type=ssh ssh-add -L > /known && ssh-add -T /key.pub && :"
    root = context(
        f"FROM base AS one\nCOPY key.pub /\n{asks} one\n"
        f"FROM base AS two\nCOPY key.pub /\n{asks} two\n"
        "FROM scratch\nCOPY --from=one /known /one\nCOPY --from=two /known /two\n",
        **{"key.pub": public},
    )
    out = ("-o", f"type=local,dest={tmp_path / 'out'}", "--ssh", f"default={agent}")
    built(cluster, root, base, "--place", "one=name=w1", "--place", "two=name=w2", *out)
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {public}


def test_a_step_changes_nothing_about_an_agent_and_leaves_no_socket(
    cluster: Cluster, context: ContextMaker, base: str, agent: Path, tmp_path: Path
) -> None:
    before = keys_of(agent)
    root = context(
        "FROM base\nRUN --mount=type=ssh,id=mine,target=/agent,mode=0600,uid=7,gid=8"
        " stat -c '%a %u:%g %F' /agent > /made; echo $SSH_AUTH_SOCK >> /made;"
        " ! ssh-add -D && ! ssh-add -x </dev/null && ! SSH_AUTH_SOCK= ssh-add -l\n"
        'RUN ! test -e /agent && ! test -e /run/buildkit && echo "[$SSH_AUTH_SOCK]" >> /made\n'
        "FROM scratch\nCOPY --from=0 /made /\n"
    )
    out = ("-o", f"type=local,dest={tmp_path / 'out'}", "--ssh", f"mine={agent}")
    built(cluster, root, base, *out)
    made = (tmp_path / "out" / "made").read_text()
    assert made == "600 7:8 socket\n/agent\n[]\n"
    assert keys_of(agent) == before != ""


def test_only_the_owner_of_a_socket_reaches_the_agent(
    cluster: Cluster, context: ContextMaker, base: str, agent: Path
) -> None:
    root = context(
        "FROM base\nUSER 7:8\nRUN --mount=type=ssh ! ssh-add -l 2>/dev/null\n"
        "RUN --mount=type=ssh,uid=7,gid=8 ssh-add -l\n"
    )
    built(cluster, root, base, "--ssh", f"default={agent}")


def test_an_agent_that_was_not_given_is_missing_only_where_it_is_required(
    cluster: Cluster, context: ContextMaker, base: str, agent: Path
) -> None:
    root = context('FROM base\nRUN --mount=type=ssh test -z "$SSH_AUTH_SOCK"\n')
    built(cluster, root, base)
    context("FROM base\nRUN --mount=type=ssh,id=mine,required true\n")
    failed = built(cluster, root, base, "--ssh", f"default={agent}", check=False)
    assert failed.status == 1
    assert "the SSH agent 'mine' is required and was not given: build with --ssh mine" in (
        failed.stderr
    )


def test_an_agent_that_hangs_up_ends_what_a_process_asks_and_not_the_build(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()

        def hang_up() -> None:
            with listener.accept()[0] as one:
                one.recv(1)

        root = context("FROM base\nRUN --mount=type=ssh ! ssh-add -l && echo went on\n")
        hanging_up = Thread(target=hang_up)
        hanging_up.start()
        done = built(cluster, root, base, "--ssh", f"default={tmp_path / 'agent'}")
        hanging_up.join()
    assert "went on\n" in done.stderr


def test_many_processes_ask_at_once(
    cluster: Cluster, context: ContextMaker, base: str, agent: Path
) -> None:
    root = context(
        "FROM base\nRUN --mount=type=ssh for n in $(seq 60); do"
        " { ssh-add -l >/dev/null && echo $n >> /done; } & done; wait;"
        " [ $(wc -l < /done) = 60 ]\n"
    )
    built(cluster, root, base, "--ssh", f"default={agent}")
