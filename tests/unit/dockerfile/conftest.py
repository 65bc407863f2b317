from collections.abc import Callable, Mapping

import pytest

from filesync.errors import UsageError
from solver.dockerfile import BaseImage, Converted, Options, convert
from worker.wire.images import parse_reference

MANIFEST = "sha256:" + "a" * 64
PATHS = ("index.json", "oci-layout", "blobs/sha256/aa")


class Images:
    """Gives every name an image of the configuration it was made with."""

    def __init__(self, config: Mapping[str, object] | None) -> None:
        self.config = config
        self.asked: list[str] = []

    def image(self, name: str) -> BaseImage | None:
        self.asked.append(name)
        return None if self.config is None else BaseImage(name, MANIFEST, self.config, PATHS)

    def registry_image(self, reference: str) -> BaseImage:
        self.asked.append(reference)
        if self.config is None or "nothing" in reference:
            raise UsageError("it is not there")
        found = parse_reference(reference)
        return BaseImage("", MANIFEST, self.config, repository=found.repository)


@pytest.fixture
def build() -> Callable[..., Converted]:
    def run(
        text: str, *, image: Mapping[str, object] | None = None, **options: object
    ) -> Converted:
        chosen = Options(**options)  # type: ignore[arg-type]
        return convert(text, filename="Dockerfile", options=chosen, images=Images(image or {}))

    return run
