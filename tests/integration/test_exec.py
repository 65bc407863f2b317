"""Ops in real containers, on a root made of one busybox."""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

import msgspec
import pytest

from filesync.errors import PathMissing, UsageError
from worker.exec import (
    BadExec,
    BadSecret,
    CommandNotFound,
    ExecState,
    NoRuntime,
    OutputTail,
    RuntimeFailed,
    SecretMissing,
    UserUnknown,
    execute,
    find_runtime,
)
from worker.exec.check import MAX_VARIABLE_BYTES
from worker.exec.policy import DEFAULT_PATH
from worker.exec.prepare import Preparation
from worker.exec.runtime import TOOLS
from worker.wire.ops import (
    BindMount,
    CacheMount,
    ExecOp,
    Mount,
    Network,
    SecretMount,
    Sharing,
    TmpfsMount,
)
from worker.wire.secrets import Secret

NEEDS = pytest.mark.needs
pytestmark = NEEDS("busybox", "root")

APPLETS = (
    "sh ls cat id touch sleep env mount ps stat mkdir rm mv ln hostname head dd mknod kill"
)
NAP = f"9{os.getpid()}"
"""How long commands sleep, in words that no other process has."""
OLD_NS = 1_000_000_000_000_000_000


class Fields(TypedDict, total=False):
    """What an op may say beside its command."""

    env: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    mounts: tuple[Mount, ...]
    network: Network
    files: tuple[tuple[str, str], ...]
    hostname: str


def shell(script: str, **fields: Unpack[Fields]) -> ExecOp:
    return ExecOp(args=("sh", "-c", script), **fields)


@dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str


@dataclass
class Bench:
    """A root, an input and a worker's state; what was printed so far."""

    root: Path
    source: Path
    state: ExecState
    secrets: tuple[Secret, ...] = (Secret("s", b"horse"),)
    printed: dict[int, bytearray] = field(
        default_factory=lambda: {1: bytearray(), 2: bytearray()}
    )
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def execute(self, op: ExecOp) -> int:
        return await execute(
            op,
            root=self.root,
            inputs={1: self.source},
            state=self.state,
            on_output=self.take,
            secrets=self.secrets,
        )

    def take(self, stream: int, data: bytes) -> None:
        self.printed[stream] += data
        self.news.set()

    def op(self, op: ExecOp) -> Outcome:
        for stream in self.printed.values():
            stream.clear()
        status = asyncio.run(self.execute(op))
        return Outcome(status, self.printed[1].decode(), self.printed[2].decode())

    def sh(self, script: str, *mounts: Mount) -> Outcome:
        return self.op(shell(script, mounts=mounts))

    async def wait_for_output(self, text: bytes) -> None:
        async with asyncio.timeout(20):
            while text not in self.printed[1]:
                self.news.clear()
                await self.news.wait()

    def left_behind(self) -> list[str]:
        """Return what a run should have removed: scratch, runtime state, mounts."""
        base = self.root.parent
        found = [str(path) for name in ("scratch", "runtime") for path in inside(base, name)]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return found + [line for line in mounts if str(base) in line]


def inside(base: Path, name: str) -> list[Path]:
    return list((base / "state" / name).glob("[!.]*"))  # crun's own, from 1.28 on, is hidden


def make_root(root: Path) -> None:
    (root / "bin").mkdir(parents=True)
    busybox = shutil.which("busybox", path=f"{os.environ['PATH']}:/bin:/usr/bin")
    assert busybox
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")


