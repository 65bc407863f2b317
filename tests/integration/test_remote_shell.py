"""``filesync sync host:path``: a server that a remote shell starts, with nothing but its pipes."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from filesync.sync.remote.client import Remote, parse

COMMAND = [sys.executable, "-m", "filesync"]
TIMEOUT_S = 60


class Machines:
    """A home on another machine, which a stand-in for ssh reaches as sshd would: by a shell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.home.mkdir()
        (root / "tmp").mkdir()
        self.env = os.environ | {
            "XDG_CACHE_HOME": str(root / "cache"),
            "TMPDIR": str(root / "tmp"),
            "PYTHONPATH": os.getcwd(),
        }
        self.program = f"exec {shlex.join(COMMAND)}"

    def shell(self, login: str = "") -> str:
        """Return a remote shell that runs ``login`` first."""
        script = f'shift; cd {shlex.quote(str(self.home))}; {login} exec sh -c "$*"'
        return shlex.join(["sh", "-c", script, "sh"])

    def words(self, *words: str | Path, login: str = "", program: str = "") -> list[str]:
        reached = ["-e", self.shell(login), "--filesync-path", program or self.program]
        return [*COMMAND, "sync", "--json", "--no-progress", *reached, *map(str, words)]

    def run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=self.env,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def sync(self, *words: str | Path, login: str = "") -> dict[str, Any]:
        done = self.run(self.words(*words, login=login))
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert isinstance(figures, dict)
        return figures

    def fails(self, *words: str | Path, login: str = "", program: str = "") -> str:
        done = self.run(self.words(*words, login=login, program=program))
        assert done.returncode in (1, 2), done
        assert "Traceback" not in done.stderr
        return done.stderr

    def _is_at_home(self, process: str) -> bool:
        try:
            return os.readlink(f"/proc/{process}/cwd") == str(self.home)
        except OSError:  # it has ended, or is not to be looked at
            return False

    def is_left_clean(self) -> bool:
        """Say whether no socket and no process is left."""
        running = [
            one for one in os.listdir("/proc") if one.isdigit() and self._is_at_home(one)
        ]
        return not running and os.listdir(self.root / "tmp") == []


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


@pytest.fixture
def src(machines: Machines) -> Path:
    src = machines.root / "src"
    (src / "d").mkdir(parents=True)
    rng = random.Random(1)
    (src / "d/large").write_bytes(rng.randbytes(3 << 20))
    for number in range(50):
        (src / f"d/{number}").write_bytes(rng.randbytes(number * 10))
    return src


def same(a: Path, b: Path) -> bool:
    return not subprocess.run(["diff", "-r", a, b], check=False).returncode


def test_a_tree_goes_there_and_comes_back(machines: Machines, src: Path) -> None:
    there = machines.sync(f"{src}/", "anna@host:trees/").pop("files")
    assert there == 50  # what is empty does not travel
    assert same(src, machines.home / "trees")
    machines.sync("host:trees/", "back")
    assert same(src, machines.root / "back")
    assert machines.is_left_clean()


def test_what_is_there_already_does_not_travel(machines: Machines, src: Path) -> None:
    machines.sync(f"{src}/", "host:trees")
    (src / "d/7").write_bytes(b"edited")
    again = machines.sync("--delete", f"{src}/", "host:trees")
    assert again["files"] == 1
    assert again["wire_out"] + again["wire_in"] < 20_000
    assert same(src, machines.home / "trees")


def test_several_sources_of_one_host_come_at_once(machines: Machines, src: Path) -> None:
    machines.sync(f"{src}/", "host:")
    (machines.home / "note").write_text("note")
    machines.sync("host:d", f"host:{machines.home}/note", "host:~/d/7", "back/")
    assert sorted(os.listdir(machines.root / "back")) == ["7", "d", "note"]
    assert "one server" in machines.fails("host:d", "other:d", "back/")


def test_paths_there_are_what_that_user_s_own_would_be(machines: Machines, src: Path) -> None:
    elsewhere = machines.root / "elsewhere"
    elsewhere.mkdir()
    (machines.home / "link").symlink_to(elsewhere)
    machines.sync(f"{src}/d/", "host:link/")
    assert same(src / "d", elsewhere)
    machines.sync(f"{src}/d/", f"host:{machines.root}/abs")
    assert same(src / "d", machines.root / "abs")


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("host:path", Remote("host", b"path")),
        ("anna@host:/a/b:c", Remote("anna@host", b"/a/b:c")),
        ("host:", Remote("host", b"")),
        ("host:~", Remote("host", b"")),
        ("host:~/x", Remote("host", b"x")),
        ("[2001:db8::7]:x", Remote("2001:db8::7", b"x")),
        ("anna@[::1]:x", Remote("anna@::1", b"x")),
        ("tcp://h:1/x", Remote("tcp://h:1", b"x")),
        ("./host:path", b"./host:path"),
        ("a/b:c", b"a/b:c"),
        ("a/b://c", b"a/b://c"),
    ],
)
def test_a_colon_before_any_slash_is_after_a_host(text: str, remote: Remote | bytes) -> None:
    assert parse(text) == remote


