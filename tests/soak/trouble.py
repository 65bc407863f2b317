"""What befalls the processes of a cluster: they are killed, stopped, suspended, and come again."""

import os
import random
import signal
import threading
import time
from typing import Self

from bench.processes import Cluster


class Trouble:
    """Troubles a cluster, in a thread, while the block runs; at its end all processes are there."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._rng.uniform(1, 4)):
            away_s = self._rng.uniform(0, 2)
            worker = self._rng.choice(self._cluster.names)
            match self._rng.choice(("manager", "kill", "stop", "suspend")):
                case "manager":
                    self._cluster.kill("manager")
                    time.sleep(away_s)
                    self._cluster.start_manager()
                case "kill":
                    self._cluster.kill(worker)
                    time.sleep(away_s)
                    self._cluster.start_worker(worker)
                case "stop":
                    self._cluster.stop_one(worker)
                    time.sleep(away_s)
                    self._cluster.start_worker(worker)
                case _:
                    pid = self._cluster.processes[worker].pid
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(2 * away_s)
                    os.kill(pid, signal.SIGCONT)
