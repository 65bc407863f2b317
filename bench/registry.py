"""Debian's docker-registry, and what it says it has sent."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, Self

from bench.processes import Machine

LOOPBACK: Final = Machine("127.0.0.1")
START_S: Final = 20.0
_SENT: Final = re.compile(r'"GET /v2/\S+/blobs/\S+ HTTP/1\.1" 20[06] ([0-9]+)')


class Registry:
    """A registry below ``root``, which is made for it and removed at the end.

    Attributes:
        host: where it listens.
    """

    def __init__(
        self, root: Path, machine: Machine = LOOPBACK, port: int | None = None
    ) -> None:
        """Without ``port`` it is any that is free here."""
        self.host = f"{machine.host}:{port or _free_port()}"
        self._through = machine.through
        self._root = root
        self._log = root / "log"
        self._config = root / "config.json"
        storage = {"filesystem": {"rootdirectory": str(root / "storage")}}
        http = {"addr": self.host, "secret": "s"}
        root.mkdir()
        config = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": http}
        self._config.write_text(json.dumps(config))  # JSON is YAML

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            command = [*self._through, "docker-registry", "serve", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=1).close()
                return self
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline:
                    self._stop()
                    raise SystemExit(
                        "docker-registry does not start; is it installed?"
                    ) from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._stop()

    def blob_bytes_sent(self) -> int:
        """Return the bytes of blobs that it has sent so far, by its own log."""
        return sum(int(size) for size in _SENT.findall(self._log.read_text()))

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._root)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
