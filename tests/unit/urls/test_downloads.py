"""Downloads from a web server that does right and wrong: a whole file, proved, or one clear sentence."""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.errors import FilesyncError, StoreError
from tests.webserver import Page, WebServer
from worker.registry import (
    BadRegistry,
    Host,
    NotInRegistry,
    Registries,
    RegistryDenied,
    RegistryUnavailable,
)
from worker.registry.client_http import RegistryClient
from worker.registry.meter import Meter
from worker.urls import UrlNotModified, WrongChecksum
from worker.urls.download import body_bytes, modified_s, strong_etag
from worker.urls.download_http import _Download, download
from worker.wire.urls import FromUrl, UrlFile

DATA = random.Random(1).randbytes(1_000_000)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.registry.retry.FIRST_WAIT_S", 0.001)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as running:
        running.pages["/f"] = Page(DATA)
        yield running


class Puller:
    """Downloads into ``path``."""

    def __init__(self, path: Path, registries: Registries | None = None) -> None:
        self.path = path
        self.registries = registries or Registries()
        self.silent_s = 30.0
        self.max_bytes = 10 << 20
        self.shares: list[tuple[int, int]] = []

    def pull(self, order: FromUrl) -> UrlFile:
        return asyncio.run(self._pull(order))

    async def _pull(self, order: FromUrl) -> UrlFile:
        meter = Meter(lambda done, total: self.shares.append((done, total)))
        async with RegistryClient(self.registries, silent_s=self.silent_s) as client:
            return await download(client, order, self.path, meter, max_bytes=self.max_bytes)

    def refused(self, url: str, kind: type[FilesyncError]) -> str:
        """Return what is said of a URL that cannot be had."""
        with pytest.raises(kind) as caught:
            self.pull(FromUrl(url, "f"))
        return str(caught.value)


@pytest.fixture
def puller(tmp_path: Path) -> Puller:
    return Puller(tmp_path / "f")


# --- what comes -------------------------------------------------------------------------------


def test_a_file_is_whole_private_and_as_old_as_its_server_says(
    web: WebServer, puller: Puller
) -> None:
    web.pages["/f"].headers = {
        "Last-Modified": "Mon, 03 Feb 2020 04:05:06 GMT",
        "ETag": '"one"',
    }
    found = puller.pull(FromUrl(f"{web.url}/f", "f", web.pages["/f"].checksum))
    assert found == UrlFile(web.pages["/f"].checksum, '"one"')
    assert puller.path.read_bytes() == DATA
    status = puller.path.stat()
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o600, 1580702706)


def test_a_file_whose_server_says_no_time_is_of_1970(web: WebServer, puller: Puller) -> None:
    puller.pull(FromUrl(f"{web.url}/f", "f"))
    assert puller.path.stat().st_mtime == 0


def test_what_is_compressed_stays_as_it_is_sent(web: WebServer, puller: Puller) -> None:
    bomb = b"\x1f\x8b no archive at all"
    web.pages["/f"] = Page(bomb, headers={"Content-Encoding": "gzip"})
    puller.pull(FromUrl(f"{web.url}/f", "f"))
    assert puller.path.read_bytes() == bomb
    assert web.asked[0].headers["Accept-Encoding"] == "identity"


def test_a_body_without_a_length_is_taken_to_its_end(web: WebServer, puller: Puller) -> None:
    web.pages["/f"].length = -1
    assert puller.pull(FromUrl(f"{web.url}/f", "f")).checksum == web.pages["/f"].checksum


def test_an_empty_file_is_a_file(web: WebServer, puller: Puller) -> None:
    web.pages["/f"] = Page(b"")
    puller.pull(FromUrl(f"{web.url}/f", "f"))
    assert puller.path.read_bytes() == b""


