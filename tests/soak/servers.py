"""A ``filesync serve`` that is killed and comes again, and a relay to it that cuts connections."""

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self

from tests.integration.gateway import Gateway, gateway
from tests.soak.trouble import suspend

FILESYNC: Final = (sys.executable, "-m", "filesync")
CUT_BYTES: Final = 3_000_000


class Server:
    """A server of the directory ``served``, always at the same address."""

    def __init__(self, served: Path, log: Path, env: Mapping[str, str]) -> None:
        self.address = "tcp://127.0.0.1:0"
        self._served = served
        self._log = log
        self._env = env

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def strike(self, rng: random.Random) -> None:
        """Kill, stop or suspend it for a time."""
        away_s = rng.uniform(0, 1)
        match rng.choice(("kill", "stop", "suspend")):
            case "suspend":
                suspend(self._process.pid, away_s)
            case how:
                self._end(kills=how == "kill")
                time.sleep(away_s)
                self._start()

    def opened(self) -> list[str]:
        """Return what it has open below the directory."""
        found = []
        for fd in Path(f"/proc/{self._process.pid}/fd").iterdir():
            try:
                found.append(str(fd.readlink()))
            except FileNotFoundError:  # closed just now
                continue
        return [path for path in found if path.startswith(f"{self._served}/")]

    def _start(self) -> None:
        words = (*FILESYNC, "serve", str(self._served), "--listen", self.address)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=log, env=self._env
            )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().decode().strip()
        assert self.address, self._log.read_text()

    def _end(self, *, kills: bool = False) -> None:
        with self._process as process:
            if kills:
                process.kill()
            else:
                process.terminate()


class Relay:
    """A ``Gateway`` with an event loop in a thread of its own."""

    def __init__(self, behind: str) -> None:
        self._behind = behind
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        entering = self._stack.enter_async_context(gateway(self._behind))
        self._gateway: Gateway = asyncio.run_coroutine_threadsafe(entering, self._loop).result()
        self.address = self._gateway.address
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def strike(self, rng: random.Random) -> None:
        """Cut all connections soon, after some byte."""
        self._gateway.cut_after_bytes = rng.randrange(CUT_BYTES)

    def rest(self) -> None:
        """Cut nothing more."""
        self._gateway.cut_after_bytes = None
