"""Git repositories on loopback: real ones, behind git's own smart HTTP server, whose requests are counted."""

import base64
import os
import shutil
import ssl
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.webserver import LoopbackServer, QuietHandler

NOBODY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "1580702706 +0000",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_COMMITTER_DATE": "1580702706 +0000",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}
COMMITTED_S = 1580702706


def git(at: Path, *words: str, given: str = "") -> str:
    """Run git in a repository, as somebody without any configuration; return what it prints."""
    environment = {**os.environ, **NOBODY}
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *words],
        cwd=at,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@dataclass
class Repository:
    """A repository with files, of which the server shows what is committed."""

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True)
        git(self.path, "init", "-q", "-b", "main")

    def git(self, *words: str, given: str = "") -> str:
        return git(self.path, *words, given=given)

    def commit(self, **files: str) -> str:
        """Write files by name, and commit all that is there; return the commit."""
        for name, text in files.items():
            path = self.path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "message")
        return self.git("rev-parse", "HEAD")

    def blob(self, text: str) -> str:
        return self.git("hash-object", "-w", "--stdin", given=text)

    def add_submodule(self, name: str, url: str, commit: str) -> None:
        """Have a submodule in the index, whatever its URL is; it goes into the next commit."""
        self.git("config", "-f", ".gitmodules", f"submodule.{name}.path", name)
        self.git("config", "-f", ".gitmodules", f"submodule.{name}.url", url)
        self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{name}")
        (self.path / name).mkdir(parents=True, exist_ok=True)


@dataclass
class GitServer(LoopbackServer):
    """Serves the repositories of a directory as ``/NAME.git``.

    Attributes:
        asked: the method and path of each request, and who asked.
        packs: how many answers had commits, and not just what refs are.
        login: who has to ask; empty for anybody.
        answers: status and headers of paths that are answered so instead.
        hangs: requests to fetch are not answered; ``hanging`` is set by the first.
        serves_files: there is no git behind it, but a repository's files.
        is_old: speaks the protocol in which no commit is given by its id alone.
        certificate: a directory with what it proves itself with; None for plain HTTP.
    """

    root: Path
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    packs: int = 0
    login: str = ""
    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    hangs: bool = False
    serves_files: bool = False
    is_old: bool = False
    hanging: threading.Event = field(default_factory=threading.Event)
    certificate: Path | None = None

    def __post_init__(self) -> None:
        super().__init__(_Handler)
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            chain = (self.certificate / "server.pem", self.certificate / "server.key")
            context.load_cert_chain(*chain)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{'http' if self.certificate is None else 'https'}://{self.host}"

    def repository(self, name: str) -> Repository:
        return Repository(self.root / name)


class _Handler(QuietHandler):
    owner: GitServer

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        owner = self.owner
        who = self.headers.get("Authorization", "")
        owner.asked.append((self.command, self.path, who))
        path, _, query = self.path.partition("?")
        if path in owner.answers:
            status, headers = owner.answers[path]
            self._say(status, headers, b"")
        elif owner.login and who != "Basic " + base64.b64encode(owner.login.encode()).decode():
            self._say(401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
        elif owner.hangs and self.command == "POST":
            owner.hanging.set()
            owner.closing.wait(60)
            self.close_connection = True
        else:
            self._serve(path, query, body)

    def _serve(self, path: str, query: str, body: bytes) -> None:
        name, _, rest = path.lstrip("/").partition(".git/")
        if self.owner.serves_files:
            file = self.owner.root / name / ".git" / rest
            is_there = file.is_file()
            self._say(200 if is_there else 404, {}, file.read_bytes() if is_there else b"")
            return
        backend = shutil.which("git") or "git"
        done = subprocess.run(
            [backend, "http-backend"],
            input=body,
            capture_output=True,
            check=False,
            env={
                **os.environ,
                **NOBODY,
                "GIT_PROJECT_ROOT": str(self.owner.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": f"/{name}/.git/{rest}",
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": ""
                if self.owner.is_old
                else self.headers.get("Git-Protocol", ""),
                "REMOTE_ADDR": "127.0.0.1",
            },
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if line)
        self.owner.packs += b"PACK" in content
        status = int(headers.pop("Status", "200").split()[0])
        self._say(status, headers, content)

    def _say(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
