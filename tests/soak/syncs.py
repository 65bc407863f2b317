"""Syncs in trouble: ``python -m tests.soak syncs [ROUNDS [SEED]]``.

In each round many clients sync at once, to directories of their own and all to one, and back, in
each way that there is: by a server, through a relay to it, by a remote shell, and on this machine.
The server is killed, stopped and suspended meanwhile, the relay cuts, some sources change, some
clients are ended or suspended. Then everybody is left in peace. Wrong is:

- a sync that says 0 and has not made the destination what a source at rest is;
- a file that is neither what it was nor what it was to be, at any time;
- a sync in peace that fails, or leaves something for the next one to do; or one that changes
  something and leaves what a killed one has left (one that has nothing to change looks for nothing);
- a traceback, a client that does not end, a descriptor or a process that stays.

The seed says what is tried, but not when it comes about.
"""

import os
import random
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from filesync.disk.scanning.scan import scan
from filesync.manifest import MemoryNodes
from tests.soak.left import left
from tests.soak.servers import FILESYNC, Relay, Server
from tests.soak.trees import Content, Tree, contents, differences, listed, ours
from tests.soak.trouble import Trouble, suspend

BIG_BYTES: Final = (0, 0, 1_500_000, 6_000_000, 45_000_000)
"""Of the trees, how large a file is in each."""
SHARING: Final = (0, 2, 3)
"""The trees that go to the one directory, too."""
RUNS: Final = 3
PATIENCE_S: Final = 120.0
REST_S: Final = 20.0
"""What has lost its client lets go of all in that time."""
ROUTES: Final = ("server", "relay", "shell", "local")
CLAIMED: Final = "someone else is giving to"
ENDED: Final = (130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL, 143)


class Said(NamedTuple):
    """What came of a client: its exit code, and all that it said."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """What befalls a client after some seconds: a signal; SIGSTOP is for a time only."""

    number: signal.Signals
    after_s: float


class Place:
    """Where everything is, and how the served directory is reached."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.served = root / "served"
        self.log = root / "log"
        self.env = os.environ | {"XDG_CACHE_HOME": f"{root}/cache", "TMPDIR": f"{root}/tmp"}
        for path in (self.served, root / "tmp"):
            path.mkdir()

    def far(self, route: str, name: str, *, server: Server, relay: Relay) -> list[str]:
        """Return the words for the directory ``name`` below the served one."""
        match route:
            case "server":
                return [f"{server.address}/{name}/"]
            case "relay":
                return [f"{relay.address}/{name}/"]
            case "shell":
                shell = shlex.join(["sh", "-c", 'shift; exec sh -c "$*"', "sh"])
                program = f"exec {shlex.join(FILESYNC)}"
                return [
                    f"--rsh={shell}",
                    f"--filesync-path={program}",
                    f"x:{self.served}/{name}/",
                ]
            case _:
                return [f"{self.served}/{name}/"]


