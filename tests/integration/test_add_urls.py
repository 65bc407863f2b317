"""ADD of URLs: real clusters and a real web server, whose requests are counted."""

import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.webserver import Page, WebServer

ContextMaker = Callable[..., Path]
Clusters = Callable[..., Cluster]

DATED = {"Last-Modified": "Mon, 03 Feb 2020 04:05:06 GMT"}
OUT = "type=local,dest="


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as running:
        running.pages["/dir/f"] = Page(b"content\n", headers=dict(DATED))
        yield running


def add(web: WebServer, *flags: str, path: str = "/dir/f", dest: str = "/to/") -> str:
    return f"FROM scratch\nADD {' '.join(flags)} {web.url}{path} {dest}\n"


def etag(web: WebServer, text: str, *, path: str = "/dir/f") -> None:
    """Have the server give ``text``, and a tag that stands for it."""
    web.pages[path] = Page(text.encode(), headers={"ETag": f'"{text}"'})


# --- what is built ----------------------------------------------------------------------------


def test_a_file_is_what_docker_makes_of_it(
    cluster: Cluster, web: WebServer, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(
        f"FROM scratch\nADD {web.url}/dir/f /to/\nADD {web.url}/dir/f /as\n"
        f"ADD --chmod=644 {web.url}/dir/f a.txt /both/\n",
        **{"a.txt": "from the context"},
    )
    cluster.build(root, "-o", f"{OUT}{tmp_path / 'out'}")
    for name in ("to/f", "as"):
        status = (tmp_path / "out" / name).stat()
        assert (status.st_mode & 0o7777, status.st_mtime) == (0o600, 1580702706)
    assert (tmp_path / "out/both/f").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "out/both/f").read_text() == "content\n"
    assert (tmp_path / "out/both/a.txt").read_text() == "from the context"
    assert len(web.asked) == 1, "one URL is asked for once in a build"


def test_an_archive_is_unpacked_only_where_that_is_asked_for(
    cluster: Cluster, web: WebServer, context: ContextMaker, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("inside")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"in"))
    web.pages["/a.tar.gz"] = Page(buffer.getvalue())
    url = f"{web.url}/a.tar.gz"
    root = context(f"FROM scratch\nADD {url} /packed/\nADD --unpack {url} /unpacked/\n")
    cluster.build(root, "-o", f"{OUT}{tmp_path / 'out'}")
    assert (tmp_path / "out/packed/a.tar.gz").read_bytes() == buffer.getvalue()
    assert (tmp_path / "out/unpacked/inside").read_bytes() == b"in"


# --- what is asked, and what runs -------------------------------------------------------------


def test_a_checksum_that_a_worker_holds_costs_no_request(
    cluster: Cluster, web: WebServer, context: ContextMaker, tmp_path: Path
) -> None:
    flag = f"--checksum={web.pages['/dir/f'].checksum}"
    cluster.build(context(add(web, flag)))
    assert len(web.asked) == 1
    again = cluster.build(context(add(web, flag)))
    assert again.totals["steps_run"] == 0
    moved = cluster.build(context(add(web, flag, dest="/elsewhere/")))
    assert moved.totals["steps_run"] == 1, "the step that adds it runs; nothing is downloaded"
    elsewhere = add(web, flag).replace(web.host, "nowhere.invalid")
    cluster.build(context(elsewhere), "-o", f"{OUT}{tmp_path / 'out'}")
    assert (tmp_path / "out/to/f").read_text() == "content\n"
    assert cluster.build(context(add(web, flag)), "--no-cache").totals["steps_run"] == 1
    assert len(web.asked) == 1


