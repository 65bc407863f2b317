import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.errors import ContentCorrupt, LocalError
from worker.blobs import Blob, BlobMissing, BlobStore
from worker.blobs.store import KEEP_PARTIAL_S

DATA = b"a layer" * 100


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def files(store: BlobStore) -> set[str]:
    return {path.name for path in store.directory.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_a_blob_is_kept_under_its_sha256_with_its_blake3(store: BlobStore) -> None:
    blob = store.ingest([DATA[:10], memoryview(DATA)[10:]])
    assert blob == Blob(sha256(DATA), len(DATA), digest_of(DATA))
    assert store.path(blob.digest).read_bytes() == DATA
    assert blob.digest in store
    assert store.list() == [blob]
    with store.open(blob.digest) as file:
        assert file.read() == DATA


def test_a_blob_can_come_from_a_file_object(store: BlobStore) -> None:
    assert store.ingest(io.BytesIO(DATA), digest=sha256(DATA)).size == len(DATA)


def test_the_store_is_an_oci_layout(store: BlobStore) -> None:
    assert files(store) == {"oci-layout", "index.json"}


def test_a_blob_that_is_not_the_expected_one_leaves_nothing(store: BlobStore) -> None:
    before = files(store)
    with pytest.raises(ContentCorrupt):
        store.ingest([DATA], digest=sha256(b"other"))
    assert files(store) == before


def test_a_blob_over_its_limit_is_refused_before_it_is_written(store: BlobStore) -> None:
    with pytest.raises(ContentCorrupt), store.writer(max_size=5) as writer:
        writer.write(b"123456")
    assert store.list() == []


def test_a_reader_that_fails_leaves_nothing(store: BlobStore) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise ContentCorrupt("the peer is gone")

    before = files(store)
    with pytest.raises(ContentCorrupt):
        store.ingest(broken())
    assert files(store) == before


def test_ingesting_twice_keeps_one(store: BlobStore) -> None:
    assert store.ingest([DATA]) == store.ingest([DATA])
    assert len(store.list()) == 1


def test_a_removed_blob_is_missing_and_a_reader_reads_on(store: BlobStore) -> None:
    blob = store.ingest([DATA])
    with store.open(blob.digest) as file:
        store.remove(blob.digest)
        assert file.read() == DATA
    assert store.find(blob.digest) is None
    with pytest.raises(BlobMissing):
        store.open(blob.digest)
    store.remove(blob.digest)


def test_a_digest_that_is_a_path_is_refused(store: BlobStore) -> None:
    with pytest.raises(LocalError):
        store.path("sha256:../../etc/passwd")


def test_blobs_outlive_the_process_and_leftovers_do_not(store: BlobStore) -> None:
    blob = store.ingest([DATA])
    (store.directory / "ingest" / "left").write_bytes(b"half")
    (store.directory / "facts" / ("0" * 64)).write_bytes(b"{}")
    again = BlobStore(store.directory)
    assert again.list() == [blob]
    assert not {"left", "0" * 64} & files(again)


def test_a_beginning_goes_at_the_next_start_where_it_is_old_or_its_blob_is_here(
    store: BlobStore,
) -> None:
    store.ingest([DATA])
    old, young = sha256(b"old"), sha256(b"young")
    for digest in (sha256(DATA), old, young):
        with store.resume(digest, 100) as writer:
            writer.write(b"begin")
    left = store.directory / "partial" / old.removeprefix("sha256:")
    os.utime(left, (0, time.time() - KEEP_PARTIAL_S - 60))
    assert [one.digest for one in BlobStore(store.directory).partials()] == [young]


def test_a_beginning_that_is_longer_than_its_blob_is_forgotten(store: BlobStore) -> None:
    digest = sha256(b"four")
    with store.resume(digest, 9) as writer:
        writer.write(b"too long!")
    with store.resume(digest, 4) as writer:
        assert writer.size == 0
        writer.write(b"four")
        assert store.path(writer.finish().digest).read_bytes() == b"four"


def test_what_is_held_is_neither_removed_nor_is_its_beginning(store: BlobStore) -> None:
    blob = store.ingest([DATA])
    with store.resume(sha256(b"x"), 100) as writer:
        writer.write(b"begin")
    with store.holding([blob.digest, sha256(b"x")]):
        with store.holding([blob.digest]):
            pass
        assert not store.remove(blob.digest)
        assert not store.drop_partial(sha256(b"x"))
        assert blob.digest in store
    assert store.remove(blob.digest)
    assert store.drop_partial(sha256(b"x"))
    assert store.partials() == ()


def test_a_blob_that_somebody_put_there_is_verified_first(store: BlobStore) -> None:
    store.path(sha256(DATA)).write_bytes(DATA)
    store.path(sha256(b"other")).write_bytes(b"rotten")
    again = BlobStore(store.directory)
    assert again.list() == [Blob(sha256(DATA), len(DATA), digest_of(DATA))]
    assert not again.path(sha256(b"other")).exists()


def test_a_blob_that_was_proved_since_the_machine_started_is_not_read_again(
    store: BlobStore,
) -> None:
    blob = store.ingest([DATA])
    os.chmod(store.path(blob.digest), 0o644)
    store.path(blob.digest).write_bytes(bytes(len(DATA)))
    assert BlobStore(store.directory).list() == [blob]


@pytest.mark.parametrize("facts", [b"", b"[", b'[7,"AA==","x"]'])
def test_a_blob_with_torn_facts_is_verified_again(store: BlobStore, facts: bytes) -> None:
    blob = store.ingest([DATA])
    (store.directory / "facts" / blob.digest.removeprefix("sha256:")).write_bytes(facts)
    assert BlobStore(store.directory).list() == [blob]


def test_a_blob_from_before_the_machine_started_is_verified_again(store: BlobStore) -> None:
    blob = store.ingest([DATA])
    facts = store.directory / "facts" / blob.digest.removeprefix("sha256:")
    text = facts.read_text()
    facts.write_text(text[: text.rindex(",")] + ',"another boot"]')
    path = store.path(blob.digest)
    os.chmod(path, 0o644)
    path.write_bytes(DATA[:-1] + b"?")
    assert BlobStore(store.directory).list() == []
