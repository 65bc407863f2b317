"""Pulls from a registry that does wrong: each is a retry or a clear error, nothing half-kept."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cancelling import Held, cancel_during, open_below
from tests.unit.registry.faulty import (
    MANIFEST_TYPE,
    Fault,
    FaultyRegistry,
    sha256,
)
from worker.blobs import BlobStore
from worker.registry import (
    BadRegistry,
    Host,
    NotInRegistry,
    Platform,
    Registries,
    RegistryBusy,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
)
from worker.registry.blobs_http import get_blob
from worker.registry.client_http import RegistryClient
from worker.registry.images_http import Pulls
from worker.registry.manifest import Descriptor
from worker.registry.pushes_http import Pushes
from worker.registry.repository_http import Repository
from worker.wire.images import Credential, Reference

LAYER = random.Random(1).randbytes(3_000_000)
DIGEST = sha256(LAYER)
BLOB = f"app/blobs/{DIGEST}"
LINUX = Platform("linux", "amd64")
ROOTFS = {"type": "layers", "diff_ids": [DIGEST]}
CONFIG = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": ROOTFS}).encode()
OTHER = json.dumps({"os": "linux", "architecture": "s390x", "rootfs": ROOTFS}).encode()
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.registry.retry.FIRST_WAIT_S", 0.001)


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as running:
        running.add_image("1", LAYER, config=CONFIG)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


class Puller:
    """A worker's half of a pull.

    Attributes:
        silent_s: how long the registry may be silent. Short only where it is: on a busy machine it
            may be for a moment, and is asked again, when it has no fault any more.
    """

    def __init__(
        self,
        registry: FaultyRegistry,
        store: BlobStore,
        *,
        hosts: dict[str, Host] | None = None,
        credential: Credential | None = None,
    ) -> None:
        self.registry = registry
        self.store = store
        self.registries = Registries(hosts or {registry.host: Host(http=True)})
        self.credentials = () if credential is None else (credential,)
        self.pulls = Pulls(store)
        self.came = 0
        self.silent_s = 30.0

    def client(self) -> RegistryClient:
        return RegistryClient(self.registries, self.credentials, silent_s=self.silent_s)

    async def _resolve(self, tag: str) -> tuple[str, bytes]:
        async with self.client() as client:
            name = Reference(self.registry.host, "app", tag)
            return await self.pulls.resolve(client, name, LINUX)

    async def _pull(self, digest: str) -> None:
        async with self.client() as client:
            image = Reference(self.registry.host, "app", "", digest)
            await self.pulls.pull(client, image, lambda _: None, self.count)

    def count(self, size: int) -> None:
        self.came += size

    def resolve(self, tag: str = "1") -> tuple[str, bytes]:
        return asyncio.run(self._resolve(tag))

    def pull(self, tag: str = "1") -> None:
        asyncio.run(self._pull(sha256(self.registry.manifests[tag][0])))

    def pull_twice_at_once(self) -> None:
        async def both() -> None:
            digest = sha256(self.registry.manifests["1"][0])
            await asyncio.gather(self._pull(digest), self._pull(digest))

        asyncio.run(both())


@pytest.fixture
def puller(registry: FaultyRegistry, store: BlobStore) -> Puller:
    return Puller(registry, store)


def partial(store: BlobStore) -> Path:
    return store.directory / "partial" / DIGEST.removeprefix("sha256:")


def leftovers(store: BlobStore) -> list[Path]:
    return [*(store.directory / "partial").iterdir(), *(store.directory / "ingest").iterdir()]


# --- what goes well --------------------------------------------------------------------------


def test_a_tag_means_a_manifest_and_a_configuration(puller: Puller) -> None:
    digest, config = puller.resolve()
    assert digest == sha256(puller.registry.manifests["1"][0])
    assert config == CONFIG


def test_a_tag_that_means_what_it_meant_costs_one_head(puller: Puller) -> None:
    first = puller.resolve()
    puller.registry.requests.clear()
    assert puller.resolve() == first
    assert [one.method for one in puller.registry.requests] == ["HEAD"]


def test_a_pull_brings_each_blob_once(puller: Puller) -> None:
    puller.pull()
    assert puller.store.path(DIGEST).read_bytes() == LAYER
    puller.pull()
    assert len(puller.registry.asked(BLOB)) == 1
    assert leftovers(puller.store) == []


def test_two_pulls_of_one_image_at_once_download_it_once(puller: Puller) -> None:
    puller.pull_twice_at_once()
    assert len(puller.registry.asked(BLOB)) == 1
    assert puller.came == len(LAYER) + len(CONFIG)


def test_a_registry_that_knows_no_head_is_asked_for_the_manifest_itself(puller: Puller) -> None:
    puller.registry.faults["HEAD app/manifests/1"] = [Fault(status=405, body=b"")]
    assert puller.resolve()[1] == CONFIG


# --- what is asked again ---------------------------------------------------------------------


def test_a_body_that_is_cut_goes_on_where_it_ended(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(cut=1_000_000)]
    puller.pull()
    first, second = puller.registry.asked(BLOB)
    assert "Range" not in first.headers
    assert second.headers["Range"] == "bytes=1000000-"
    assert puller.store.path(DIGEST).read_bytes() == LAYER
    assert puller.came == len(LAYER) + len(CONFIG)


def test_a_body_that_stalls_goes_on_over_another_connection(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(cut=1_500_000, stall=True)]
    puller.silent_s = 0.2
    puller.pull()
    assert puller.registry.asked(BLOB)[1].headers["Range"] == "bytes=1500000-"
    assert puller.store.path(DIGEST).read_bytes() == LAYER


def test_a_registry_without_ranges_is_read_from_the_beginning_again(puller: Puller) -> None:
    puller.registry.ranges = False
    puller.registry.faults[BLOB] = [Fault(cut=1_500_000)]
    puller.pull()
    assert puller.store.path(DIGEST).read_bytes() == LAYER


def test_a_link_that_always_breaks_at_the_same_place_is_given_up(puller: Puller) -> None:
    puller.registry.ranges = False
    puller.registry.faults[BLOB] = [Fault(cut=500_000)] * 50
    with pytest.raises(RegistryUnavailable, match="6 times in a row; try again later"):
        puller.pull()
    assert len(puller.registry.asked(BLOB)) == 6


def test_a_link_that_breaks_ever_further_on_is_not_given_up(puller: Puller) -> None:
    puller.registry.ranges = False
    puller.registry.faults[BLOB] = [Fault(cut=n * 200_000) for n in range(1, 15)]
    puller.pull()
    assert DIGEST in puller.store


def test_a_body_without_a_length_that_is_cut_goes_on_where_it_ended(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(cut=1_000_000, has_no_length=True)]
    puller.pull()
    assert DIGEST in puller.store
    assert puller.registry.asked(BLOB)[1].headers["Range"] == "bytes=1000000-"


@pytest.mark.parametrize("what", ["manifests/1", f"blobs/{sha256(CONFIG)}"])
def test_what_is_small_and_was_cut_without_a_length_is_asked_for_again(
    puller: Puller, what: str
) -> None:
    digest = sha256(puller.registry.manifests["1"][0])
    told = {"Docker-Content-Digest": digest} if what == "manifests/1" else {}
    puller.registry.faults[f"GET app/{what}"] = [
        Fault(cut=20, has_no_length=True, headers=told)
    ]
    assert puller.resolve() == (digest, CONFIG)


@pytest.mark.parametrize("fast", [0, 1_000_000])
def test_a_body_that_trickles_goes_on_over_another_connection(
    puller: Puller, fast: int
) -> None:
    puller.silent_s = 0.5
    puller.registry.faults[BLOB] = [Fault(cut=fast, trickles=True)]
    puller.pull()
    assert DIGEST in puller.store
    _, again = puller.registry.asked(BLOB)
    assert int(again.headers["Range"].removeprefix("bytes=").rstrip("-")) >= fast


def test_an_answer_whose_head_trickles_is_no_answer(
    puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.registry.client_http.CONNECT_S", 0.1)
    puller.silent_s = 0.5
    puller.registry.faults[BLOB] = [Fault(head_trickles=True)]
    puller.pull()
    assert len(puller.registry.asked(BLOB)) == 2


def test_a_registry_that_refuses_a_range_is_read_from_the_beginning_again(
    puller: Puller,
) -> None:
    puller.registry.faults[BLOB] = [Fault(cut=1_500_000), Fault(status=416, body=b"")]
    puller.pull()
    assert "Range" not in puller.registry.asked(BLOB)[2].headers
    assert puller.store.path(DIGEST).read_bytes() == LAYER


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_an_error_that_may_pass_is_asked_again(puller: Puller, status: int) -> None:
    puller.registry.faults[BLOB] = [Fault(status=status, body=b""), Fault(status=status)]
    puller.pull()
    assert len(puller.registry.asked(BLOB)) == 3


def test_a_wait_that_is_asked_for_is_kept(
    puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def remember(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("worker.registry.trouble_http.asyncio.sleep", remember)
    puller.registry.faults[BLOB] = [Fault(status=429, headers={"Retry-After": "3"}, body=b"")]
    puller.pull()
    assert waits == [3.0]


# --- what is an error ------------------------------------------------------------------------


def refused(puller: Puller, error: type[RegistryError], says: str) -> None:
    """The pull fails with this sentence, and of the layer nothing is kept."""
    with pytest.raises(error, match=says):
        puller.pull()
    assert DIGEST not in puller.store
    assert not puller.store.path(DIGEST).exists()


def test_a_rate_limit_of_an_hour_is_told_at_once(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(status=429, headers={"Retry-After": "3600"})]
    refused(puller, RegistryBusy, "too many requests; it asks to wait 3600 s. Log in")
    assert len(puller.registry.asked(BLOB)) == 1


def test_a_registry_that_goes_on_failing_is_given_up(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(status=500, body=b"") for _ in range(20)]
    refused(puller, RegistryUnavailable, f"{puller.registry.host}/app: status 500")
    assert len(puller.registry.asked(BLOB)) == 6


def test_a_missing_blob_is_told_in_the_registrys_words(puller: Puller) -> None:
    del puller.registry.blobs[DIGEST]
    says = f"/app: the blob {DIGEST}: not found: no such thing"
    refused(puller, NotInRegistry, says)
    assert len(puller.registry.asked(BLOB)) == 1


def test_a_missing_tag_is_told(puller: Puller) -> None:
    with pytest.raises(NotInRegistry, match="/app:none: not found"):
        puller.resolve("none")


def test_a_blob_of_other_bytes_is_refused_and_not_kept(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(body=bytes(len(LAYER)))]
    refused(puller, BadRegistry, f"a blob should be {DIGEST}")
    assert not partial(puller.store).exists()


def test_a_blob_that_is_longer_than_its_manifest_says_is_refused(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(body=LAYER + b"x")]
    refused(puller, BadRegistry, "has 3000001 bytes where the manifest says 3000000")


def test_a_blob_that_is_shorter_than_its_manifest_says_is_refused(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(body=LAYER[:-1])]
    refused(puller, BadRegistry, "has 2999999 bytes where the manifest says 3000000")


def test_a_range_of_other_bytes_is_refused(puller: Puller) -> None:
    wrong = {"Content-Range": f"bytes 0-{len(LAYER) - 1}/{len(LAYER)}"}
    puller.registry.faults[BLOB] = [Fault(cut=1_500_000), Fault(status=206, headers=wrong)]
    refused(puller, BadRegistry, "bytes 1500000- of 3000000 were asked for")


def test_a_manifest_of_other_bytes_is_refused(puller: Puller) -> None:
    digest = puller.registry.add_image("2", b"another")
    other, kind = puller.registry.manifests["2"]
    puller.registry.manifests[sha256(puller.registry.manifests["1"][0])] = (other, kind)
    refused(puller, BadRegistry, f"came as {digest}")


def test_a_tag_whose_digest_is_a_lie_is_refused(puller: Puller) -> None:
    lie = {"Docker-Content-Digest": "sha256:" + "0" * 64, "Content-Type": MANIFEST_TYPE}
    puller.registry.faults["GET app/manifests/1"] = [Fault(headers=lie)]
    with pytest.raises(BadRegistry, match="the manifest sha256:0000"):
        puller.resolve()


def test_a_manifest_under_another_type_is_refused(puller: Puller) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    puller.registry.faults["GET app/manifests/1"] = [Fault(headers={"Content-Type": kind})]
    with pytest.raises(BadRegistry, match=r"calls itself .* came as"):
        puller.resolve()


def test_a_manifest_without_end_is_refused(puller: Puller) -> None:
    puller.registry.faults["GET app/manifests/1"] = [Fault(body=b" " * (5 << 20))]
    with pytest.raises(BadRegistry, match="an answer of more than 4194304 bytes"):
        puller.resolve()


def listed(registry: FaultyRegistry, tag: str, platform: str = "") -> dict[str, object]:
    """Return an index's entry for what ``tag`` is; it says for what that is, or does not."""
    data, kind = registry.manifests[tag]
    entry: dict[str, object] = {"mediaType": kind, "digest": sha256(data), "size": len(data)}
    if platform:
        entry["platform"] = dict(zip(("os", "architecture"), platform.split("/"), strict=True))
    return entry


