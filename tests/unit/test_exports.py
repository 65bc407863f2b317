import json

import pytest

from worker.exports import image_index


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
