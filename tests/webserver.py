"""A web server on loopback that counts what it is asked, and does wrong as it is told."""

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class Page:
    """What one path gives.

    Attributes:
        cuts: in how many answers the connection breaks after half of the body.
        busy: how many requests are answered with 503 first.
        is_endless: the body comes again and again.
        trickles: a byte comes from time to time.
        length: what Content-Length says; None for the truth, -1 for none at all.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cuts: int = 0
    busy: int = 0
    is_endless: bool = False
    trickles: bool = False
    length: int | None = None

    @property
    def checksum(self) -> str:
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"


@dataclass
class Asked:
    """One request, and the bytes of body that were sent for it."""

    path: str
    headers: dict[str, str]
    sent: int = 0


class LoopbackServer:
    """Has ``handler`` answer, whose ``owner`` it is, for as long as the block lasts.

    Attributes:
        closing: set at its end.
        server: the one that listens.
    """

    def __init__(self, handler: type["QuietHandler"]) -> None:
        self.closing = threading.Event()
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (handler,), {"owner": self})
        )
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


class WebServer(LoopbackServer):
    """Serves ``pages`` by path."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.pages: dict[str, Page] = {}
        self.asked: list[Asked] = []
        self.server.daemon_threads = False

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def sent(self) -> int:
        """All bytes of bodies that were sent."""
        return sum(one.sent for one in self.asked)


class QuietHandler(BaseHTTPRequestHandler):
    """Answers over connections that stay, and says nothing of those that are hung up."""

    protocol_version = "HTTP/1.1"
    # A head and a body are two writes: else the second waits 40 ms until the first is acknowledged.
    disable_nagle_algorithm = True

    def handle(self) -> None:
        # A client that has had enough hangs up.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Handler(QuietHandler):
    owner: WebServer

    def do_GET(self) -> None:
        asked = Asked(self.path, dict(self.headers))
        self.owner.asked.append(asked)
        page = self.owner.pages.get(self.path, Page(status=404))
        if page.busy:
            page.busy -= 1
            self._head(503, {"Retry-After": "0"}, 0)
            return
        etag = page.headers.get("ETag", "")
        if etag and etag in self.headers.get("If-None-Match", ""):
            self._head(304, {"ETag": etag}, None)
            return
        length = len(page.body) if page.length is None else page.length
        self._head(page.status, page.headers, None if length < 0 else length)
        self.close_connection = self.close_connection or length != len(page.body)
        self._body(page, asked)

    def _head(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _body(self, page: Page, asked: Asked) -> None:
        if page.cuts:
            page.cuts -= 1
            self._send(page.body[: len(page.body) // 2], asked)
            self.close_connection = True
        elif page.trickles:
            while not self.owner.closing.wait(0.05):
                self._send(b"x", asked)
        elif page.is_endless:
            while not self.owner.closing.wait(0.001):
                self._send(page.body, asked)
        else:
            self._send(page.body, asked)

    def _send(self, data: bytes, asked: Asked) -> None:
        self.wfile.write(data)
        asked.sent += len(data)