def sync(words: list[str], env: Mapping[str, str], end: End | None = None) -> Said:
    """Run a sync; say what came of it."""
    client = subprocess.Popen(
        [*FILESYNC, "sync", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    with client:
        if end is not None:
            time.sleep(end.after_s)
            if end.number == signal.SIGSTOP:
                suspend(client.pid, 1.0)
            else:
                client.send_signal(end.number)
        try:
            text, _ = client.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            client.kill()
            return Said(99, f"not done after {PATIENCE_S} s")
    return Said(client.returncode, text)


class Round:
    """One round of clients, first in trouble, then in peace.

    Attributes:
        wrong: what was, a sentence each.
        codes: what the clients in trouble ended with.
    """

    def __init__(
        self, place: Place, trees: list[Tree], server: Server, relay: Relay, seed: int
    ) -> None:
        self.wrong: list[str] = []
        self.codes: Counter[int] = Counter()
        self._place = place
        self._trees = trees
        self._server = server
        self._relay = relay
        self._seed = seed

    def trouble(self) -> None:
        """Have all clients sync in trouble."""
        rng = random.Random(self._seed)
        restless = [tree for tree in self._trees if rng.random() < 0.4]
        with ExitStack() as stack:
            clients = stack.enter_context(ThreadPoolExecutor(len(self._trees) + len(SHARING)))
            stack.enter_context(Trouble(self._server.strike, self._seed, pause_s=(0.2, 1.5)))
            stack.enter_context(Trouble(self._relay.strike, self._seed, pause_s=(0, 1)))
            for tree in restless:
                stack.enter_context(Trouble(tree.disturb, self._seed, pause_s=(0, 0.3)))
            own = [
                clients.submit(self._client, n, random.Random(rng.random()), tree in restless)
                for n, tree in enumerate(self._trees)
            ]
            shared = [
                clients.submit(self._sharing, n, random.Random(rng.random())) for n in SHARING
            ]
            for one in own + shared:
                one.result()
        self._relay.rest()

    def peace(self) -> None:
        """Have all sync once more, one after another; look at everything."""
        rng = random.Random(self._seed)
        for n, tree in enumerate(self._trees):
            for far, is_pull in ((f"d{n}", False), (f"d{n}", True), ("all", False)):
                if far != "all" or n in SHARING:
                    route = rng.choice(ROUTES)
                    self._in_peace(f"tree {n}, {far}, {route}", tree, far, route, is_pull)
        deadline_s = time.monotonic() + REST_S
        while opened := self._server.opened():
            if time.monotonic() > deadline_s:
                self.wrong.append(f"the server still has {opened}")
                break
            time.sleep(0.1)

    def _client(self, n: int, rng: random.Random, is_restless: bool) -> None:
        tree = self._trees[n]
        for _ in range(RUNS):
            route, is_pull, deletes = rng.choice(ROUTES), rng.random() < 0.3, rng.random() < 0.8
            end = _end(rng)
            said, to = self._sync(
                tree, f"d{n}", route, is_pull=is_pull, deletes=deletes, end=end
            )
            what = f"tree {n}, {route}, pull={is_pull}, {end}"
            in_trouble = end is not None or is_pull or is_restless
            self._check_said(what, said, may_fail=in_trouble or not deletes)
            self._check_contents(what, to, tree.history)
            if not (said.code or is_pull or is_restless) and deletes:
                self._check_same(what, tree.root, to)

    def _sharing(self, n: int, rng: random.Random) -> None:
        for _ in range(RUNS):
            route, end = rng.choice(ROUTES), _end(rng)
            said, to = self._sync(self._trees[n], "all", route, end=end)
            what = f"tree {n}, all, {route}, {end}"
            self._check_said(what, said, may_fail=True)
            history = [self._trees[one].history for one in SHARING]
            self._check_contents(what, to, set().union(*history))

    def _in_peace(self, what: str, tree: Tree, far: str, route: str, is_pull: bool) -> None:
        deadline_s = time.monotonic() + REST_S
        said, to = self._sync(tree, far, route, is_pull=is_pull, more=("-i",))
        while said.code == 1 and CLAIMED in said.text and time.monotonic() < deadline_s:
            time.sleep(0.2)  # the server has just lost who was giving
            said, to = self._sync(tree, far, route, is_pull=is_pull, more=("-i",))
        if said.code:
            self.wrong.append(f"{what}: in peace: {said}")
            return
        self._check_same(what, tree.root, to)
        if said.text:
            self.wrong += [f"{what}: left: {name}" for name in ours(to)]
        said, _ = self._sync(tree, far, route, is_pull=is_pull, more=("-i",))
        if said != Said(0, ""):
            self.wrong.append(f"{what}: once more: {said}")

    def _sync(
        self,
        tree: Tree,
        far: str,
        route: str,
        *,
        is_pull: bool = False,
        deletes: bool = True,
        end: End | None = None,
        more: tuple[str, ...] = (),
    ) -> tuple[Said, Path]:
        """Give a tree to a directory, or take that back; return where it went, too."""
        back = self._place.root / f"back-{tree.root.name}"
        *words, there = self._place.far(route, far, server=self._server, relay=self._relay)
        words += ["--delete"] * deletes
        ends = [there, f"{back}/"] if is_pull else [f"{tree.root}/", there]
        said = sync([*words, *more, *ends], self._place.env, end)
        return said, back if is_pull else self._place.served / far

    def _check_said(self, what: str, said: Said, *, may_fail: bool) -> None:
        self.codes[said.code] += 1
        allowed = (0, 1, 23, 24, *ENDED) if may_fail else (0, 1)
        # Python says so where it is interrupted while it starts.
        is_odd = "Traceback" in said.text and "<frozen" not in said.text
        if said.code not in allowed or is_odd:
            self.wrong.append(f"{what}: {said}")

    def _check_contents(self, what: str, to: Path, history: set[Content]) -> None:
        strange = set(contents(to)) - history
        self.wrong += [f"{what}: neither old nor new: {path}" for path, _ in sorted(strange)]

    def _check_same(self, what: str, one: Path, other: Path) -> None:
        self.wrong += [
            f"{what}: {line}" for line in differences(listed(one), listed(other))[:5]
        ]
        if scan(one, MemoryNodes()).tree != scan(other, MemoryNodes()).tree:
            self.wrong.append(f"{what}: the manifests differ")


def soak(root: Path, rounds: int, seed: int) -> bool:
    """Sync for some rounds; say whether all was as it should be."""
    place = Place(root)
    rng = random.Random(seed)
    trees = [Tree(root / f"src{n}", rng, big_bytes=size) for n, size in enumerate(BIG_BYTES)]
    is_good = True
    with Server(place.served, place.log, place.env) as server, Relay(server.address) as relay:
        for number in range(rounds):
            began_s = time.monotonic()
            one = Round(place, trees, server, relay, seed * 1000 + number)
            one.trouble()
            one.peace()
            for line in one.wrong:
                print(f"round {number}: {line}", flush=True)
            seconds = time.monotonic() - began_s
            ended = ", ".join(f"{count} with {code}" for code, count in one.codes.most_common())
            print(
                f"round {number}: {ended}; {len(one.wrong)} wrong, {seconds:.0f} s", flush=True
            )
            is_good &= not one.wrong
            for tree in trees:
                tree.change()
    said = place.log.read_text()
    if "Traceback" in said:
        print(said)
        return False
    return is_good and not left(root)


def _end(rng: random.Random) -> End | None:
    number = rng.choice(
        (
            None,
            None,
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGKILL,
            signal.SIGKILL,
            signal.SIGSTOP,
        )
    )
    return None if number is None else End(number, rng.uniform(0, 1.5))
