"""Debian's docker-registry on loopback, for tests."""

import base64
import io
import json
import random
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from bench.processes import BuildRun, Cluster
from filesync.disk.scanning.scan import scan
from filesync.manifest import MemoryNodes
from worker.registry.config import Host, tls_context

START_S = 20.0
BIG = random.Random(3).randbytes(4_000_000)
"""The one large file of the image that tests use."""


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

    def __exit__(self, *_: object) -> None:
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
        context = tls_context(Host(ca=(str(self.ca),))) if self.tls else None
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


class TokenServer:
    """Gives ``user`` tokens that a docker-registry whose ``token_ca`` is ``ca`` believes.

    Attributes:
        asked: the scopes of each request, and whether the password was right.
    """

    def __init__(self, root: Path, user: str, password: str) -> None:
        root.mkdir()
        make_certificate(root)
        self.ca = root / "server.pem"
        self.user = user
        self.asked: list[tuple[list[str], bool]] = []
        self._root = root
        self._expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                status, body = server.answer(
                    query.get("scope", []), self.headers.get("Authorization", "")
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, scopes: list[str], authorization: str) -> tuple[int, bytes]:
        is_right = authorization == self._expected
        self.asked.append((scopes, is_right))
        if not is_right:
            return 401, b"{}"
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        return 200, json.dumps({"token": self._signed(access)}).encode()

    def _signed(self, access: list[dict[str, Any]]) -> str:
        pem = self.ca.read_text()
        chain = ["".join(pem.partition("CERTIFICATE-----")[2].partition("-----")[0].split())]
        now = int(time.time())
        claims = {
            "iss": "test",
            "aud": "test",
            "sub": self.user,
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": "1",
            "access": access,
        }
        header = {"typ": "JWT", "alg": "RS256", "x5c": chain}
        signed = b".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        key = self._root / "server.key"
        command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
        signature = subprocess.run(
            command, input=signed, capture_output=True, check=True
        ).stdout
        return (signed + b"." + _url64(signature)).decode()


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


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


# --- images ---------------------------------------------------------------------------------


def umoci(cwd: Path, *arguments: str) -> None:
    subprocess.run(["umoci", *arguments], cwd=cwd, check=True, capture_output=True)


def unpacked(layout: Path, where: Path) -> Path:
    umoci(where.parent, "unpack", "--image", f"{layout}:1", str(where))
    return where / "rootfs"


def content_of(root: Path) -> bytes:
    return scan(root, MemoryNodes()).content


def tar_of(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def push(layout: Path, registry: RealRegistry, name: str, *options: str) -> None:
    where = f"docker://{registry.host}/{name}"
    skopeo("copy", "--dest-tls-verify=false", *options, f"oci:{layout}:1", where)


def start(tmp_path: Path, registries: str, name: str = "cluster", workers: int = 2) -> Cluster:
    """Return a cluster, not yet started, whose workers know of ``registries``."""
    path = tmp_path / f"{name}.toml"
    path.write_text(registries)
    arguments = {f"w{n}": ("--registries", str(path)) for n in range(1, workers + 1)}
    return Cluster(tmp_path / name, workers=workers, arguments=arguments)


def plain(registry: RealRegistry) -> str:
    return f'[registry."{registry.host}"]\nhttp = true\n'


def pulled_bytes(built: BuildRun) -> int:
    steps = built.metadata["filesync"]["steps"]
    uses = [use for step in steps for use in step["inputs"]]
    return sum(use["bytes_moved"] for use in uses if use["mode"] == "registry")


def layer_bytes(layout: Path) -> int:
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs/sha256" / digest).read_text())
    return sum(one["size"] for one in (manifest["config"], *manifest["layers"]))


def login(tmp_path: Path, host: str, user: str, password: str) -> Path:
    """Write what ``docker login`` leaves; return the directory."""
    home = tmp_path / "docker"
    home.mkdir()
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (home / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return home