def add_index(registry: FaultyRegistry, tag: str, *entries: dict[str, object]) -> str:
    value = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
    return registry.add_manifest(tag, value, INDEX_TYPE)


def test_an_image_in_an_index_in_an_index_is_found(puller: Puller) -> None:
    registry = puller.registry
    wanted = sha256(registry.manifests["1"][0])
    registry.add_image("other", LAYER, config=OTHER)
    add_index(registry, "first", listed(registry, "other", "linux/s390x"))
    add_index(registry, "inner", listed(registry, "1", "linux/amd64"))
    add_index(registry, "outer", listed(registry, "first"), listed(registry, "inner"))
    assert puller.resolve("outer") == (wanted, CONFIG)
    add_index(registry, "said", listed(registry, "inner", "linux/amd64"))
    assert puller.resolve("said") == (wanted, CONFIG)


def test_where_an_index_does_not_say_for_what_an_image_is_its_configuration_does(
    puller: Puller,
) -> None:
    registry = puller.registry
    wanted = sha256(registry.manifests["1"][0])
    registry.add_image("other", LAYER, config=OTHER)
    signature = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            **registry.add_blob(b"{}"),
        },
        "layers": [],
    }
    registry.add_manifest("signature", signature, MANIFEST_TYPE)
    entries = [listed(registry, tag) for tag in ("signature", "other", "1")]
    add_index(registry, "unsaid", *entries)
    assert puller.resolve("unsaid") == (wanted, CONFIG)
    add_index(registry, "none", *entries[:2])
    with pytest.raises(NotInRegistry, match="none: there is no image for linux/amd64"):
        puller.resolve("none")


