"""A registry on loopback that serves one image and does wrong as it is told."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.webserver import LoopbackServer, QuietHandler

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Fault:
    """One wrong answer.

    Attributes:
        cut: bytes of the body after which the connection breaks.
        stall: after ``cut`` bytes nothing more comes, and the connection stays.
        length: what Content-Length says, whatever the body is.
        take: bytes of the request's body after which the connection breaks; they are kept.
        is_lost: what was asked is done, and the connection breaks before the answer.
        late_s: how long the answer takes to come.
        has_no_length: the answer has no Content-Length, and ends with the connection.
        trickles: after ``cut`` bytes of the body one comes from time to time.
        head_trickles: so does the answer from its beginning.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    stall: bool = False
    length: int | None = None
    take: int | None = None
    is_lost: bool = False
    late_s: float = 0.0
    has_no_length: bool = False
    trickles: bool = False
    head_trickles: bool = False


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class FaultyRegistry(LoopbackServer):
    """Serves ``blobs`` and ``manifests`` (by tag and digest) of any repository.

    ``faults[path]`` are answered first, one a request, in order, None as it should be; a path has no ``/v2/`` and may
    be given with its method: ``HEAD lib/app/manifests/1``.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.faults: dict[str, list[Fault | None]] = defaultdict(list)
        self.requests: list[Request] = []
        self.ranges = True
        self.uploads: dict[str, bytearray] = {}
        self.forgets_cut_uploads = False
        self.max_body: int | None = None
        self.location = "{path}session?state={state}"
        self.server.daemon_threads = False

    def add_blob(self, data: bytes) -> dict[str, Any]:
        self.blobs[sha256(data)] = data
        return {"digest": sha256(data), "size": len(data)}

    def add_image(
        self, tag: str, *layers: bytes, config: bytes = b"{}", layer_type: str = LAYER_TYPE
    ) -> str:
        """Serve an image made of ``layers`` under ``tag``; return its manifest's digest."""
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, **self.add_blob(config)},
            "layers": [{"mediaType": layer_type, **self.add_blob(one)} for one in layers],
        }
        return self.add_manifest(tag, value, MANIFEST_TYPE)

    def add_manifest(self, tag: str, value: object, media_type: str) -> str:
        data = json.dumps(value).encode()
        self.manifests[tag] = self.manifests[sha256(data)] = (data, media_type)
        return sha256(data)

    def asked(self, part: str, *, method: str = "GET") -> list[Request]:
        """Return the requests of a method whose path contains ``part``."""
        return [one for one in self.requests if one.method == method and part in one.path]


class _Handler(QuietHandler):
    owner: FaultyRegistry

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fault = self._fault()
        is_cut = fault is not None and fault.take is not None
        sent = self.rfile.read(fault.take if fault is not None and is_cut else length)
        request = Request(self.command, self.path, dict(self.headers), sent)
        self.owner.requests.append(request)
        if is_cut:
            self._session.extend(sent)
            self.close_connection = True
        elif fault is not None and fault.is_lost:
            self._truth(sent)
            self.close_connection = True
        elif self.owner.max_body is not None and length > self.owner.max_body:
            self._answer(413, {}, b"", None)
        elif fault is not None:
            self.owner.closing.wait(fault.late_s)
            body = fault.body if fault.body is not None else self._truth(sent)[2]
            self._answer(fault.status, fault.headers, body, fault)
        else:
            status, headers, body = self._truth(sent)
            self._answer(status, headers, body, None)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

    def _fault(self) -> Fault | None:
        path = self.path.removeprefix("/v2/").partition("?")[0]
        for key in (f"{self.command} {path}", path):
            if self.owner.faults[key]:
                return self.owner.faults[key].pop(0)
        return None

    @property
    def _session(self) -> bytearray:
        """What has come in the upload that this request is of."""
        state = self.path.partition("state=")[2].partition("&")[0]
        return self.owner.uploads.setdefault(state, bytearray())

    def _truth(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        _, _, name = self.path.partition("?")[0].rpartition("/")
        if self.command in ("POST", "PUT", "PATCH"):
            return self._take(name, sent)
        if "/uploads/" in self.path:
            return self._upload(204)
        if "/manifests/" in self.path and name in self.owner.manifests:
            data, kind = self.owner.manifests[name]
            return 200, {"Content-Type": kind, "Docker-Content-Digest": sha256(data)}, data
        if "/blobs/" in self.path and name in self.owner.blobs:
            return self._blob(self.owner.blobs[name])
        return 404, {}, b'{"errors": [{"code": "NOT_FOUND", "message": "no such thing"}]}'

    def _take(self, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.command == "POST":
            state = f"s{len(self.owner.uploads)}"
            self.owner.uploads[state] = bytearray()
            path = self.path.partition("?")[0]
            return 202, {"Location": self.owner.location.format(path=path, state=state)}, b""
        if self.command == "PATCH":
            begin = int(self.headers["Content-Range"].partition("-")[0])
            if begin != len(self._session):
                return 416, {}, b""
            self._session.extend(body)
            return self._upload(202)
        if "/manifests/" in self.path:
            self.owner.manifests[name] = (body, self.headers["Content-Type"])
        else:
            body = bytes(self._session) + body
            if f"digest={sha256(body)}" not in self.path:
                return 400, {}, b'{"errors": [{"message": "digest invalid"}]}'
            self.owner.blobs[sha256(body)] = body
        return 201, {"Docker-Content-Digest": sha256(body)}, b""

    def _upload(self, status: int) -> tuple[int, dict[str, str], bytes]:
        if status == 204 and self.owner.forgets_cut_uploads:
            return 404, {}, b'{"errors": [{"code": "BLOB_UPLOAD_INVALID"}]}'
        end = max(0, len(self._session) - 1)
        return status, {"Location": self.path, "Range": f"0-{end}"}, b""

    def _blob(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
        first, _, last = asked.partition("-")
        at, end = int(first), int(last or len(data) - 1) + 1
        if asked == "0-" or not self.owner.ranges:
            return 200, {}, data
        if at >= len(data):
            return 416, {}, b""
        end = min(end, len(data))
        return 206, {"Content-Range": f"bytes {at}-{end - 1}/{len(data)}"}, data[at:end]

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None
    ) -> None:
        length = len(body) if fault is None or fault.length is None else fault.length
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault is not None and fault.has_no_length:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        if fault is not None and fault.head_trickles:
            self._trickle(b"X-So-On: 1\r\n" * 100)
            return
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = None if fault is None else fault.cut
        self.wfile.write(body if cut is None else body[:cut])
        if fault is not None and fault.trickles:
            self._trickle(body[cut or 0 :])
        if fault is not None and fault.stall:
            self.wfile.flush()
            self.owner.closing.wait()
        if cut is not None or length != len(body):
            self.close_connection = True

    def _trickle(self, data: bytes) -> None:
        self.flush_headers()
        for byte in data:
            if self.owner.closing.wait(0.02):
                return
            self.wfile.write(bytes([byte]))