def test_links_and_what_lies_outside_are_not_reached_where_a_command_is_forced(
    machines: Machines, src: Path
) -> None:
    (machines.home / "trees").mkdir()
    machines.sync(f"{src}/", "host:trees/only")
    (machines.home / "secret").write_text("secret")
    (machines.home / "trees/link").symlink_to(machines.home)
    forced = f"{machines.program} serve --stdio --read-only trees\n"
    done = machines.run(machines.words("host:/only/d/", "back", login=forced))
    assert done.returncode == 0, done.stderr
    assert same(src / "d", machines.root / "back")
    for path in ("../secret", "link/secret", f"{machines.home}/secret"):
        done = machines.run(machines.words(f"host:{path}", "out/", login=forced))
        assert done.returncode != 0, path
        assert not (machines.root / "out/secret").exists()
    assert "read-only" in machines.fails(f"{src}/", "host:x", login=forced)


@pytest.mark.parametrize(
    ("login", "program", "says"),
    [
        ("", "nowhere/filesync", "host has no `nowhere/filesync`; install it there"),
        ("echo Welcome to host;", "", "host says 'Welcome to host\\n' before `"),
        ("exit 3;", "", "ended with 3 and said nothing"),
        ("exit 255;", "", "ended with 255, as ssh does when it cannot connect or log in"),
    ],
    ids=["not installed", "a shell that talks", "a shell that ends", "no login"],
)
def test_where_no_server_comes_to_speak_it_is_said_why(
    machines: Machines, src: Path, login: str, program: str, says: str
) -> None:
    assert says in machines.fails(f"{src}/", "host:x", login=login, program=program)
    assert machines.is_left_clean()


@pytest.mark.parametrize("then", ["", "0" * 200])
def test_what_only_begins_as_a_server_does_is_a_connection_that_is_lost(
    machines: Machines, src: Path, then: str
) -> None:
    signature = r"\377" + r"\000" * 8 + r"\177\003\000"
    says = machines.fails(f"{src}/", "host:x", login=f"printf '{signature}{then}'; exit 3;")
    assert "the connection to host is lost: sh ended with 3" in says
    assert "key" not in says
    assert machines.is_left_clean()


def test_what_is_no_remote_shell_or_no_host_is_wrong_usage(
    machines: Machines, src: Path
) -> None:
    for words, says in (
        (["-e", "no-such-shell", f"{src}/", "host:x"], "no-such-shell cannot be run"),
        (["-e", "", f"{src}/", "host:x"], "names no remote shell"),
        (["-e", "ssh 'x", f"{src}/", "host:x"], "No closing quotation"),
        (["-e", "echo", "--", f"{src}/", "-oProxyCommand=x:y"], "no name of a host"),
    ):
        done = machines.run([*COMMAND, "sync", *words])
        assert done.returncode == 2, done
        assert says in done.stderr


SLOW = """
import os, subprocess, sys, threading, time

left = int(sys.argv[1])

def carry(source, sink):
    global left
    while data := os.read(source, 4096):
        time.sleep(len(data) / 100_000)
        left -= len(data)
        if left > 0:
            os.write(sink, data)
    os.close(sink)

process = subprocess.Popen(sys.argv[3:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
there = threading.Thread(target=carry, args=(0, os.dup(process.stdin.fileno())), daemon=True)
process.stdin.close()
there.start()
carry(process.stdout.fileno(), 1)
"""
"""A remote shell over a link of 100 kB a second, which is dead after so many bytes."""
IN_HASTE = """
import filesync.transfer.connection.channel_zmq as channel
import filesync.sync.shell.relay as relay
import filesync.transfer.connection.listener_zmq as listener
import filesync.transfer.receive.pull_zmq as pull
from filesync.__main__ import main

channel.STUCK_S = 0.8
relay.SILENT_S, relay.LOOK_S, listener.PING_S = 2, 0.1, 0.1
make = pull.Receiver
pull.Receiver = lambda *args, **options: make(*args, **options | {"stall_s": 0.8})
main()
"""
"""Who gives up what does not move for less than a second, and what says nothing for two."""


def over_slow_shell(
    machines: Machines, *words: str, most_bytes: int
) -> subprocess.CompletedProcess[str]:
    """Sync over a slow link, where both sides are in haste."""
    program = shlex.join([sys.executable, "-c", IN_HASTE])
    slow = shlex.join([sys.executable, "-c", SLOW, str(most_bytes)])
    command = machines.words(*words, login=f"exec {slow}", program=program)
    return machines.run([sys.executable, "-c", IN_HASTE, *command[len(COMMAND) :]])


