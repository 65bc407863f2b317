"""A Dockerfile's images in registries: found out together, each once, before anything is built."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from solver.client import images, progress
from solver.client.credentials import Logins
from solver.client.images import KnownImages, convert_with_images
from solver.client.layouts import Layouts
from solver.client.link_zmq import ManagerLink
from solver.dockerfile import Converted, DockerfileError, Options
from solver.errors import BuildError
from solver.wire import AskImage, FoundImage

MANIFEST = f"sha256:{'1' * 64}"


class Manager:
    """Knows images by name, and keeps what it was asked at once."""

    def __init__(self, **known: Mapping[str, object] | BuildError) -> None:
        self.asked: list[list[str]] = []
        self._known = {f"docker.io/library/{name}:latest": one for name, one in known.items()}

    async def ask_images(
        self, questions: Sequence[AskImage]
    ) -> Mapping[str, FoundImage | BuildError]:
        names = [question.name for question in questions]
        self.asked.append([name.split("/")[-1].removesuffix(":latest") for name in names])
        return {name: self._answer(name) for name in names}

    def _answer(self, name: str) -> FoundImage | BuildError:
        found = self._known.get(name, {})
        if isinstance(found, BuildError):
            return found
        return FoundImage(name, MANIFEST, json.dumps({"config": found}).encode())


def converted(
    text: str,
    manager: Manager,
    tmp_path: Path,
    on_wait: Callable[[str], None] = lambda _: None,
) -> Converted:
    options = Options()
    return asyncio.run(
        convert_with_images(
            text,
            filename="Dockerfile",
            options=options,
            images=KnownImages(Layouts({}, options.platform)),
            link=cast(ManagerLink, manager),
            logins=Logins(tmp_path / "config.json"),
            on_wait=on_wait,
        )
    )


def test_all_images_are_asked_for_at_once(tmp_path: Path) -> None:
    text = (
        "FROM one AS a\nRUN make\nFROM two AS b\nCOPY --from=three /x /x\n"
        "RUN --mount=from=four,target=/m true\nFROM five AS unused\n"
        "FROM one\nCOPY --from=a /out /out\nCOPY --from=b /out /out\n"
    )
    manager = Manager()
    converted(text, manager, tmp_path)
    assert [sorted(names) for names in manager.asked] == [["four", "one", "three", "two"]]


def test_what_an_image_asks_of_those_who_build_on_it_is_asked_for_next(tmp_path: Path) -> None:
    manager = Manager(base={"OnBuild": ["COPY --from=tools /t /t"]})
    converted("FROM base\n", manager, tmp_path)
    assert manager.asked == [["base"], ["tools"]]


def test_what_is_only_wrong_while_an_image_is_not_known_is_not_wrong(tmp_path: Path) -> None:
    manager = Manager(base={"Env": ["HOME=/home/app"]})
    text = "FROM base\nCOPY --from=tools /t ${HOME:?unset}\n"
    assert converted(text, manager, tmp_path).config["config"]
    assert manager.asked == [["base"], ["tools"]]


def test_an_image_that_cannot_be_had_is_told_of_with_its_line(tmp_path: Path) -> None:
    manager = Manager(gone=BuildError("registry-missing", "docker.io/library/gone: none"))
    with pytest.raises(DockerfileError, match=r"Dockerfile:2: .*gone: none"):
        converted("FROM one AS a\nFROM gone\nCOPY --from=a /x /x\n", manager, tmp_path)


def test_a_registry_that_is_away_is_nobodys_wrong_usage(tmp_path: Path) -> None:
    manager = Manager(one=BuildError("registry-unavailable", "it is away"))
    with pytest.raises(BuildError, match="it is away"):
        converted("FROM one\n", manager, tmp_path)


def test_a_look_up_that_takes_long_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LONG_S", 0.01)
    told: list[str] = []

    class Slow(Manager):
        async def ask_images(
            self, questions: Sequence[AskImage]
        ) -> Mapping[str, FoundImage | BuildError]:
            await asyncio.sleep(0.1)
            return await super().ask_images(questions)

    text = "FROM one\nCOPY --from=two /x /x\n"
    converted(text, Slow(), tmp_path, on_wait=told.append)
    assert told == ["looking up docker.io/library/one:latest, docker.io/library/two:latest"]


def test_the_number_of_images_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGES", 3)
    manager = Manager()
    text = "FROM scratch\n" + "".join(f"COPY --from=i{n} /x /x{n}\n" for n in range(5))
    with pytest.raises(DockerfileError, match="more than 3 images"):
        converted(text, manager, tmp_path)
    assert manager.asked == [["i0", "i1", "i2"]]
