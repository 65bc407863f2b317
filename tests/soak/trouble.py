"""What befalls processes: they are killed, stopped, suspended, and come again."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Self

from bench.processes import Cluster


class Trouble:
    """Does what troubles others again and again, in a thread, while the block runs."""

    def __init__(
        self,
        strike: Callable[[random.Random], None],
        seed: int,
        *,
        pause_s: tuple[float, float] = (1, 4),
    ) -> None:
        """Do nothing yet.

        Args:
            strike: makes trouble, and has made it good when it returns.
            seed: of the random numbers that it is given.
            pause_s: it has at least and at most so long between two times.
        """
        self._strike = strike
        self._rng = random.Random(seed)
        self._pause_s = pause_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._rng.uniform(*self._pause_s)):
            self._strike(self._rng)


def strike_cluster(cluster: Cluster, rng: random.Random) -> None:
    """Kill, stop or suspend one process of a cluster for a time."""
    away_s = rng.uniform(0, 2)
    worker = rng.choice(cluster.names)
    match rng.choice(("manager", "kill", "stop", "suspend")):
        case "manager":
            cluster.kill("manager")
            time.sleep(away_s)
            cluster.start_manager()
        case "kill":
            cluster.kill(worker)
            time.sleep(away_s)
            cluster.start_worker(worker)
        case "stop":
            cluster.stop_one(worker)
            time.sleep(away_s)
            cluster.start_worker(worker)
        case _:
            suspend(cluster.processes[worker].pid, 2 * away_s)


def suspend(pid: int, seconds: float) -> None:
    """Have a process do nothing for so long."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