@pytest.mark.parametrize("is_given", [True, False], ids=["given", "taken"])
def test_over_a_slow_shell_a_message_may_take_longer_than_a_peer_may_be_silent(
    machines: Machines, *, is_given: bool
) -> None:
    (machines.root / "one").mkdir()
    (machines.root / "one/file").write_bytes(random.Random(3).randbytes(400_000))
    shutil.copytree(machines.root / "one", machines.home / "one")
    words = ("one/", "host:new") if is_given else ("host:one/", "new")
    done = over_slow_shell(machines, *words, most_bytes=1 << 20)
    assert done.returncode == 0, done.stderr
    assert same(machines.root / "one", (machines.home if is_given else machines.root) / "new")


def test_a_shell_whose_connection_is_dead_is_given_up(machines: Machines) -> None:
    (machines.root / "one").mkdir()
    (machines.root / "one/file").write_bytes(random.Random(3).randbytes(400_000))
    done = over_slow_shell(machines, "one/", "host:new", most_bytes=100_000)
    assert done.returncode == 1
    assert "run again" in done.stderr
    machines.sync("one/", "host:new")
    assert same(machines.root / "one", machines.home / "new")


def test_a_server_that_dies_ends_the_sync_and_the_next_one_goes_on(
    machines: Machines, src: Path
) -> None:
    slow = machines.words("--bwlimit", "1M", f"{src}/", "host:trees", login="echo $$ > pid;")
    process = subprocess.Popen(
        slow, env=machines.env, cwd=machines.root, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(machines.home.glob("trees/.filesync*")))
    os.kill(int((machines.home / "pid").read_text()), signal.SIGKILL)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "the connection to host is lost: sh ended with -9; run again" in err
    assert machines.is_left_clean()
    machines.sync("--delete", f"{src}/", "host:trees")
    assert same(src, machines.home / "trees")


def test_who_interrupts_a_login_does_not_wait_for_it(machines: Machines, src: Path) -> None:
    words = machines.words(f"{src}/", "host:x", login="touch asked; sleep 50;")
    process = subprocess.Popen(words, env=machines.env, cwd=machines.root)
    wait_for((machines.home / "asked").exists)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130
    assert time.monotonic() - began < 20


def test_who_is_killed_leaves_nothing_and_the_next_sync_goes_on(
    machines: Machines, src: Path
) -> None:
    slow = machines.words("--bwlimit", "1M", f"{src}/", "host:trees")
    process = subprocess.Popen(slow, env=machines.env, cwd=machines.root)
    wait_for(lambda: list(machines.home.glob("trees/.filesync*")))
    process.kill()
    process.wait(TIMEOUT_S)
    wait_for(machines.is_left_clean)
    machines.sync("--delete", f"{src}/", "host:trees")
    assert same(src, machines.home / "trees")


def test_an_interrupt_that_ends_the_remote_shell_first_is_an_interrupt(
    machines: Machines,
) -> None:
    ends = "exec >&-; kill -INT $PPID; exit 255;"
    done = machines.run(machines.words("host:x", "back", login=ends))
    assert (done.returncode, done.stderr.strip()) == (130, "")


def wait_for(is_so: Callable[[], object]) -> None:
    for _ in range(2000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to be so")


def test_a_served_directory_is_needed_but_for_a_peer_on_the_pipes(machines: Machines) -> None:
    for words, says in (
        ([], "ROOT is missing"),
        (["--stdio", "--allow-insecure"], "listens nowhere"),
    ):
        done = machines.run([*COMMAND, "serve", *words])
        assert done.returncode == 2
        assert says in done.stderr


def test_what_is_newer_there_stays_and_what_is_there_alone_is_changed(
    machines: Machines, src: Path
) -> None:
    machines.sync(f"{src}/", "host:trees")
    (src / "d/7").write_bytes(b"edited here")
    (src / "new").write_bytes(b"new")
    (machines.home / "trees/d/8").write_bytes(b"edited there, later")
    (src / "d/8").write_bytes(b"edited")
    os.utime(src / "d/8", ns=(0, 0))
    assert machines.sync("-u", "--existing", "--delete", f"{src}/", "host:trees")["files"] == 1
    assert (machines.home / "trees/d/7").read_bytes() == b"edited here"
    assert (machines.home / "trees/d/8").read_bytes() == b"edited there, later"
    assert not (machines.home / "trees/new").exists()
    assert machines.sync("--ignore-existing", "host:trees/", f"{src}/")["files"] == 0
    assert (src / "d/8").read_bytes() == b"edited"


@pytest.mark.needs("root")
def test_all_belongs_to_whom_it_is_given_to_there_and_here(
    machines: Machines, src: Path
) -> None:
    machines.sync("--chown=12:34", f"{src}/", "host:trees")
    machines.sync("--chown=:56", "host:trees/", "back")
    for root, owner in (
        (machines.home / "trees", (12, 34)),
        (machines.root / "back", (12, 56)),
    ):
        status = (root / "d/7").stat()
        assert (status.st_uid, status.st_gid) == owner
    assert "no user 'nosuch' is known" in machines.fails("--chown=nosuch", f"{src}/", "host:no")
    assert not (machines.home / "no").exists()