@pytest.fixture(params=[pytest.param(name, marks=NEEDS(name)) for name in ("crun", "runc")])
def runtime(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Have this machine have one OCI runtime and no other; return its name."""
    with_tools(tmp_path / "bin", request.param)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    name: str = request.param
    return name


def with_tools(directory: Path, *more: str) -> None:
    directory.mkdir()
    for tool in (*TOOLS, *more):
        found = shutil.which(tool)
        assert found
        (directory / tool).symlink_to(found)


@pytest.fixture
def bench(runtime: str, tmp_path: Path) -> Bench:
    root, source = tmp_path / "root", tmp_path / "source"
    make_root(root)
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_text("content")
    state = ExecState.open(tmp_path / "state")
    assert state.runtime.program.name == runtime
    return Bench(root, source, state)


def tree(root: Path) -> list[tuple[str, int, int]]:
    paths = [root, *sorted(root.rglob("*"))]
    return [(str(p), p.lstat().st_mode, p.lstat().st_mtime_ns) for p in paths]


# --- the command ----------------------------------------------------------------------------


def test_status_and_both_streams_reach_the_caller(bench: Bench) -> None:
    assert bench.sh("echo out; echo err >&2; exit 7") == Outcome(7, "out\n", "err\n")
    assert bench.left_behind() == []


def test_command_killed_by_a_signal_has_a_status_above_128(bench: Bench) -> None:
    assert bench.sh("sh -c 'kill -9 $$'; exit $?").status == 137


def test_output_comes_while_the_command_runs(bench: Bench) -> None:
    async def scenario() -> None:
        script = "echo first; while [ ! -e /go ]; do sleep 0.01; done; echo second"
        async with asyncio.TaskGroup() as group:
            run = group.create_task(bench.execute(ExecOp(args=("sh", "-c", script))))
            await bench.wait_for_output(b"first\n")
            assert not run.done()
            (bench.root / "go").touch()
        assert run.result() == 0

    asyncio.run(scenario())
    assert bench.printed[1] == b"first\nsecond\n"


def test_a_root_that_takes_long_to_make_ready_holds_up_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(self: Preparation) -> None:
        begun.set()
        assert go.wait(20)
        place_standard(self)

    async def scenario() -> int:
        async with asyncio.TaskGroup() as group:
            run = group.create_task(bench.execute(shell("true")))
            assert await asyncio.to_thread(begun.wait, 20)
            go.set()
        return run.result()

    place_standard = Preparation.place_standard
    monkeypatch.setattr(Preparation, "place_standard", slow)
    assert asyncio.run(scenario()) == 0


def test_much_output_comes_whole_and_in_bounded_pieces(bench: Bench) -> None:
    pieces: list[int] = []

    async def scenario() -> int:
        return await execute(
            ExecOp(args=("sh", "-c", "dd if=/dev/zero bs=1024 count=8192 2>/dev/null")),
            root=bench.root,
            inputs={},
            state=bench.state,
            on_output=lambda _, data: pieces.append(len(data)),
        )

    assert asyncio.run(scenario()) == 0
    assert sum(pieces) == 8 << 20
    assert max(pieces) <= 64 << 10


def test_the_tail_of_the_output_is_the_commands_last_words(bench: Bench) -> None:
    tail = OutputTail()
    op = ExecOp(args=("sh", "-c", "echo no such thing >&2; exit 3"))
    run = execute(op, root=bench.root, inputs={}, state=bench.state, on_output=tail)
    assert asyncio.run(run) == 3
    assert tail.text() == "no such thing"


def test_environment_is_the_ops_and_nothing_of_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_WORKER", "1")
    op = ExecOp(
        args=("env",), env=(("A", "x y"), ("PATH", "/bin")), proxy_env=(("no_proxy", "n"),)
    )
    assert sorted(bench.op(op).stdout.splitlines()) == [
        "A=x y",
        "HOME=/",
        "PATH=/bin",
        "no_proxy=n",
    ]


def test_working_directory_is_made_and_stays(bench: Bench) -> None:
    assert bench.op(shell("pwd", cwd="/work/x")).stdout == "/work/x\n"
    assert (bench.root / "work/x").is_dir()


def test_working_directory_through_a_link_stays_inside_the_root(bench: Bench) -> None:
    # Not below tmp_path: that may be on /dev/shm, and a container has a /dev of its own.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as outside:
        (bench.root / "link").symlink_to(outside)
        bench.op(shell("true", cwd="/link/x"))
        assert list(Path(outside).iterdir()) == []


def test_user_by_name_has_its_groups_and_home(bench: Bench) -> None:
    (bench.root / "etc").mkdir()
    (bench.root / "etc/passwd").write_text("ann:x:1000:50::/home/ann:/bin/sh\n")
    (bench.root / "etc/group").write_text("staff:x:50:\ndisk:x:6:ann\n")
    found = bench.op(shell("id -u; id -g; id -G; echo $HOME", user="ann")).stdout.split("\n")
    assert found[:2] == ["1000", "50"]
    assert sorted(found[2].split()) == ["50", "6"]
    assert found[3] == "/home/ann"
    with pytest.raises(UserUnknown, match="eve"):
        bench.op(shell("true", user="eve"))


def test_command_that_is_not_there_is_told_from_one_that_fails(bench: Bench) -> None:
    with pytest.raises(CommandNotFound, match="no-such-thing"):
        bench.op(ExecOp(args=("no-such-thing",)))
    (bench.root / "data").touch()
    with pytest.raises(CommandNotFound):
        bench.op(ExecOp(args=("/data",)))
    assert bench.sh("no-such-thing").status == 127
    assert bench.left_behind() == []


def test_scripts_are_shown_below_dev_pipes(bench: Bench) -> None:
    files = (("EOF", "#!/bin/sh\necho from $0\n"),)
    assert (
        bench.op(ExecOp(args=("/dev/pipes/EOF",), files=files)).stdout
        == "from /dev/pipes/EOF\n"
    )
    assert bench.op(shell("echo >/dev/pipes/EOF", files=files)).status != 0


# --- the walls ------------------------------------------------------------------------------


def test_dev_is_minimal(bench: Bench) -> None:
    found = bench.sh("ls /dev").stdout.split()
    assert set(found) - {"core"} == {  # a link into /proc that one runtime makes
        *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"),
        *("fd", "stdin", "stdout", "stderr"),
    }


def test_no_device_node_can_be_made_or_opened(bench: Bench) -> None:
    os.mknod(bench.root / "zero", 0o20666, os.makedev(1, 5))
    assert bench.sh("mknod /dev/x c 1 5 || mknod /x c 1 5").status != 0
    assert bench.sh("head -c 1 /zero").status != 0


def test_network_none_has_no_interface_but_lo(bench: Bench) -> None:
    script = "ls /sys/class/net"
    assert bench.op(shell(script, network=Network.NONE)).stdout.split() == ["lo"]


def test_localhost_has_its_address_without_a_network_too(bench: Bench) -> None:
    result = bench.op(shell("cat /etc/hosts", network=Network.NONE))
    assert "127.0.0.1\tlocalhost" in result.stdout


def test_network_host_has_the_hosts_resolver_and_a_name(bench: Bench) -> None:
    result = bench.op(
        shell("cat /etc/resolv.conf; hostname; cat /etc/hostname", hostname="box")
    )
    resolver = Path("/etc/resolv.conf")
    expected = resolver.read_text() if resolver.exists() else ""
    assert result.stdout == f"{expected}box\nbox\n"


def test_processes_in_the_background_die_with_the_op(bench: Bench) -> None:
    started = time.monotonic()
    result = bench.sh("(while :; do touch /alive; sleep 0.01; done) & sleep 0.2; ps | head -2")
    assert result.stdout.splitlines()[1].split()[0] == "1"
    assert time.monotonic() - started < 20
    (bench.root / "alive").unlink()
    time.sleep(0.1)
    assert not (bench.root / "alive").exists()


# --- mounts ---------------------------------------------------------------------------------


def test_read_only_bind_cannot_be_written(bench: Bench) -> None:
    result = bench.sh("cat /m/f; echo x >/m/f || touch /m/g", BindMount("/m", 1, "/d"))
    assert result.stdout == "content"
    assert result.status != 0
    assert [path.name for path in (bench.source / "d").iterdir()] == ["f"]


@pytest.fixture(params=["overlay", "copy"])
def throwaway(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show writable binds both ways, whatever this machine can do."""
    if request.param == "copy":

        async def never(*_: object) -> bool:
            return False

        monkeypatch.setattr("worker.exec.operation.is_overlay_possible", never)


@pytest.mark.usefixtures("throwaway")
def test_writable_bind_loses_what_is_written(bench: Bench) -> None:
    before = tree(bench.source)
    script = "echo new >/m/f; mkdir /m/x; cat /m/f; echo one >/file; cat /file"
    mounts = (
        BindMount("/m", 1, "/d", writable=True),
        BindMount("/file", 1, "/d/f", writable=True),
    )
    assert bench.sh(script, *mounts) == Outcome(0, "new\none\n", "")
    assert tree(bench.source) == before
    assert bench.left_behind() == []


@pytest.mark.usefixtures("throwaway")
def test_writable_bind_has_the_attributes_of_what_it_shows(bench: Bench) -> None:
    directory = bench.source / "d"
    os.chown(directory, 7, 8)
    directory.chmod(0o2770)
    os.setxattr(directory, "user.note", b"kept")
    os.utime(directory, ns=(OLD_NS, OLD_NS))
    before = tree(bench.source)
    mount = BindMount("/m", 1, "/d", writable=True)
    script = "stat -c '%a %u:%g %Y' /m; echo mine >/m/new; cat /m/new"
    shown = bench.op(shell(script, user="7:8", mounts=(mount,)))
    assert shown == Outcome(0, f"2770 7:8 {OLD_NS // 10**9}\nmine\n", "")
    assert tree(bench.source) == before


def test_bind_of_a_file_and_through_links_inside_the_input(bench: Bench) -> None:
    (bench.source / "absolute").symlink_to("/d/f")
    assert bench.sh("cat /x/y", BindMount("/x/y", 1, "absolute")).stdout == "content"


def test_bind_source_that_leads_out_of_the_input_is_missing(bench: Bench) -> None:
    (bench.source / "out").symlink_to("../../../../../../../../etc/passwd")
    for source in ("out", "/none", "/d/f/x", "../../root"):
        with pytest.raises(PathMissing):
            bench.sh("true", BindMount("/m", 1, source))
    assert bench.left_behind() == []


def test_bind_of_a_device_node_is_refused(bench: Bench) -> None:
    os.mknod(bench.source / "zero", 0o20666, os.makedev(1, 5))
    with pytest.raises(BadExec):
        bench.sh("true", BindMount("/m", 1, "zero"))


def test_mount_below_a_read_only_bind_does_not_change_the_input(bench: Bench) -> None:
    (bench.source / "d/there").mkdir()
    before = tree(bench.source)
    mounts = (TmpfsMount("/m/there"), BindMount("/m", 1, "/d"))
    assert bench.sh("touch /m/there/x; ls /m/there", *mounts).stdout == "x\n"
    with pytest.raises(RuntimeFailed):
        bench.sh("true", BindMount("/m", 1, "/d"), TmpfsMount("/m/missing"))
    assert tree(bench.source) == before


def test_tmpfs_is_empty_bounded_and_gone_afterwards(bench: Bench) -> None:
    (bench.root / "t").mkdir()
    (bench.root / "t/hidden").touch()
    script = "ls /t; dd if=/dev/zero of=/t/x bs=4096 count=100"
    result = bench.sh(script, TmpfsMount("/t", size_bytes=4096 * 10))
    assert result.status != 0
    assert result.stdout == ""
    assert [path.name for path in (bench.root / "t").iterdir()] == ["hidden"]


def test_a_secret_is_shown_over_files_and_below_mounts_and_leaves_no_trace(
    bench: Bench,
) -> None:
    (bench.root / "etc").mkdir()
    (bench.root / "etc/own").write_text("own")
    for path in (bench.root / "etc/own", bench.root / "etc", bench.root):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    before = tree(bench.root)
    targets = ("/etc/own", "/etc/a/b", "/t/s", "/c/s", "/run/secrets/s")
    mounts: list[Mount] = [TmpfsMount("/t"), CacheMount("/c", "c")]
    mounts += (SecretMount(t, "s") for t in targets)
    shown = bench.sh("cat " + " ".join(targets), *mounts)
    assert (shown.status, shown.stdout) == (0, "horse" * len(targets))
    assert tree(bench.root) == before
    assert (bench.root / "etc/own").read_text() == "own"
    (cached,) = (bench.root.parent / "state/caches").rglob("s")
    assert cached.read_bytes() == b""
    assert bench.left_behind() == []


def test_a_command_that_reads_its_input_gets_no_secret_from_it(bench: Bench) -> None:
    read = bench.sh("cat; ls -l /proc/self/fd", SecretMount("/s", "s"))
    assert "horse" not in read.stdout
    assert "memfd" not in read.stdout


def test_a_secret_is_a_variable_before_the_ops_own_and_a_file_where_that_is_asked_for(
    bench: Bench,
) -> None:
    op = shell(
        'echo "$A $B $C $PATH"; cat /m; ls -a /run',
        env=(("A", "own"), ("B", "own"), ("C", "own")),
        mounts=(
            SecretMount("", "s", env="A"),
            SecretMount("/m", "s", env="B"),
            SecretMount("", "none", env="C"),
        ),
        cwd="/run",
    )
    ran = bench.op(op)
    assert (ran.status, ran.stdout) == (0, f"horse horse  {DEFAULT_PATH}\nhorse.\n..\n")
    assert bench.left_behind() == []


def test_a_secret_variable_is_any_text_that_linux_passes(bench: Bench) -> None:
    start = "\u00e4\U0001f40e =\"\\'$\n"
    room = MAX_VARIABLE_BYTES - len("S=") - len(start.encode())
    text = start + "x" * room
    bench.secrets = (Secret("s", text.encode()),)
    assert bench.sh('printf %s "$S"', SecretMount("", "s", env="S")).stdout == text
    bench.secrets = (Secret("s", b"x\0"),)
    with pytest.raises(BadSecret):
        bench.sh("true", SecretMount("", "s", env="S"))
    assert bench.left_behind() == []


def test_without_a_secret_a_mount_is_left_out_or_the_command_not_run(bench: Bench) -> None:
    assert bench.sh("ls /m", SecretMount("/m/x", "none", env="M")).status != 0
    for mount in (SecretMount("/m/x", "none"), SecretMount("", "none", env="M")):
        with pytest.raises(SecretMissing, match="'none' is required and was not given"):
            bench.sh("true", msgspec.structs.replace(mount, required=True))
    assert bench.left_behind() == []


def test_mount_points_leave_no_trace_in_the_tree(bench: Bench) -> None:
    (bench.root / "etc").mkdir()
    for path in (bench.root, bench.root / "etc"):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    before = tree(bench.root)
    mounts = (
        BindMount("/a/b/c", 1, "/d"),
        BindMount("/etc/one", 1, "/d/f"),
        CacheMount("/root/.cache/x", "c"),
        TmpfsMount("/a/t"),
    )
    result = bench.sh("ls /a/b/c /etc/one /root/.cache/x /a/t /etc/hosts", *mounts)
    assert result.status == 0
    assert tree(bench.root) == before


def test_what_the_command_leaves_beside_a_mount_point_stays(bench: Bench) -> None:
    bench.sh("touch /a/kept /etc/kept", TmpfsMount("/a/t"))
    assert [path.name for path in (bench.root / "a").iterdir()] == ["kept"]
    assert [path.name for path in (bench.root / "etc").iterdir()] == ["kept"]


def test_command_that_swaps_a_parent_for_a_link_harms_nothing(
    bench: Bench, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    (victim / "t").mkdir(parents=True)
    result = bench.sh(f"mv /a /b && ln -s {victim} /a", TmpfsMount("/a/t"))
    assert result.status == 0
    assert (victim / "t").is_dir()
    assert not (bench.root / "b/t").exists()


@pytest.mark.parametrize(
    "target", ["/", "/..", "/proc", "/proc/sys/x", "/sys", "/dev", "a/../.."]
)
def test_hostile_targets_are_refused(bench: Bench, target: str) -> None:
    with pytest.raises(BadExec):
        bench.sh("true", TmpfsMount(target))


@pytest.mark.parametrize("link", ["/proc", "/", "../../../..", "loop"])
def test_links_to_what_may_not_be_covered_are_refused(bench: Bench, link: str) -> None:
    (bench.root / "loop").symlink_to(link)
    with pytest.raises(BadExec):
        bench.sh("true", TmpfsMount("/loop"))
    assert bench.left_behind() == []


def test_target_that_links_out_of_the_root_is_made_inside(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bench.root / "absolute").symlink_to(outside)
    (bench.root / "up").symlink_to("../../../../../../../../" + str(outside))
    before = tree(bench.root)
    mounts = (TmpfsMount("/absolute/x"), TmpfsMount("/../up/y"))
    result = bench.sh(f"ls {outside}", *mounts)
    assert result.stdout.split() == ["x", "y"]
    assert list(outside.iterdir()) == []
    assert tree(bench.root) == before


def test_root_whose_proc_is_a_link_is_refused(bench: Bench) -> None:
    (bench.root / "proc").symlink_to("/bin")
    with pytest.raises(BadExec, match="/proc"):
        bench.sh("true")


# --- caches ---------------------------------------------------------------------------------


def test_cache_outlives_the_op_with_its_mode_and_owner(bench: Bench) -> None:
    cache = CacheMount("/c", "id", mode=0o711, uid=7, gid=8)
    assert bench.sh("touch /c/x; stat -c '%a %u %g' /c", cache).stdout == "711 7 8\n"
    assert bench.sh("ls /c", cache).stdout == "x\n"
    assert bench.sh("touch /c/y", CacheMount("/c", "id", read_only=True)).status != 0


def test_same_cache_twice_in_one_op_does_not_wait_for_itself(bench: Bench) -> None:
    mounts = [CacheMount(f"/{name}", "id", sharing=Sharing.LOCKED) for name in "ab"]
    assert bench.sh("touch /a/x; ls /b", *mounts).stdout == "x\n"


def run_two(bench: Bench, sharing: Sharing, tmp_path: Path) -> Mapping[str, str]:
    """Run two ops that each note who is in the cache with them; return what each saw."""
    seen: dict[str, bytearray] = {"a": bytearray(), "b": bytearray()}

    async def one(name: str) -> None:
        root = tmp_path / f"root-{name}"
        make_root(root)
        script = f"touch /c/{name}; sleep 0.4; ls /c; rm /c/{name}"
        op = ExecOp(
            args=("sh", "-c", script), mounts=(CacheMount("/c", "id", sharing=sharing),)
        )
        await execute(
            op,
            root=root,
            inputs={},
            state=bench.state,
            on_output=lambda _, data: seen[name].extend(data),
        )

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(one("a"))
            group.create_task(one("b"))

    asyncio.run(scenario())
    return {name: data.decode() for name, data in seen.items()}


def test_shared_cache_is_one_directory_at_once(bench: Bench, tmp_path: Path) -> None:
    assert "a\nb\n" in run_two(bench, Sharing.SHARED, tmp_path).values()


@pytest.mark.parametrize("sharing", [Sharing.PRIVATE, Sharing.LOCKED])
def test_private_and_locked_users_are_alone(
    bench: Bench, tmp_path: Path, sharing: Sharing
) -> None:
    assert run_two(bench, sharing, tmp_path) == {"a": "a\n", "b": "b\n"}
    directories = len(list(next((tmp_path / "state/caches").iterdir()).iterdir()))
    assert directories == (2 if sharing is Sharing.PRIVATE else 1)


# --- endings --------------------------------------------------------------------------------


@pytest.fixture(params=["plain", "with a secret variable"])
def variables(request: pytest.FixtureRequest) -> tuple[Mount, ...]:
    """Mounts that decide how a container is run and ended."""
    return () if request.param == "plain" else (SecretMount("", "s", env="S"),)


def test_cancel_kills_the_container_at_once(bench: Bench, variables: tuple[Mount, ...]) -> None:
    async def scenario() -> None:
        script = "sleep 1000 & echo up; sleep 1000"
        op = shell(script, mounts=(TmpfsMount("/t"), *variables))
        run = asyncio.create_task(bench.execute(op))
        await bench.wait_for_output(b"up")
        started = time.monotonic()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert time.monotonic() - started < 5

    before = tree(bench.root)
    asyncio.run(scenario())
    assert bench.left_behind() == []
    assert [entry[0] for entry in tree(bench.root)] == [entry[0] for entry in before]


@pytest.mark.parametrize("delay_s", [0, 0.005, 0.01, 0.02, 0.04])
def test_cancel_while_the_container_starts_leaves_nothing(
    bench: Bench, variables: tuple[Mount, ...], delay_s: float
) -> None:
    async def scenario() -> None:
        shown = (BindMount("/m", 1, writable=True), *variables)
        op = ExecOp(args=("sleep", NAP), mounts=shown)
        run = asyncio.create_task(bench.execute(op))
        await asyncio.sleep(delay_s)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(scenario())
    assert bench.left_behind() == []
    assert processes("sleep", NAP) == []


def test_while_a_command_sleeps_a_secret_variable_is_in_its_memory_and_nowhere_else(
    bench: Bench, tmp_path: Path
) -> None:
    value = os.urandom(8).hex().encode()
    bench.secrets = (Secret("s", value),)

    async def scenario() -> None:
        mounts = (SecretMount("", "s", env="S"), SecretMount("/s", "s", env="T"))
        op = shell(f"echo up; exec sleep {NAP}", mounts=mounts)
        run = asyncio.create_task(bench.execute(op))
        await bench.wait_for_output(b"up")
        await asyncio.to_thread(check_that_only_the_sleeper_has, value, tmp_path)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(scenario())
    assert processes("sleep", NAP) == []
    assert bench.left_behind() == []


def check_that_only_the_sleeper_has(value: bytes, base: Path) -> None:
    while not (found := processes("sleep", NAP)):
        time.sleep(0.01)
    (sleeper,) = found
    assert {b"S=" + value, b"T=" + value} <= set(
        (sleeper / "environ").read_bytes().split(b"\0")
    )
    assert (sleeper / "root/s").read_bytes() == value
    assert files_with(value, base) + files_with(value, Path("/run")) == []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            command = (process / "cmdline").read_bytes()
            assert value not in command
            links = [os.readlink(fd) for fd in (process / "fd").iterdir()]
            is_of_this_run = str(base).encode() in command
            assert not (is_of_this_run and [link for link in links if "memfd:secrets" in link])


def files_with(value: bytes, place: Path) -> list[Path]:
    """Return the files below ``place`` that have a secret in them."""
    found = []
    for path in (Path(parent) / name for parent, _, names in os.walk(place) for name in names):
        with contextlib.suppress(FileNotFoundError):  # of others, in /run
            if stat.S_ISREG(path.lstat().st_mode) and value in path.read_bytes():
                found.append(path)
    return found


def processes(*words: str) -> list[Path]:
    """Return the processes of the machine that were begun with ``words``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().decode().split("\0")[:-1] == list(words):
                found.append(process)
    return found


WORKER = """
import asyncio, sys
from pathlib import Path
from worker.exec import ExecState, execute
from worker.wire.ops import BindMount, ExecOp, SecretMount
from worker.wire.secrets import Secret

base = Path(sys.argv[1])
variables = (SecretMount("", "s", env="S"),) if sys.argv[2:] else ()
op = ExecOp(
    args=("sh", "-c", "touch /up; while :; do touch /alive; sleep 0.01; done"),
    mounts=(BindMount("/m", 1, writable=True), *variables),
)
state = ExecState.open(base / "state")
run = execute(
    op,
    root=base / "root",
    inputs={1: base / "source"},
    state=state,
    on_output=lambda *_: None,
    secrets=(Secret("s", b"horse"),),
)
asyncio.run(run)
"""


def kill_in_a_run(
    bench: Bench, base: Path, variables: tuple[Mount, ...], *, unguarded: bool = False
) -> None:
    """Start a worker and kill it once its command runs, and what guards that before it."""
    more = ["with"] if variables else []
    with subprocess.Popen([sys.executable, "-c", WORKER, str(base), *more]) as worker:
        deadline = time.monotonic() + 20
        while not (bench.root / "up").exists():
            assert worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if unguarded:
            (guard,) = guards_below(base)
            os.kill(guard, signal.SIGKILL)
        worker.send_signal(signal.SIGKILL)


def guards_below(base: Path) -> list[int]:
    """Return the processes that wait for the end of a worker whose state is below ``base``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if not (process / "cmdline").read_bytes().startswith(b"sh\0-c\0\nread -r _\n"):
                continue
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if str(base).encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                found.append(int(process.name))
    return found


def test_a_killed_worker_takes_its_container_along(
    bench: Bench, tmp_path: Path, variables: tuple[Mount, ...]
) -> None:
    kill_in_a_run(bench, tmp_path, variables)
    deadline = time.monotonic() + 20
    is_alive = True
    while is_alive and time.monotonic() < deadline:
        (bench.root / "alive").unlink(missing_ok=True)
        time.sleep(0.2)
        is_alive = (bench.root / "alive").exists()
    assert not is_alive
    assert inside(bench.root.parent, "runtime") == []
    assert files_with(b"horse", tmp_path) == []


def test_recovery_removes_what_a_killed_worker_left(
    bench: Bench, tmp_path: Path, variables: tuple[Mount, ...]
) -> None:
    kill_in_a_run(bench, tmp_path, variables)
    assert bench.left_behind() != []
    asyncio.run(bench.state.recover())
    (bench.root / "alive").unlink(missing_ok=True)
    time.sleep(0.2)
    assert not (bench.root / "alive").exists()
    assert bench.left_behind() == []


def test_recovery_ends_what_runs_when_a_worker_was_killed_with_what_guards_its_container(
    bench: Bench, tmp_path: Path, variables: tuple[Mount, ...]
) -> None:
    kill_in_a_run(bench, tmp_path, variables, unguarded=True)
    (bench.root / "alive").unlink()
    time.sleep(0.2)
    assert (bench.root / "alive").exists()
    asyncio.run(bench.state.recover())
    (bench.root / "alive").unlink()
    time.sleep(0.2)
    assert not (bench.root / "alive").exists()
    assert bench.left_behind() == []


def test_machine_without_a_runtime_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tools(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NoRuntime, match="install crun or runc"):
        find_runtime(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="RUN needs root"):
        find_runtime(tmp_path)
