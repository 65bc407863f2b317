"""Debian's docker-registry on loopback, for tests."""

import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_S = 20.0


@dataclass
class RealRegistry:
    """One docker-registry below ``root``.

    Attributes:
        tls: speaks TLS, with a certificate of a CA of its own (``ca``).
        user: with ``password``, the only one it lets in, by basic authentication.
        token: address of a token server; it is then asked by token, proved by ``token_ca``.
        host: where it listens, once it runs.
    """

    root: Path
    tls: bool = False
    user: str = ""
    password: str = ""
    token: str = ""
    token_ca: Path | None = None
    host: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def ca(self) -> Path:
        return self.root / "ca.pem"

    @property
    def log(self) -> str:
        return (self.root / "registry.log").read_text()

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True)
        if self.tls:
            make_certificate(self.root)
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, where it was if it was."""
        self.host = self.host or f"localhost:{free_port()}"
        config = self.root / "config.json"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        with (self.root / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        self._wait()

    def stop(self) -> None:
        """Stop it; what it holds stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": "s"}
        if self.tls:
            certificate, key = self.root / "server.pem", self.root / "server.key"
            http["tls"] = {"certificate": str(certificate), "key": str(key)}
        storage = {"filesystem": {"rootdirectory": str(self.root / "storage")}}
        config: dict[str, Any] = {"version": 0.1, "storage": storage, "http": http}
        if self.user:
            passwords = self.root / "htpasswd"
            command = ["htpasswd", "-Bbn", self.user, self.password]
            made = subprocess.run(command, check=True, capture_output=True)
            passwords.write_bytes(made.stdout)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(passwords)}}
        if self.token:
            config["auth"] = {
                "token": {
                    "realm": self.token,
                    "service": "test",
                    "issuer": "test",
                    "rootcertbundle": str(self.token_ca),
                }
            }
        return config

    def _wait(self) -> None:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                self.get("/v2/").close()
                return
            except urllib.error.HTTPError as error:
                error.close()
                return  # it wants to know who asks: it is there
            except OSError:
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"docker-registry did not start:\n{self.log}") from None
                time.sleep(0.05)

    def get(self, path: str, accept: str = "*/*") -> HTTPResponse:
        """Ask the registry, as nobody in particular."""
        context = ssl.create_default_context(cafile=str(self.ca)) if self.tls else None
        scheme = "https" if self.tls else "http"
        request = urllib.request.Request(
            f"{scheme}://{self.host}{path}", headers={"Accept": accept}
        )
        answer = urllib.request.urlopen(request, timeout=10, context=context)
        assert isinstance(answer, HTTPResponse)
        return answer

    def requests(self, *parts: str) -> int:
        """Return how many requests it has logged whose line has all of ``parts``."""
        return sum(
            all(part in line for part in parts)
            for line in self.log.splitlines()
            if 'HTTP/1.1"' in line
        )


def skopeo(*arguments: str) -> str:
    """Run skopeo; it trusts everybody."""
    command = ["skopeo", "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_certificate(root: Path) -> None:
    """Make a CA (``ca.pem``) and a certificate of it for localhost (``server.pem``)."""
    openssl = shutil.which("openssl")
    assert openssl is not None

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=root, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    run(*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    run(*new, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (root / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    sign = ("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key")
    run(*sign, "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.pem")
