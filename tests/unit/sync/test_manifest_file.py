"""Manifests as files: whole, or refused with a sentence that says what to do."""

from pathlib import Path

import pytest

from filesync.disk.scanning.scan import scan
from filesync.errors import MalformedManifest
from filesync.manifest import Manifest, MemoryNodes
from filesync.sync.manifests.file import read_manifest, write_manifest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tree/d").mkdir(parents=True)
    (tmp_path / "tree/d/a").write_bytes(b"a")
    (tmp_path / "tree/b").write_bytes(b"b")
    nodes = MemoryNodes()
    write_manifest(tmp_path / "file", Manifest(scan(tmp_path / "tree", nodes).tree, nodes))
    return tmp_path / "file"


def test_any_damage_is_refused_and_said_to_need_another_file(file: Path) -> None:
    whole = file.read_bytes()
    tree = read_manifest(file).tree
    damaged = [whole[:at] for at in range(len(whole))]
    damaged += [whole + b"\0"]
    damaged += [
        whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in (1, 0x80)
    ]
    said: list[str] = []
    for data in damaged:
        file.write_bytes(data)
        try:
            assert read_manifest(file).tree == tree  # of a frame some bits mean nothing
        except MalformedManifest as exc:
            said.append(str(exc))
    assert len(said) > len(damaged) * 0.9
    for sentence in said:
        assert sentence.startswith(f"'{file}': ")
        assert sentence.endswith("; make it again with `filesync manifest -o`")


def test_what_is_no_manifest_is_said_to_be_none(file: Path) -> None:
    file.write_text("text")
    with pytest.raises(MalformedManifest, match="it is no manifest; make it again"):
        read_manifest(file)
