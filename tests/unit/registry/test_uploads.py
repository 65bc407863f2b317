"""Pushes to a registry that does wrong, and images pushed on from one registry to another."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.registry.faulty import Fault, FaultyRegistry, sha256
from tests.unit.registry.test_registry_faults import DIGEST, LAYER, Puller, give
from worker.blobs import BlobStore
from worker.images import Images
from worker.registry import BadRegistry, Host, NotInRegistry, Registries, RegistryError
from worker.store import Store
from worker.wire.images import FromRegistry, Pushed, RelayImage

CHUNK = 1_000_000
SESSION = "new/blobs/uploads/session"


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.registry.retry.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("worker.registry.upload_http.CHUNK_BYTES", CHUNK)


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as running:
        yield running


@pytest.fixture
def pusher(registry: FaultyRegistry, tmp_path: Path) -> Puller:
    store = BlobStore(tmp_path / "blobs")
    store.ingest([LAYER])
    return Puller(registry, store)


def sent(registry: FaultyRegistry) -> list[int]:
    return [len(one.body) for one in registry.asked("session", method="PATCH")]


def open_files() -> list[str]:
    return [fd.readlink().name for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]


# --- a large blob goes in chunks ---------------------------------------------------------------


def test_a_large_blob_goes_in_chunks_and_is_closed_with_its_digest(pusher: Puller) -> None:
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert sent(pusher.registry) == [CHUNK] * 3
    ranges = [
        one.headers["Content-Range"] for one in pusher.registry.asked("session", method="PATCH")
    ]
    assert ranges == ["0-999999", "1000000-1999999", "2000000-2999999"]


def test_an_upload_that_is_cut_goes_on_from_what_the_registry_has(pusher: Puller) -> None:
    pusher.registry.faults[f"PATCH {SESSION}"] = [None, Fault(take=400_000)]
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert sent(pusher.registry) == [CHUNK, 400_000, CHUNK, 600_000]
    assert len(pusher.registry.asked("session", method="GET")) == 1


def test_a_registry_that_forgot_the_session_is_sent_all_again(pusher: Puller) -> None:
    pusher.registry.forgets_cut_uploads = True
    pusher.registry.faults[f"PATCH {SESSION}"] = [Fault(take=400_000)]
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert sent(pusher.registry) == [400_000, CHUNK, CHUNK, CHUNK]
    assert len(pusher.registry.asked("uploads/", method="POST")) == 2


def test_a_registry_that_takes_no_chunks_is_sent_the_blob_whole(pusher: Puller) -> None:
    pusher.registry.faults[f"PATCH {SESSION}"] = [Fault(status=405, body=b"")]
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert [len(one.body) for one in pusher.registry.asked("session", method="PUT")] == [
        len(LAYER)
    ]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_chunk_that_may_pass_later_is_sent_again(pusher: Puller, status: int) -> None:
    pusher.registry.faults[f"PATCH {SESSION}"] = [Fault(status=status, body=b"")]
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER


def test_an_upload_that_is_never_taken_is_given_up_and_publishes_nothing(
    pusher: Puller,
) -> None:
    pusher.registry.faults[f"PATCH {SESSION}"] = [Fault(take=0)] * 50
    with pytest.raises(RegistryError, match="connection broke"):
        asyncio.run(give(pusher))
    assert pusher.registry.manifests == {}
    assert len(sent(pusher.registry)) < 10


def put(registry: FaultyRegistry) -> list[int]:
    return [len(one.body) for one in registry.asked("session", method="PUT")]


@pytest.mark.parametrize("chunk", [CHUNK, len(LAYER)], ids=["in chunks", "whole"])
def test_a_blob_of_which_only_the_answer_was_lost_is_not_sent_again(
    pusher: Puller, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("worker.registry.upload_http.CHUNK_BYTES", chunk)
    pusher.registry.faults[f"PUT {SESSION}"] = [Fault(is_lost=True)]
    asyncio.run(give(pusher))
    assert "2" in pusher.registry.manifests
    large = [one for one in sent(pusher.registry) + put(pusher.registry) if one > 1000]
    assert sum(large) == len(LAYER)


def test_a_blob_whose_requests_are_cut_for_their_length_goes_in_shorter_ones(
    pusher: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.registry.upload_http.CHUNK_BYTES", len(LAYER))
    monkeypatch.setattr("worker.registry.upload_http.MIN_CHUNK_BYTES", 1000)
    pusher.registry.faults[f"PUT {SESSION}"] = [Fault(take=1_000_000)]
    pusher.registry.faults[f"PATCH {SESSION}"] = [Fault(take=0)]
    pusher.registry.forgets_cut_uploads = True
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert sent(pusher.registry) == [0, *[len(LAYER) // 16] * 16]


def test_a_registry_that_does_not_say_what_it_has_is_sent_all(pusher: Puller) -> None:
    pusher.registry.faults[f"HEAD new/blobs/{DIGEST}"] = [Fault(status=405, body=b"")] * 2
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER


def test_a_proxy_that_takes_no_large_requests_is_sent_small_ones(
    pusher: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.registry.upload_http.MIN_CHUNK_BYTES", 1000)
    pusher.registry.max_body = 300_000
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert sent(pusher.registry) == [CHUNK, *[CHUNK // 4] * 12]


def test_a_proxy_that_takes_not_even_small_requests_is_told_of(pusher: Puller) -> None:
    pusher.registry.max_body = 100
    with pytest.raises(BadRegistry, match=r"too large \(status 413\); allow more"):
        asyncio.run(give(pusher))


def test_a_registry_that_forgot_the_session_when_it_is_closed_is_sent_all_again(
    pusher: Puller,
) -> None:
    pusher.registry.faults[f"PUT {SESSION}"] = [Fault(status=404, body=b"{}")] * 2
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER


@pytest.mark.parametrize(
    "location", ["session?state={state}", "HTTP://{host}{path}session?state={state}"]
)
def test_where_an_upload_goes_on_may_be_said_in_any_form(pusher: Puller, location: str) -> None:
    pusher.registry.location = location.replace("{host}", pusher.registry.host)
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert len(pusher.registry.asked(f"/v2/{SESSION}?", method="PUT")) == 1


def test_a_registry_may_take_the_longer_to_keep_a_blob_the_larger_it_is(
    pusher: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.registry.upload_http.COMMIT_BYTES_PER_S", len(LAYER) / 20)
    pusher.silent_s = 0.5
    pusher.registry.faults[f"PUT {SESSION}"] = [Fault(late_s=1.0)]
    asyncio.run(give(pusher))
    assert len(put(pusher.registry)) == 1
    assert len(pusher.registry.asked("uploads/", method="POST")) == 1


def test_what_an_upload_reads_is_closed_when_it_is_given_up(pusher: Puller) -> None:
    async def fail() -> list[str]:
        with pytest.raises(RegistryError):
            await give(pusher)
        return open_files()

    pusher.registry.faults[f"PATCH {SESSION}"] = [Fault(take=0)] * 50
    assert DIGEST.removeprefix("sha256:") not in asyncio.run(fail())


# --- from registry to registry -----------------------------------------------------------------


class Relay:
    """An image in ``source`` that is pushed to ``target`` through a worker with an empty store."""

    def __init__(self, source: FaultyRegistry, target: FaultyRegistry, store: Store) -> None:
        config = {"rootfs": {"type": "layers", "diff_ids": [DIGEST]}}
        self.manifest = source.add_image("1", LAYER, config=json.dumps(config).encode())
        self.source, self.target, self.store = source, target, store.blobs
        hosts = {one.host: Host(http=True) for one in (source, target)}
        self.images = Images(store, Registries(hosts))

    def push(self, names: str = "new:2") -> Pushed:
        image = FromRegistry(f"{self.source.host}/app", self.manifest)
        order = RelayImage(image, b'{"os":"linux"}', (f"{self.target.host}/{names}",))
        return asyncio.run(self.images.relay(order, lambda _, __: None))


@pytest.fixture
def relay(registry: FaultyRegistry, tmp_path: Path) -> Iterator[Relay]:
    store = Store.open(tmp_path, snapshotter="copy")
    with FaultyRegistry() as target:
        yield Relay(registry, target, store)
    store.close()


def test_a_layer_goes_from_registry_to_registry_and_not_to_disk(relay: Relay) -> None:
    pushed = relay.push()
    assert relay.target.blobs[DIGEST] == LAYER
    assert DIGEST not in relay.store
    assert relay.store.partials() == ()
    assert len(LAYER) < pushed.bytes_sent < len(LAYER) + 1000
    assert relay.target.manifests["2"][0].count(DIGEST.encode()) == 1


def test_a_layer_that_the_target_has_is_not_read_at_all(relay: Relay) -> None:
    relay.target.add_blob(LAYER)
    relay.push()
    assert relay.source.asked(DIGEST) == []


def test_a_source_that_is_cut_goes_on_by_range(relay: Relay) -> None:
    relay.source.faults[f"app/blobs/{DIGEST}"] = [Fault(cut=400_000)]
    relay.push()
    assert relay.target.blobs[DIGEST] == LAYER
    assert any("Range" in one.headers for one in relay.source.asked(DIGEST))


def test_a_source_without_ranges_is_read_past_what_has_gone_on(relay: Relay) -> None:
    relay.source.ranges = False
    relay.source.faults[f"app/blobs/{DIGEST}"] = [Fault(cut=400_000)]
    relay.push()
    assert relay.target.blobs[DIGEST] == LAYER


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(body=LAYER[:-1] + b"?"), BadRegistry),
        (Fault(body=LAYER[:-9]), BadRegistry),
        (Fault(body=LAYER + b"more"), BadRegistry),
        (Fault(status=404, body=b"{}"), NotInRegistry),
    ],
)
def test_a_source_that_lies_publishes_nothing(
    relay: Relay, fault: Fault, error: type[RegistryError]
) -> None:
    relay.source.ranges = False
    relay.source.faults[f"app/blobs/{DIGEST}"] = [fault] * 20
    with pytest.raises(error):
        relay.push()
    assert relay.target.manifests == {}
    assert sha256(LAYER[:-1] + b"?") not in relay.target.blobs