def test_without_a_checksum_the_content_decides_what_runs(
    cluster: Cluster, web: WebServer, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(add(web) + "FROM scratch\nCOPY --from=0 /to/f /f\n")
    first = cluster.build(root)
    assert first.totals["steps_run"] == 2
    assert f"downloaded {web.url}/dir/f: 8 B, {web.pages['/dir/f'].checksum}" in first.stderr
    assert cluster.build(root).totals["steps_run"] == 0, "the same bytes, asked for again"
    assert (len(web.asked), web.sent) == (2, 16)
    web.pages["/dir/f"] = Page(b"changed\n")
    changed = cluster.build(root, "-o", f"{OUT}{tmp_path / 'out'}")
    assert changed.totals["steps_run"] == 2
    assert (tmp_path / "out/f").read_text() == "changed\n"


def test_another_time_of_the_same_content_runs_nothing(
    cluster: Cluster, web: WebServer, context: ContextMaker
) -> None:
    cluster.build(context(add(web)))
    web.pages["/dir/f"].headers = {"Last-Modified": "Tue, 04 Feb 2020 04:05:06 GMT"}
    assert cluster.build(context(add(web))).totals["steps_run"] == 0


def test_a_content_whose_tag_has_not_changed_does_not_come_again(
    cluster: Cluster, web: WebServer, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(add(web))
    for text in ("one", "two"):
        etag(web, text)
        cluster.build(root)
    sent = web.sent
    for text in ("one", "two"):
        etag(web, text)
        again = cluster.build(root, "-o", f"{OUT}{tmp_path / text}")
        assert again.totals["steps_run"] == 0
        assert (tmp_path / text / "to/f").read_text() == text
    assert (web.sent, len(web.asked)) == (sent, 4)


def test_tags_outlive_manager_and_workers(
    cluster: Cluster, web: WebServer, context: ContextMaker
) -> None:
    etag(web, "one")
    cluster.build(context(add(web)))
    for name in ("manager", *cluster.names):
        cluster.kill(name)
    cluster.start_manager()
    for name in cluster.names:
        cluster.start_worker(name)
    cluster.wait_for_workers()
    assert cluster.build(context(add(web))).totals["steps_run"] == 0
    assert (len(web.asked), web.sent) == (2, 3)


def test_a_file_that_nobody_holds_any_more_comes_again(
    cluster: Cluster, web: WebServer, context: ContextMaker, tmp_path: Path
) -> None:
    etag(web, "one")
    cluster.build(context(add(web)))
    prune = [sys.executable, "-m", "filesync", "prune", "--all", "--manager", cluster.manager]
    subprocess.run(prune, check=True, capture_output=True)
    cluster.build(context(add(web)), "-o", f"{OUT}{tmp_path / 'out'}")
    assert (tmp_path / "out/to/f").read_text() == "one"
    assert web.sent == 6


def test_a_file_goes_from_worker_to_worker_and_is_asked_for_once(
    tmp_path: Path, web: WebServer, context: ContextMaker
) -> None:
    labels = {"w2": ("--label", "gpu=true")}
    root = context(f"FROM scratch AS s\nADD {web.url}/dir/f /f\n")
    with Cluster(tmp_path / "cluster", arguments=labels) as cluster:
        cluster.wait_for_workers()
        built = cluster.build(root, "--place", "s=gpu=true")
        step = built.step("ADD")
        assert step["worker"] == "w2"
        assert [(use["mode"], use["from"]) for use in step["inputs"]] == [("paths", ["w1"])]
    assert len(web.asked) == 1


def test_a_cache_has_the_file_for_a_cluster_that_has_not(
    clusters: Clusters, web: WebServer, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(add(web, f"--checksum={web.pages['/dir/f'].checksum}"))
    to = f"type=local,dest={tmp_path / 'cache'},mode=max"
    clusters("one").build(root, "--cache-to", to)
    at = f"type=local,src={tmp_path / 'cache'}"
    again = clusters("two").build(root, "--cache-from", at, "-o", f"{OUT}{tmp_path / 'out'}")
    assert again.totals["steps_run"] == 0
    assert (tmp_path / "out/to/f").read_text() == "content\n"
    assert len(web.asked) == 1


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--checksum=sha256:" + "a" * 64,)])
def test_a_url_that_gives_nothing_names_its_line(
    cluster: Cluster, web: WebServer, context: ContextMaker, flags: tuple[str, ...]
) -> None:
    built = cluster.build(context(add(web, *flags, path="/g?sig=1")), check=False)
    assert built.status == 1
    assert "Dockerfile:2: " in built.stderr
    assert f"{web.url}/g?xxxxx: not found (status 404); is the URL right?" in built.stderr
    assert "   2 | ADD" in built.stderr


def test_another_content_than_its_checksum_says_fails_the_build_and_is_not_kept(
    cluster: Cluster, web: WebServer, context: ContextMaker
) -> None:
    wrong = "sha256:" + "a" * 64
    built = cluster.build(context(add(web, f"--checksum={wrong}")), check=False)
    assert built.status == 1
    said = f"it gives {web.pages['/dir/f'].checksum}, and {wrong} was expected"
    assert said in built.stderr
    assert len(web.asked) == 1
    assert [*cluster.root.glob("w*/work/*")] == []


def test_no_disk_log_or_image_has_a_secret_of_a_url(
    tmp_path: Path, web: WebServer, context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILESYNC_LOG", "debug")
    web.pages["/f?sig=hunter2"] = Page(b"x", headers={"ETag": '"x"'})
    url = f"http://me:hunter2@{web.host}"
    root = context(
        f"FROM scratch AS s\nADD {url}/f?sig=hunter2 /f\n"
        f"FROM scratch\nCOPY --from=s /f /h\nADD {url}/f?sig=hunter2 /g\n"
    )
    image = ("-o", f"type=oci,dest={tmp_path / 'cluster/app.tar'}", "-t", "app:1")
    cache = ("--cache-to", f"type=local,dest={tmp_path / 'cluster/cache'},mode=max")
    with Cluster(tmp_path / "cluster") as cluster:
        said = cluster.build(root, *image, *cache, "--explain").stderr
        web.pages.clear()
        failed = cluster.build(root, check=False)
        assert failed.status == 1
        # What a step that fails shows of the Dockerfile is for who wrote it.
        said += "\n".join(line for line in failed.stderr.splitlines() if " | ADD" not in line)
    assert "hunter2" not in said
    files = [path for path in (tmp_path / "cluster").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert web.asked[0].headers["Authorization"].startswith("Basic ")


def test_a_download_ends_with_the_client_that_wants_it(
    cluster: Cluster, web: WebServer, context: ContextMaker
) -> None:
    web.pages["/dir/f"] = Page(b"x" * 1000, is_endless=True, length=-1)
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
    root = context(add(web))
    with subprocess.Popen([*command, str(root)], stderr=subprocess.DEVNULL) as client:
        _wait(lambda: web.sent > 10_000)
        client.kill()
    _wait(lambda: _stands_still(web))
    _wait(lambda: not [*cluster.root.glob("w*/work/*")])


def _stands_still(web: WebServer) -> bool:
    before = web.sent
    time.sleep(0.3)
    return web.sent == before


def _wait(until: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline_s, "it goes on"
        time.sleep(0.05)
