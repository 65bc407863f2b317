"""Image layouts as contexts: which image is meant, and what a hostile one cannot do."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from filesync.errors import UsageError
from solver.client.layouts import MAX_LOOKS, REF_NAME, Layouts, parse_layout
from solver.dockerfile import BaseImage, Platform

INDEX = "application/vnd.oci.image.index.v1+json"
ARCHES = ("amd64", "arm64")
CONFIG = {"architecture": "amd64", "os": "linux"}


class Maker:
    """Writes an image layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)

    def blob(self, value: object) -> str:
        data = json.dumps(value).encode()
        name = hashlib.sha256(data).hexdigest()
        (self.path / "blobs" / "sha256" / name).write_bytes(data)
        return f"sha256:{name}"

    def image(self, config: object = None) -> str:
        layers = [{"digest": self.blob("layer")}]
        described = {"digest": self.blob(CONFIG if config is None else config)}
        return self.blob({"config": described, "layers": layers})

    def index(self, *descriptors: object) -> None:
        (self.path / "index.json").write_text(json.dumps({"manifests": descriptors}))


@pytest.fixture
def layout(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "layout")


def read(layout: Maker, suffix: str = "", platform: str = "amd64") -> BaseImage:
    parsed = parse_layout(f"oci-layout://{layout.path}{suffix}")
    image = Layouts({"base": parsed}, Platform("linux", platform)).image("base")
    assert image is not None
    return image


def named(digest: str, name: str) -> dict[str, Any]:
    return {"digest": digest, "annotations": {REF_NAME: name}}


def test_only_image_needs_no_name(layout: Maker) -> None:
    digest = layout.image()
    layout.index({"digest": digest})
    image = read(layout)
    assert (image.manifest, image.config) == (digest, CONFIG)
    assert image.paths[0] == f"blobs/sha256/{digest[7:]}"
    assert len(image.paths) == 3, "manifest, configuration and layer; nothing else is read"


def test_name_that_is_no_layout_is_no_image() -> None:
    assert Layouts({}, Platform()).image("alpine") is None


def test_tag_and_digest_choose_among_many(layout: Maker) -> None:
    one, two = layout.image({"os": "one"}), layout.image({"os": "two"})
    layout.index(named(one, "v1"), named(two, "v2"))
    assert read(layout, ":v2").manifest == two
    assert read(layout, f"@{one}").manifest == one
    assert read(layout, f":v2@{one}").manifest == one


@pytest.mark.parametrize("suffix", ["", ":v3"])
def test_image_that_is_not_clear_names_those_that_are_there(layout: Maker, suffix: str) -> None:
    digest = layout.image()
    layout.index(named(digest, "v1"), named(digest, "v2"))
    with pytest.raises(UsageError, match=r"say which: .* \(there is v1, v2\)"):
        read(layout, suffix)


def test_index_gives_the_image_of_the_platform(layout: Maker) -> None:
    images = {arch: layout.image({"architecture": arch}) for arch in ("amd64", "arm64")}
    described = [
        {"digest": digest, "platform": {"os": "linux", "architecture": arch}}
        for arch, digest in images.items()
    ]
    index = layout.blob({"mediaType": INDEX, "manifests": described})
    layout.index({"digest": index})
    assert read(layout, platform="arm64").manifest == images["arm64"]
    with pytest.raises(UsageError, match="no image for linux/riscv64; there is linux/amd64"):
        read(layout, platform="riscv64")


def described(digest: str, platform: str, **more: object) -> dict[str, Any]:
    said = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    return {"digest": digest, "platform": said, **more}


def test_the_nearest_variant_is_chosen_as_in_a_registry(layout: Maker) -> None:
    v3, plain = layout.image({"os": "v3"}), layout.image({"os": "plain"})
    entries = described(v3, "linux/amd64/v3"), described(plain, "linux/amd64")
    layout.index({"digest": layout.blob({"mediaType": INDEX, "manifests": entries})})
    assert read(layout).manifest == plain


def test_an_image_in_an_index_in_an_index_is_found(layout: Maker) -> None:
    digests = {arch: layout.image({"architecture": arch, "os": "linux"}) for arch in ARCHES}
    signature = layout.blob({"config": {"mediaType": "application/vnd.oci.empty.v1+json"}})
    inner = layout.blob(
        {"manifests": [{"digest": one} for one in (signature, *digests.values())]}
    )
    other = layout.blob({"manifests": [described(signature, "unknown/unknown")]})
    layout.index({"digest": layout.blob({"manifests": [{"digest": other}, {"digest": inner}]})})
    for arch, digest in digests.items():
        assert read(layout, platform=arch).manifest == digest
    with pytest.raises(UsageError, match="no image for linux/s390x; there is linux/amd64"):
        read(layout, platform="s390x")