def test_indexes_in_indexes_without_end_are_not_read_without_end(puller: Puller) -> None:
    registry = puller.registry
    add_index(registry, "0")
    for level in range(60):
        add_index(registry, str(level + 1), listed(registry, str(level)))
    with pytest.raises(BadRegistry, match="more than 50 manifests"):
        puller.resolve("60")


def test_an_image_whose_configuration_speaks_of_other_layers_is_refused(puller: Puller) -> None:
    puller.registry.add_image("lie", LAYER, LAYER[:9], config=CONFIG)
    with pytest.raises(BadRegistry, match="2 layers and 1 diff_ids"):
        puller.resolve("lie")


def test_an_image_of_another_size_than_its_index_says_is_refused(puller: Puller) -> None:
    digest = sha256(puller.registry.manifests["1"][0])
    kind = "application/vnd.oci.image.index.v1+json"
    platform = {"os": "linux", "architecture": "amd64"}
    entry = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": 7, "platform": platform}
    puller.registry.add_manifest("all", {"schemaVersion": 2, "manifests": [entry]}, kind)
    with pytest.raises(BadRegistry, match="not 7"):
        puller.resolve("all")


def test_a_registry_that_is_not_there_is_told(puller: Puller) -> None:
    host = "127.0.0.1:1"
    puller.registry.requests.clear()
    puller.registries = Registries({host: Host(http=True)})

    async def resolve() -> None:
        async with RegistryClient(puller.registries) as client:
            await puller.pulls.resolve(client, Reference(host, "app", "1"), LINUX)

    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:1: cannot be reached"):
        asyncio.run(resolve())