def test_a_content_that_is_known_does_not_come_again(web: WebServer, puller: Puller) -> None:
    web.pages["/f"].headers = {"ETag": '"two"'}
    with pytest.raises(UrlNotModified) as caught:
        puller.pull(FromUrl(f"{web.url}/f", "f", etags=('"one"', '"two"')))
    assert caught.value.etag == '"two"'
    assert web.sent == 0


def test_who_says_that_nothing_has_changed_unasked_is_not_believed(
    web: WebServer, puller: Puller
) -> None:
    web.pages["/f"] = Page(status=304)
    assert "status 304, which brings no file" in puller.refused(f"{web.url}/f", BadRegistry)
    puller.path.unlink()
    with pytest.raises(BadRegistry, match="nothing has changed, and not what"):
        puller.pull(FromUrl(f"{web.url}/f", "f", etags=('"one"', '"two"')))


# --- what goes wrong --------------------------------------------------------------------------


def test_a_cut_or_a_busy_server_is_asked_again_and_the_file_is_whole(
    web: WebServer, puller: Puller
) -> None:
    web.pages["/f"].cuts, web.pages["/f"].busy = 2, 1
    found = puller.pull(FromUrl(f"{web.url}/f", "f", web.pages["/f"].checksum))
    assert found.checksum == web.pages["/f"].checksum
    assert puller.path.read_bytes() == DATA
    assert len(web.asked) == 4


def test_a_server_that_always_cuts_is_given_up(web: WebServer, puller: Puller) -> None:
    web.pages["/f"].cuts = 1000
    assert "6 times in a row" in puller.refused(f"{web.url}/f", RegistryUnavailable)
    assert len(web.asked) == 6


def test_a_server_that_is_not_there_is_named(puller: Puller) -> None:
    with WebServer() as gone:
        url = f"http://me:hunter2@{gone.host}/f?sig=hunter2"
    said = puller.refused(url, RegistryUnavailable)
    assert "cannot be reached" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (404, NotInRegistry, "not found (status 404); is the URL right?"),
        (410, NotInRegistry, "not found (status 410)"),
        (401, RegistryDenied, "may not be read (status 401); have a RUN fetch it"),
        (403, RegistryDenied, "may not be read (status 403)"),
        (204, BadRegistry, "status 204, which brings no file"),
        (400, BadRegistry, "status 400"),
    ],
)
def test_a_status_that_is_no_success_is_one_sentence_without_secrets(
    web: WebServer, puller: Puller, status: int, kind: type[FilesyncError], text: str
) -> None:
    web.pages["/g?sig=hunter2"] = Page(b"hunter2" if status != 204 else b"", status=status)
    said = puller.refused(f"http://me:hunter2@{web.host}/g?sig=hunter2", kind)
    assert said.startswith(f"http://xxxxx:xxxxx@{web.host}/g?xxxxx: ")
    assert text in said
    assert len(web.asked) == 1


def test_another_content_than_the_checksum_says_is_refused(
    web: WebServer, puller: Puller
) -> None:
    other = "sha256:" + "a" * 64
    with pytest.raises(WrongChecksum) as caught:
        puller.pull(FromUrl(f"{web.url}/f", "f", other))
    assert f"it gives {web.pages['/f'].checksum}, and {other} was expected" in str(caught.value)


def test_a_body_without_end_is_cut_off(web: WebServer, puller: Puller) -> None:
    web.pages["/f"].is_endless, web.pages["/f"].length = True, -1
    puller.max_bytes = 3 << 20
    assert "does not end after 3145728 bytes" in puller.refused(f"{web.url}/f", BadRegistry)
    assert puller.path.stat().st_size <= 4 << 20
    assert len(web.asked) == 1


def test_a_body_that_says_to_be_too_long_is_not_even_begun(
    web: WebServer, puller: Puller
) -> None:
    web.pages["/f"].length = 1 << 50
    assert "more than" in puller.refused(f"{web.url}/f", BadRegistry)
    assert puller.path.stat().st_size == 0


