import json

import pytest

from worker.exports import image_config, image_index
from worker.wire.orders import Layer


@pytest.mark.parametrize(
    "platform",
    [
        {"os": "linux", "architecture": "arm", "variant": "v6"},
        {"os": "linux", "architecture": "amd64"},
    ],
)
def test_an_index_says_for_what_its_image_is_to_the_variant(platform: dict[str, str]) -> None:
    config = json.dumps({"variant": "", "config": {}} | platform).encode()
    index = image_index("sha256:" + "0" * 64, 7, "", config, annotations={})
    assert [one["platform"] for one in index["manifests"]] == [platform]


@pytest.mark.parametrize(
    ("told", "imported", "own", "fitted"),
    [
        ("Bb.a.c", 2, 2, "Bb.a.c"),
        ("Bb.a.c", 2, 1, "Bb...c"),
        ("Bbac", 2, 0, "Bb.."),
        ("Bb.a.c", 2, 3, "Bb.?a.c"),
        ("Bb", 2, 1, "Bb?"),
        ("Bac", 3, 0, "Bac"),
        ("Bbac", 1, 2, "B.ac"),
        ("", 1, 1, ""),
    ],
)
def test_an_images_history_tells_of_as_many_layers_as_it_has(
    told: str, imported: int, own: int, fitted: str
) -> None:
    entries = [{"empty_layer": True} if one == "." else {"created_by": one} for one in told]
    layers = [
        Layer("", f"sha256:{number:064}", 1, f"sha256:{number:064}", imported=number < imported)
        for number in range(imported + own)
    ]
    made = image_config(json.dumps({"history": entries}).encode(), layers)
    shown = "".join(
        "." if entry.get("empty_layer") else entry.get("created_by", "?")
        for entry in made["history"]
    )
    assert shown == fitted
    assert len(made["rootfs"]["diff_ids"]) == len(layers)
