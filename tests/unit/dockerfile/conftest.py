from collections.abc import Callable, Mapping

import pytest

from filesync.errors import Unavailable
from solver.dockerfile import BaseImage, Converted, NoSuchImage, Options, convert
from worker.wire.images import parse_reference

MANIFEST = "sha256:" + "a" * 64
PATHS = ("index.json", "oci-layout", "blobs/sha256/aa")


class Images:
    """Gives every name an image of the configuration it was made with."""

    def __init__(self, config: Mapping[str, object] | None, layers: int = 1) -> None:
        self.config = config
        self.layers = layers
        self.asked: list[str] = []

    def image(self, name: str) -> BaseImage | None:
        self.asked.append(name)
        if self.config is None:
            return None
        return BaseImage(name, MANIFEST, self.config, PATHS, layer_count=self.layers)

    def registry_image(self, reference: str) -> BaseImage:
        self.asked.append(reference)
        if self.config is None or "nothing" in reference:
            raise NoSuchImage("it is not there")
        if "away" in reference:
            raise Unavailable("it cannot be reached")
        found = parse_reference(reference)
        repository = found.repository
        return BaseImage("", MANIFEST, self.config, (), repository, self.layers)


@pytest.fixture
def build() -> Callable[..., Converted]:
    def run(
        text: str,
        *,
        image: Mapping[str, object] | None = None,
        layers: int = 1,
        **options: object,
    ) -> Converted:
        chosen = Options(**options)  # type: ignore[arg-type]
        images = Images(image or {}, layers)
        return convert(text, filename="Dockerfile", options=chosen, images=images)

    return run