def test_indexes_in_indexes_without_end_are_not_read_without_end(layout: Maker) -> None:
    digest = layout.blob({"manifests": []})
    for _ in range(MAX_LOOKS + 1):
        digest = layout.blob({"manifests": [{"digest": digest}]})
    layout.index({"digest": digest})
    with pytest.raises(UsageError, match="more than 100 manifests"):
        read(layout)


def test_without_a_tag_latest_is_meant_or_the_one_for_the_platform(layout: Maker) -> None:
    amd, arm = layout.image(), layout.image({"os": "linux", "architecture": "arm64"})
    layout.index(named(arm, "v1"), named(amd, "latest"))
    assert read(layout).manifest == amd
    layout.index(described(arm, "linux/arm64"), described(amd, "linux/amd64"))
    assert read(layout).manifest == amd
    layout.index(
        *(
            described(digest, f"linux/{arch}", annotations={REF_NAME: "v1"})
            for digest, arch in ((arm, "arm64"), (amd, "amd64"))
        ),
        described(arm, "linux/amd64", annotations={REF_NAME: "v2"}),
    )
    assert read(layout, ":v1").manifest == amd
    assert read(layout, ":v1", "arm64").manifest == arm


def test_an_image_that_is_named_by_itself_is_meant_whatever_it_is_for(layout: Maker) -> None:
    layout.index(described(layout.image(), "linux/riscv64"))
    assert read(layout).config == CONFIG


def test_an_artifact_is_no_image(layout: Maker) -> None:
    kind = "application/vnd.cncf.helm.config.v1+json"
    config = {"mediaType": kind, "digest": layout.blob({})}
    layout.index({"digest": layout.blob({"config": config, "layers": []})})
    with pytest.raises(UsageError, match=r"is not an image, but an artifact: .*helm"):
        read(layout)


def test_no_layout_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no OCI image layout there"):
        parse_layout(f"oci-layout://{tmp_path}")


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:" + "a" * 64, "sha256:" + "/" * 64])
def test_digest_that_is_none_is_refused_wherever_it_stands(layout: Maker, digest: str) -> None:
    layout.index({"digest": digest})
    with pytest.raises(UsageError, match="without a sha256 digest"):
        read(layout)
    with pytest.raises(UsageError, match="64 hex digits"):
        read(layout, f"@{digest}")


def test_digest_cannot_name_a_file_outside_the_layout(layout: Maker, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    climb = "../../../secret"
    layout.index({"digest": "sha256:" + "./" * ((64 - len(climb)) // 2) + "/" + climb})
    with pytest.raises(UsageError, match="without a sha256 digest"):
        read(layout)


def test_blob_that_is_not_what_its_digest_says_is_refused(layout: Maker) -> None:
    digest = layout.image()
    layout.index({"digest": digest})
    (layout.path / "blobs" / "sha256" / digest[7:]).write_text("{}")
    with pytest.raises(UsageError, match="do not have that digest"):
        read(layout)


def test_a_blob_that_is_missing_or_a_pipe_is_one_sentence(layout: Maker) -> None:
    digest = layout.image()
    layout.index({"digest": digest})
    blob = layout.path / "blobs" / "sha256" / digest[7:]
    blob.unlink()
    with pytest.raises(UsageError, match=f"{digest[7:]}: no file there"):
        read(layout)
    os.mkfifo(blob)
    with pytest.raises(UsageError, match=f"{digest[7:]}: no file there"):
        read(layout)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"manifests": 1}',
        '{"manifests": [1, null, {}]}',
        "[" * 100000,
        '{"manifests": [{"annotations": [], "digest": 3}]}',
    ],
)
def test_index_that_makes_no_sense_is_one_sentence(layout: Maker, text: str) -> None:
    (layout.path / "index.json").write_text(text)
    with pytest.raises(UsageError, match=str(layout.path)):
        read(layout)


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"config": 1},
        {"config": {"mediaType": []}, "mediaType": {}},
        {"manifests": 1},
        {"manifests": [{"platform": []}]},
    ],
)
def test_manifest_that_makes_no_sense_is_one_sentence(layout: Maker, manifest: object) -> None:
    layout.index({"digest": layout.blob(manifest)})
    with pytest.raises(UsageError, match=str(layout.path)):
        read(layout)