def test_a_registry_that_does_not_speak_tls_is_not_spoken_to_in_plain_http(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    puller = Puller(registry, store, hosts={registry.host: Host()})
    with pytest.raises(
        RegistryError, match=r"does not speak TLS .*`http = true` below \[registry"
    ):
        puller.resolve()
    assert registry.requests == []


# --- kills and rotten disks ------------------------------------------------------------------


def test_what_a_killed_pull_left_is_not_asked_for_again(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    partial(store).write_bytes(LAYER[:2_000_000])
    puller = Puller(registry, BlobStore(store.directory))
    puller.pull()
    assert registry.asked(BLOB)[0].headers["Range"] == "bytes=2000000-"
    assert puller.store.path(DIGEST).read_bytes() == LAYER
    assert leftovers(puller.store) == []


def test_a_killed_pull_that_had_all_asks_for_nothing(puller: Puller) -> None:
    partial(puller.store).write_bytes(LAYER)
    puller.pull()
    assert puller.registry.asked(BLOB) == []
    assert puller.store.path(DIGEST).read_bytes() == LAYER


def test_rotten_bytes_of_a_killed_pull_are_found_and_fetched_anew(puller: Puller) -> None:
    partial(puller.store).write_bytes(b"?" + LAYER[1:2_000_000])
    puller.pull()
    assert "Range" not in puller.registry.asked(BLOB)[1].headers
    assert puller.store.path(DIGEST).read_bytes() == LAYER


def test_more_than_the_blob_of_a_killed_pull_is_thrown_away(puller: Puller) -> None:
    partial(puller.store).write_bytes(LAYER + b"more")
    puller.pull()
    assert puller.store.path(DIGEST).read_bytes() == LAYER


def test_a_prune_removes_what_a_killed_pull_left_unless_it_is_going_on(
    store: BlobStore,
) -> None:
    partial(store).write_bytes(LAYER[:100])
    with store.holding([DIGEST]):
        assert not store.drop_partial(DIGEST)
        assert partial(store).exists()
    assert store.drop_partial(DIGEST)
    assert not partial(store).exists()


# --- who asks, and whom ----------------------------------------------------------------------

BASIC = Fault(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'}, body=b"")


def bearer(registry: FaultyRegistry) -> Fault:
    realm = f'Bearer realm="http://{registry.host}/token",service="s",scope="x"'
    return Fault(status=401, headers={"WWW-Authenticate": realm}, body=b"")


def test_a_password_is_shown_when_it_is_asked_for(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    puller = Puller(registry, store, credential=Credential(registry.host, "me", "pässword"))
    registry.faults[BLOB] = [BASIC]
    puller.pull()
    first, second = registry.asked(BLOB)
    assert "Authorization" not in first.headers
    assert second.headers["Authorization"] == "Basic bWU6cMOkc3N3b3Jk"


def test_a_password_that_is_refused_is_shown_once(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    puller = Puller(registry, store, credential=Credential(registry.host, "me", "wrong"))
    registry.faults[BLOB] = [BASIC] * 5
    with pytest.raises(RegistryDenied, match="access denied to the user of your login") as info:
        puller.pull()
    assert "wrong" not in str(info.value)
    assert len(registry.asked(BLOB)) == 2


def test_who_has_no_password_is_told_to_log_in(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [BASIC]
    refused(puller, RegistryDenied, f"run `docker login {puller.registry.host}`")


def test_a_token_is_fetched_for_the_repository_and_used(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    puller = Puller(registry, store, credential=Credential(registry.host, "me", "secret"))
    registry.faults[BLOB] = [bearer(registry)]
    registry.faults["/token"] = [Fault(body=b'{"token": "T"}')]
    puller.pull()
    (asked,) = registry.asked("/token")
    assert asked.path == "/token?service=s&scope=repository%3Aapp%3Apull"
    assert asked.headers["Authorization"] == "Basic bWU6c2VjcmV0"
    assert registry.asked(BLOB)[1].headers["Authorization"] == "Bearer T"


def test_an_identity_token_is_traded_for_a_token(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    credential = Credential(registry.host, identity_token="long-lived")
    puller = Puller(registry, store, credential=credential)
    registry.faults[BLOB] = [bearer(registry)]
    registry.faults["/token"] = [Fault(body=b'{"access_token": "T"}')]
    puller.pull()
    (asked,) = registry.asked("/token", method="POST")
    assert b"grant_type=refresh_token" in asked.body
    assert b"refresh_token=long-lived" in asked.body
    assert registry.asked(BLOB)[1].headers["Authorization"] == "Bearer T"


def test_a_pull_that_is_cancelled_while_its_file_is_opened_closes_it(
    puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial(puller.store).write_bytes(LAYER[:1000])
    held = Held(puller.store.resume)
    monkeypatch.setattr(puller.store, "resume", held)

    async def main() -> None:
        async with RegistryClient(puller.registries) as client:
            place = Repository(client, puller.registry.host, "app")
            layer = Descriptor("", DIGEST, len(LAYER))
            await cancel_during(get_blob(place, layer, puller.store, puller.count), held)
        assert open_below(puller.store.directory) == []

    asyncio.run(main())
    assert partial(puller.store).read_bytes() == LAYER[:1000]


def test_an_identity_token_is_not_shown_as_a_password(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    credential = Credential(registry.host, identity_token="long-lived")
    registry.faults[BLOB] = [BASIC]
    refused(Puller(registry, store, credential=credential), RegistryDenied, "access denied")
    assert all("Authorization" not in one.headers for one in registry.requests)


def test_a_token_that_has_run_out_is_fetched_anew(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    puller = Puller(registry, store)
    digest = sha256(registry.manifests["1"][0])
    registry.faults[f"app/manifests/{digest}"] = [bearer(registry)]
    registry.faults[BLOB] = [bearer(registry)]
    registry.faults["/token"] = [Fault(body=b'{"token": "T1"}'), Fault(body=b'{"token": "T2"}')]
    puller.pull()
    shown = [one.headers.get("Authorization") for one in registry.asked(BLOB)]
    assert shown == ["Bearer T1", "Bearer T2"]


def test_a_token_server_that_asks_to_wait_for_long_is_told(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [bearer(puller.registry)]
    busy = Fault(status=429, headers={"Retry-After": "900"}, body=b"")
    puller.registry.faults["/token"] = [busy]
    refused(puller, RegistryBusy, "token server: too many requests; it asks to wait 900 s")


def test_a_registry_that_denies_and_does_not_say_what_it_wants_is_told(puller: Puller) -> None:
    puller.registry.faults[BLOB] = [Fault(status=401)]
    refused(puller, BadRegistry, "denies access and does not say what it wants")


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, RegistryDenied, "access denied by its token server"),
        (404, BadRegistry, "status 404 of its token server"),
        (301, BadRegistry, "status 301 of its token server"),
    ],
)
def test_a_token_server_that_refuses_is_told(
    puller: Puller, status: int, error: type[RegistryError], says: str
) -> None:
    puller.registry.faults[BLOB] = [bearer(puller.registry)]
    puller.registry.faults["/token"] = [Fault(status=status, body=b'{"token": "T"}')]
    refused(puller, error, says)


def test_a_token_server_without_an_address_is_told(puller: Puller) -> None:
    header = {"WWW-Authenticate": 'Bearer realm="http://a:b/token"'}
    puller.registry.faults[BLOB] = [Fault(status=401, headers=header)]
    refused(puller, BadRegistry, "its token server has no address")


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b"[]",
        b"",
        b'{"token": "a\\nb"}',
        b'{"token": 5}',
        '{"token": "\u00e9"}'.encode(),
        b'{"token": "\xff"}',
        b'{"x":' * 100_000,
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_a_token_server_that_gives_none_is_told(puller: Puller, answer: bytes) -> None:
    puller.registry.faults[BLOB] = [bearer(puller.registry)]
    puller.registry.faults["/token"] = [Fault(body=answer)]
    refused(puller, BadRegistry, "its token server gave no token")


def test_a_registry_on_this_machine_is_pulled_from_in_plain_http(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    Puller(registry, store, hosts={"other:1": Host()}).pull()
    assert store.path(DIGEST).read_bytes() == LAYER


def test_a_token_server_in_plain_http_that_nobody_named_gets_no_password(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    with FaultyRegistry() as thief:
        puller = Puller(registry, store, credential=Credential(registry.host, "me", "secret"))
        realm = f'Bearer realm="http://{thief.host}/token"'
        registry.faults[BLOB] = [Fault(status=401, headers={"WWW-Authenticate": realm})]
        refused(puller, BadRegistry, "not encrypted and not configured")
        assert thief.requests == []


def test_a_redirect_is_followed_without_the_credential(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    with FaultyRegistry() as storage:
        storage.blobs = dict(registry.blobs)
        hosts = {registry.host: Host(http=True), storage.host: Host(http=True)}
        credential = Credential(registry.host, "me", "secret")
        puller = Puller(registry, store, hosts=hosts, credential=credential)
        there = {"Location": f"http://{storage.host}/v2/{BLOB}?signature=s"}
        registry.faults[BLOB] = [BASIC, Fault(status=307, headers=there, body=b"")]
        puller.pull()
        (taken,) = storage.asked(BLOB)
        assert "Authorization" not in taken.headers
    assert store.path(DIGEST).read_bytes() == LAYER


def test_where_it_redirects_to_may_not_ask_for_the_password(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    with FaultyRegistry() as thief:
        hosts = {registry.host: Host(http=True), thief.host: Host(http=True)}
        credential = Credential(registry.host, "me", "secret")
        puller = Puller(registry, store, hosts=hosts, credential=credential)
        there = {"Location": f"http://{thief.host}/v2/{BLOB}"}
        registry.faults[BLOB] = [Fault(status=307, headers=there, body=b"")]
        thief.faults[BLOB] = [BASIC]
        refused(puller, RegistryDenied, "access denied")
        assert all("Authorization" not in one.headers for one in thief.requests)


def test_a_redirect_to_plain_http_that_nobody_named_is_refused(puller: Puller) -> None:
    there = {"Location": "http://169.254.169.254/secrets"}
    puller.registry.faults[BLOB] = [Fault(status=302, headers=there, body=b"")]
    refused(puller, BadRegistry, "not encrypted and not configured")


def test_a_redirect_to_no_address_is_refused_at_once(puller: Puller) -> None:
    nowhere = Fault(status=307, headers={"Location": "http://host:port/"}, body=b"")
    puller.registry.faults[BLOB] = [nowhere, nowhere]
    refused(puller, BadRegistry, "Invalid URL")
    assert len(puller.registry.asked(BLOB)) == 1


def test_redirects_in_a_circle_end(puller: Puller) -> None:
    there = {"Location": f"/v2/{BLOB}"}
    puller.registry.faults[BLOB] = [Fault(status=302, headers=there, body=b"")] * 9
    refused(puller, BadRegistry, "more than 5 redirects")


# --- mirrors ---------------------------------------------------------------------------------


def test_a_mirror_is_asked_first_and_its_failure_is_made_good_at_home(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    with FaultyRegistry() as mirror:
        mirror.add_image("1", LAYER, config=CONFIG)
        hosts = {
            registry.host: Host(http=True, mirrors=(f"{mirror.host}/cache",)),
            mirror.host: Host(http=True),
        }
        credential = Credential(registry.host, "me", "secret")
        puller = Puller(registry, store, hosts=hosts, credential=credential)
        mirror.faults[f"cache/{BLOB}"] = [Fault(body=bytes(len(LAYER)))]
        puller.pull()
        assert [one.path.split("/")[2] for one in mirror.requests] == ["cache"] * 3
        assert [one.path for one in registry.requests] == [f"/v2/{BLOB}"]
        assert all("Authorization" not in one.headers for one in mirror.requests)
    assert store.path(DIGEST).read_bytes() == LAYER


def test_a_mirror_that_is_down_costs_nothing_but_time(
    registry: FaultyRegistry, store: BlobStore
) -> None:
    hosts = {
        registry.host: Host(http=True, mirrors=("127.0.0.1:1",)),
        "127.0.0.1:1": Host(http=True),
    }
    assert Puller(registry, store, hosts=hosts).resolve()[1] == CONFIG


# --- pushing ---------------------------------------------------------------------------------

MANIFEST = b'{"schemaVersion": 2}'


async def give(puller: Puller, *tags: str, sources: dict[str, str] | None = None) -> int:
    async with puller.client() as client:
        names = [Reference(puller.registry.host, "new", tag) for tag in tags or ("2",)]
        return await Pushes(puller.store).push(
            client, names, MANIFEST, [DIGEST], sources or {}, puller.count
        )


@pytest.fixture
def pusher(registry: FaultyRegistry, store: BlobStore) -> Puller:
    """A store with a layer and a registry without it."""
    store.ingest([LAYER])
    registry.blobs.clear()
    registry.manifests.clear()
    return Puller(registry, store)


def test_a_push_sends_the_blobs_and_then_the_manifest(pusher: Puller) -> None:
    assert asyncio.run(give(pusher, "2", "latest")) == 0
    assert pusher.registry.blobs[DIGEST] == LAYER
    assert pusher.registry.manifests["2"] == (MANIFEST, MANIFEST_TYPE)
    methods = [one.method for one in pusher.registry.requests]
    assert methods == ["HEAD", "POST", "PUT", "PUT", "PUT"]
    upload = pusher.registry.requests[2]
    assert upload.path == f"/v2/new/blobs/uploads/session?state=s0&digest={DIGEST}"
    assert pusher.came == len(LAYER)


def test_an_upload_that_fails_in_a_way_that_may_pass_is_made_again_whole(
    pusher: Puller,
) -> None:
    session = "PUT new/blobs/uploads/session"
    pusher.registry.faults[session] = [Fault(status=502, body=b""), Fault(status=503, body=b"")]
    asyncio.run(give(pusher))
    assert pusher.registry.blobs[DIGEST] == LAYER
    sent = pusher.registry.asked("session", method="PUT")
    assert [one.body for one in sent] == [LAYER] * 3


def test_a_login_asked_for_in_the_middle_of_a_push_is_shown(pusher: Puller) -> None:
    pusher.credentials = (Credential(pusher.registry.host, "me", "secret"),)
    pusher.registry.faults["PUT new/blobs/uploads/session"] = [BASIC]
    asyncio.run(give(pusher))
    assert pusher.registry.asked("session", method="PUT")[1].body == LAYER


@pytest.mark.parametrize(
    ("where", "fault", "says"),
    [
        ("POST new/blobs/uploads/", Fault(status=202, body=b""), "does not say where to send"),
        ("POST new/blobs/uploads/", Fault(status=405, body=b""), "status 405"),
        (
            "POST new/blobs/uploads/",
            Fault(status=202, headers={"Location": "http://other.invalid/x"}, body=b""),
            "not encrypted and not configured",
        ),
        (
            "PUT new/blobs/uploads/session",
            Fault(status=201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64}),
            f"it took {DIGEST} as sha256:0000",
        ),
        (
            "PUT new/blobs/uploads/session",
            Fault(status=400, body=b'{"errors": [{"message": "digest invalid"}]}'),
            "status 400: digest invalid",
        ),
        ("PUT new/blobs/uploads/session", Fault(status=303, body=b""), "may not be"),
    ],
)
def test_a_push_that_is_refused_publishes_nothing(
    pusher: Puller, where: str, fault: Fault, says: str
) -> None:
    pusher.registry.faults[where] = [fault]
    with pytest.raises(BadRegistry, match=says):
        asyncio.run(give(pusher))
    assert pusher.registry.manifests == {}


def test_a_registry_that_took_a_manifest_as_another_is_refused(pusher: Puller) -> None:
    other = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    pusher.registry.faults["PUT new/manifests/2"] = [Fault(status=201, headers=other)]
    with pytest.raises(BadRegistry, match=f"it took {sha256(MANIFEST)} as sha256:0000"):
        asyncio.run(give(pusher))


def test_a_layer_is_mounted_where_the_registry_has_it(pusher: Puller) -> None:
    pusher.registry.faults["POST new/blobs/uploads/"] = [Fault(status=201, body=b"")]
    assert asyncio.run(give(pusher, sources={DIGEST: "team/base"})) == 1
    (asked,) = pusher.registry.asked("uploads", method="POST")
    assert asked.path == f"/v2/new/blobs/uploads/?mount={DIGEST}&from=team/base"
    assert pusher.came == 0


def test_a_layer_that_cannot_be_mounted_is_sent(pusher: Puller) -> None:
    assert asyncio.run(give(pusher, sources={DIGEST: "team/base"})) == 0
    assert pusher.registry.blobs[DIGEST] == LAYER