def test_a_trickle_is_given_up(web: WebServer, puller: Puller) -> None:
    web.pages["/f"].trickles, web.pages["/f"].length = True, -1
    puller.silent_s = 0.2
    began_s = time.monotonic()
    assert "bytes came in" in puller.refused(f"{web.url}/f", RegistryUnavailable)
    assert time.monotonic() - began_s < 10


def test_a_disk_that_does_not_take_it_is_said(web: WebServer, puller: Puller) -> None:
    puller.path.write_bytes(b"in the way")
    assert "File exists" in puller.refused(f"{web.url}/f", StoreError)
    assert web.asked == []


# --- redirects, and who may see what ----------------------------------------------------------


def test_redirects_are_followed_to_other_hosts_without_the_login(
    web: WebServer, puller: Puller
) -> None:
    with WebServer() as other:
        other.pages["/real"] = Page(b"there")
        web.pages["/f"] = Page(status=302, headers={"Location": "/g"})
        web.pages["/g"] = Page(status=307, headers={"Location": f"{other.url}/real"})
        puller.pull(FromUrl(f"http://me:p%40ss@{web.host}/f", "f"))
        assert puller.path.read_bytes() == b"there"
        assert [one.headers.get("Authorization") for one in web.asked] == [
            "Basic bWU6cEBzcw=="
        ] * 2
        assert "Authorization" not in other.asked[0].headers


@pytest.mark.parametrize(
    ("to", "text"),
    [
        ("/f", "more than 10 redirects"),
        ("file:///etc/passwd", "redirects to what is no web address"),
        ("gopher://127.0.0.1/", "redirects to what is no web address"),
        ("http://[::1", "Invalid URL in location header"),
    ],
)
def test_redirects_that_lead_nowhere_are_refused(
    web: WebServer, puller: Puller, to: str, text: str
) -> None:
    web.pages["/f"] = Page(status=302, headers={"Location": to})
    assert text in puller.refused(f"{web.url}/f", BadRegistry)
    assert len(web.asked) <= 11


def test_an_encrypted_address_may_not_lead_to_one_that_is_not(puller: Puller) -> None:
    order = FromUrl("https://example.org/f", "f")

    def follow(hosts: dict[str, Host]) -> str:
        client = RegistryClient(Registries(hosts))
        with open(os.devnull, "r+b") as nothing:
            one = _Download(client, order, nothing, Meter(lambda *_: None), 1)
        first = one._url(order.url, None)
        return str(one._url("http://mirror.example/f", first))

    with pytest.raises(BadRegistry, match=r"redirects to mirror.example in plain HTTP"):
        follow({})
    allowed = {"mirror.example": Host(http=True)}
    assert follow(allowed) == "http://mirror.example/f"


# --- what headers mean ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ('"a"', '"a"'),
        ('  "a" ', '"a"'),
        ('W/"a"', ""),
        ("a", ""),
        ('"a", "b"', ""),
        ('"' + "a" * 2000 + '"', ""),
        ('"a\r\nX: y"', ""),
    ],
)
def test_only_a_tag_that_stands_for_the_very_bytes_counts(said: str, meant: str) -> None:
    assert strong_etag({"etag": said}) == meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Mon, 03 Feb 2020 04:05:06 GMT", 1580702706),
        ("Mon, 03 Feb 2020 04:05:06", 1580702706),
        ("yesterday", 0),
        ("", 0),
        ("Mon, 03 Feb 1960 04:05:06 GMT", 0),
        ("Mon, 03 Feb 9999 04:05:06 GMT", 0),
        ("Mon, 99 Feb 2020 04:05:06 GMT", 0),
    ],
)
def test_a_time_that_cannot_be_kept_is_none(said: str, meant: int) -> None:
    assert modified_s({"last-modified": said}) == meant


@pytest.mark.parametrize(("said", "meant"), [("12", 12), ("-1", None), ("x", None), ("", None)])
def test_a_length_is_a_number(said: str, meant: int | None) -> None:
    assert body_bytes({"content-length": said}) == meant
