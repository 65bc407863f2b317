"""Keys between real processes: `filesync keygen`, `serve` and `sync`, and a cluster that uses them."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import zmq.asyncio

from bench.processes import Cluster, run
from filesync.keys.files import KeyPair, public_path, read_key
from filesync.transfer.connection.address import with_key
from filesync.transfer.connection.channel_zmq import PING_S
from filesync.transfer.connection.curve_zmq import dial
from filesync.transfer.errors import NotLetIn
from filesync.transfer.plane_zmq import DataPlane
from worker.wire import orders


class Bench:
    """Keys by name, and servers of one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.allow = root / "allow"
        self.served = root / "served"
        self.served.mkdir()
        (self.served / "file").write_text("content")
        self._servers: list[subprocess.Popen[str]] = []
        for name in ("server", "friend", "stranger"):
            assert run("keygen", str(root / name), "--name", name).returncode == 0
        self.let_in("friend")

    def key(self, name: str) -> str:
        """Return the file of a secret key."""
        return str(self.root / name / "key")

    def public(self, name: str) -> str:
        """Return a public key in hex."""
        return read_key(Path(self.key(name))).public.hex()

    def let_in(self, name: str) -> None:
        """Add a key to the allow file."""
        with self.allow.open("a") as file:
            file.write(public_path(Path(self.key(name))).read_text())

    def serve(self, *options: str) -> str:
        """Start a server; return its address."""
        command = ["serve", str(self.served), "--listen", "tcp://127.0.0.1:0", *options]
        server = subprocess.Popen(
            [sys.executable, "-m", "filesync", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._servers.append(server)
        assert server.stdout is not None
        return server.stdout.readline().strip()

    def serve_with_keys(self) -> str:
        """Start a server that lets in whom the allow file names."""
        return self.serve("--allow", str(self.allow), "--key", self.key("server"))

    def sync(self, address: str, name: str | None = None) -> str:
        """Take what is served with the key ``name``; return what that says on standard error."""
        dest = self.root / "dest"
        options = [] if name is None else ["--key", self.key(name)]
        done = run("sync", *options, f"{address}/", str(dest))
        assert (done.returncode == 0) == (dest / "file").exists()
        (dest / "file").unlink(missing_ok=True)
        return done.stderr

    def log(self) -> list[str]:
        """Stop the server that was started last; return the lines that it logged."""
        self._servers[-1].terminate()
        return self._servers.pop().communicate(timeout=20)[1].splitlines()

    def close(self) -> None:
        for server in self._servers:
            server.terminate()
            server.communicate(timeout=20)
            assert server.returncode == 0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(Bench(tmp_path)) as made:
        yield made


def without_key(address: str) -> str:
    return f"tcp://{address.partition('@')[2]}"


def test_keygen_prints_the_line_for_allow_files_and_replaces_nothing(tmp_path: Path) -> None:
    made = run("keygen", str(tmp_path), "--name", "big")
    assert made.stdout == (tmp_path / "key.pub").read_text()
    assert made.stdout.endswith(" big\n")
    again = run("keygen", str(tmp_path))
    assert again.returncode == 2
    assert "--force" in again.stderr
    forced = run("keygen", str(tmp_path), "--force")
    assert forced.returncode == 0
    assert forced.stdout.split()[0] != made.stdout.split()[0]


def test_keygen_and_sync_agree_on_where_the_key_is(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    address = bench.serve_with_keys()
    assert "filesync keygen" in bench.sync(address)
    line = run("keygen").stdout
    bench.allow.write_text(line)
    assert bench.sync(address) == ""


@pytest.mark.parametrize(
    "command", [("sync", "{}/src", "dest"), ("workers", "--manager", "{}")]
)
def test_what_is_no_key_is_refused_before_one_s_own_is_looked_for(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    address = f"tcp://{'ab' * 31}@127.0.0.1:1"
    done = run(*[word.format(address) for word in command])
    assert done.returncode == 2
    assert "is not an address" in done.stderr


def test_a_server_prints_its_address_with_its_key(bench: Bench) -> None:
    assert bench.serve_with_keys().startswith(f"tcp://{bench.public('server')}@127.0.0.1:")


def test_a_known_key_is_let_in_and_a_sync_goes_both_ways(bench: Bench, tmp_path: Path) -> None:
    address = bench.serve_with_keys()
    assert bench.sync(address, "friend") == ""
    (tmp_path / "more").write_text("more")
    given = run("sync", "--key", bench.key("friend"), str(tmp_path / "more"), f"{address}/")
    assert given.returncode == 0
    assert (bench.served / "more").read_text() == "more"


def test_an_unknown_key_is_told_what_to_add_and_then_let_in(bench: Bench) -> None:
    address = bench.serve_with_keys()
    said = bench.sync(address, "stranger")
    assert "does not know this machine's key" in said
    assert bench.public("stranger") in said
    bench.let_in("stranger")
    assert bench.sync(address, "stranger") == ""


def test_a_key_that_is_taken_out_of_the_file_is_not_let_in_any_more(bench: Bench) -> None:
    address = bench.serve_with_keys()
    assert bench.sync(address, "friend") == ""
    bench.allow.write_text("# nobody\n")
    assert "does not know" in bench.sync(address, "friend")


def test_who_has_no_key_is_told_to_use_one(bench: Bench) -> None:
    address = bench.serve_with_keys()
    assert "KEY@host" in bench.sync(without_key(address))


def test_a_server_with_another_key_is_not_believed(bench: Bench) -> None:
    address = bench.serve_with_keys()
    wrong = address.replace(bench.public("server"), bench.public("stranger"))
    assert "another key" in bench.sync(wrong, "friend")


def test_a_server_without_keys_is_not_believed_either(bench: Bench) -> None:
    address = bench.serve()
    wrong = address.replace("tcp://", f"tcp://{bench.public('server')}@")
    assert "or uses none" in bench.sync(wrong, "friend")
    assert bench.sync(address) == ""


def test_with_keys_a_server_may_listen_off_loopback(bench: Bench) -> None:
    refused = run("serve", str(bench.served), "--listen", "tcp://192.0.2.1:7701")
    assert refused.returncode == 2
    assert "--allow FILE" in refused.stderr
    keys = ("--allow", str(bench.allow), "--key", bench.key("server"))
    # An address that no machine has: to be allowed to listen there is all that is asked.
    elsewhere = run("serve", str(bench.served), "--listen", "tcp://192.0.2.1:7701", *keys)
    assert "cannot listen on tcp://192.0.2.1:7701" in elsewhere.stderr


def test_a_key_alone_does_not_say_who_may_connect(bench: Bench) -> None:
    done = run("serve", str(bench.served), "--key", bench.key("server"))
    assert done.returncode == 2
    assert "--allow" in done.stderr


# --- those who listen in ----------------------------------------------------------------------


class Tap:
    """A relay to a server that keeps what it passes on."""

    def __init__(self, port: int) -> None:
        self.heard = b""
        self.answered = b""
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def close(self) -> None:
        self._thread.join()
        self._listener.close()

    def _relay(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=self._pass, args=(server, client, False))
            back.start()
            self._pass(client, server, True)
            back.join()

    def _pass(self, source: socket.socket, dest: socket.socket, is_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if is_client:
                    self.heard += data
                else:
                    self.answered += data
                dest.sendall(data)
            dest.shutdown(socket.SHUT_WR)


def replayed(said: bytes, port: int) -> bytes:
    """Say again what was said before; return what is answered until the server hangs up."""
    answer = b""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 20) as peer:
        peer.sendall(said)
        while some := peer.recv(1 << 16):
            answer += some
    return answer


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_what_travels_cannot_be_read_and_what_was_said_cannot_be_said_again(
    bench: Bench, tmp_path: Path
) -> None:
    address = bench.serve_with_keys()
    secret = b"nobody reads this" * 8
    (tmp_path / "secret").write_bytes(secret)
    with closing(Tap(port_of(address))) as tap:
        through = address.replace(str(port_of(address)), str(tap.port))
        command = ["sync", "--key", bench.key("friend"), "--compress", "none"]
        assert run(*command, str(tmp_path / "secret"), f"{through}/").returncode == 0
    assert (bench.served / "secret").read_bytes() == secret
    assert len(tap.heard) > 500
    assert secret[:17] not in tap.heard
    (bench.served / "secret").unlink()
    assert len(replayed(tap.heard, port_of(address))) < len(tap.answered)
    assert bench.sync(address, "friend") == ""
    assert not (bench.served / "secret").exists()


# --- a cluster --------------------------------------------------------------------------------

MachineKeys = Callable[..., Path]


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineKeys:
    """Make a key for a machine and let it into the cluster; ``client`` is who runs commands."""

    def make(name: str, *, is_allowed: bool = True) -> Path:
        directory = tmp_path / "machines" / name / "filesync"
        line = run("keygen", str(directory), "--name", name).stdout
        if is_allowed:
            with (tmp_path / "machines" / "allow").open("a") as file:
                file.write(line)
        return directory / "key"

    make("client")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "machines" / "client"))
    return make


@pytest.fixture
def keyed(tmp_path: Path, machines: MachineKeys) -> Iterator[Cluster]:
    """A manager and the workers w1 and w2, each with a key of its own."""
    allow = str(tmp_path / "machines" / "allow")
    arguments = {name: ["--key", str(machines(name))] for name in ("manager", "w1", "w2")}
    arguments["manager"] += ["--allow", allow]
    with Cluster(tmp_path / "cluster", arguments=arguments) as cluster:
        cluster.wait_for_workers()
        yield cluster


DOCKERFILE = """
FROM scratch AS one
COPY a b /
FROM scratch
COPY --from=one /a /c
"""


def test_a_build_over_two_workers_that_use_keys(
    keyed: Cluster, context: Callable[..., Path], tmp_path: Path
) -> None:
    placed = ["--place", "one=name=w1", "--place", "1=name=w2"]
    out = tmp_path / "out"
    built = keyed.build(
        context(DOCKERFILE, a="content", b="other"), *placed, "-o", f"type=local,dest={out}"
    )
    assert (out / "c").read_text() == "content"
    # A context from the client, a step's input from worker to worker, the result to the client.
    assert "from client" in built.stderr
    assert "from w1" in built.stderr
    assert "@" in keyed.manager
    # Nobody dials a worker by hand: its key would take most of a table that people read.
    assert "tcp://127.0.0.1:" in (listed := run("workers", "--manager", keyed.manager).stdout)
    assert "@" not in listed


def test_a_client_that_the_manager_does_not_know_is_told_what_to_add(
    keyed: Cluster, machines: MachineKeys
) -> None:
    key = machines("stranger", is_allowed=False)
    done = run("workers", "--manager", keyed.manager, "--key", str(key))
    assert done.returncode == 1
    assert read_key(key).public.hex() in done.stderr
    assert "KEY@host" in run("workers", "--manager", without_key(keyed.manager)).stderr


def test_a_worker_that_is_let_in_later_joins_and_is_known_to_the_others(
    keyed: Cluster, machines: MachineKeys, context: Callable[..., Path], tmp_path: Path
) -> None:
    key = machines("w3", is_allowed=False)
    where = ["--manager", keyed.manager, "--listen", "tcp://127.0.0.1:0", "--key", str(key)]
    state = ["--state", str(tmp_path / "w3"), "--name", "w3", "--until-eof"]
    with subprocess.Popen(
        [sys.executable, "-m", "filesync", "worker", *where, *state],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stderr is not None
        assert "does not know this machine's key" in worker.stderr.readline()
        with (tmp_path / "machines" / "allow").open("a") as allow:
            allow.write(public_path(key).read_text())
        keyed.names.append("w3")
        keyed.wait_for_workers()
        placed = ["--place", "one=name=w3", "--place", "1=name=w2"]
        out = tmp_path / "out"
        sources = context(DOCKERFILE, a="content", b="other")
        keyed.build(sources, *placed, "-o", f"type=local,dest={out}")
        assert (out / "c").read_text() == "content"
        assert worker.stdin is not None
        worker.communicate("", timeout=20)
        assert worker.returncode == 0


def test_a_worker_whose_key_is_taken_out_is_soon_no_worker_any_more(
    keyed: Cluster, machines: MachineKeys, tmp_path: Path
) -> None:
    keyed.wait_for_workers()
    allow = tmp_path / "machines" / "allow"
    lines = allow.read_text().splitlines(keepends=True)
    allow.write_text("".join(line for line in lines if not line.endswith(" w2\n")))
    assert len(allow.read_text().splitlines()) == len(lines) - 1
    deadline_s = time.monotonic() + 30
    while "w2" in keyed.joined():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.mark.parametrize("whose", ["w1", "client"])
def test_a_key_is_only_good_for_its_own_machine(
    whose: str, keyed: Cluster, machines: MachineKeys, tmp_path: Path
) -> None:
    own = read_key(tmp_path / "machines" / "client" / "filesync" / "key")
    other = read_key(tmp_path / "machines" / whose / "filesync" / "key")
    hello = orders.Register(
        version=orders.VERSION,
        worker="w1",
        instance="another",
        labels={},
        slots=1,
        address=with_key("tcp://127.0.0.1:1", other.public),
        snapshotter="copy",
    )
    answer = asyncio.run(answer_to(hello, keyed.manager, own))
    assert isinstance(answer, orders.Refused)
    assert answer.code == ("key" if whose == "w1" else "name-taken")


async def answer_to(message: orders.FromWorker, manager: str, own: KeyPair) -> orders.ToWorker:
    context = zmq.asyncio.Context()
    try:
        dealer = context.socket(zmq.DEALER)
        dial(dealer, manager, own)
        await dealer.send_multipart(orders.encode(message))
        async with asyncio.timeout(10):
            return orders.decode_to_worker(await dealer.recv_multipart())[0]
    finally:
        context.destroy(linger=0)


def test_who_is_connected_is_cut_when_its_key_is_taken_out_of_the_file(bench: Bench) -> None:
    address = bench.serve_with_keys()
    assert bench.sync(address, "friend") == ""

    async def hold() -> str:
        own = read_key(Path(bench.key("friend")))
        async with DataPlane(own=own) as plane:
            channel = await plane.connect(address)
            bench.allow.write_text("# nobody\n")
            lost = asyncio.Event()
            channel.on_lost.append(lambda _: lost.set())
            async with asyncio.timeout(3 * PING_S):
                await lost.wait()
            return str(channel.lost)

    assert "not allowed any more" in asyncio.run(hold())


def test_a_stranger_who_tries_again_and_again_does_not_fill_the_log(bench: Bench) -> None:
    address = bench.serve_with_keys()

    async def try_often() -> None:
        own = read_key(Path(bench.key("stranger")))
        for _ in range(30):
            async with DataPlane(own=own) as plane:
                with pytest.raises(NotLetIn):
                    await plane.connect(address)

    asyncio.run(try_often())
    assert bench.sync(address, "friend") == ""
    (line,) = bench.log()
    assert f"key={bench.public('stranger')} count=1 others=0" in line
