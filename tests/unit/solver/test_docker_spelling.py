"""What docker's users type: taken where it means what is done, else answered with a sentence."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from filesync.errors import UsageError
from solver.client.request import BuildRequest
from solver.commands import builds
from solver.commands.builds import build
from solver.commands.spelling import INSTEAD

_OURS = {name for param in build.params for name in param.opts}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[BuildRequest]:
    """An empty directory with a Dockerfile, and what builds there are asked for."""
    asked: list[BuildRequest] = []

    async def note(request: BuildRequest, *_: object) -> dict[str, object]:
        asked.append(request)
        return {}

    monkeypatch.setattr(builds, "_build", note)
    monkeypatch.chdir(tmp_path)
    Path("Dockerfile").write_text("FROM scratch\n")
    return asked


def _run(*words: str) -> None:
    done = CliRunner().invoke(build, words, standalone_mode=False)
    if done.exception is not None:
        raise done.exception


@pytest.mark.parametrize("word", sorted(INSTEAD))
def test_an_option_of_dockers_that_is_not_there_is_answered_with_what_is(word: str) -> None:
    assert word not in _OURS
    with pytest.raises(click.NoSuchOption) as caught:
        _run(word, "value", ".")
    assert str(caught.value.message) == f"{word} is not there: {INSTEAD[word]}."


def test_a_word_that_nobody_means_is_answered_with_what_it_may_be() -> None:
    with pytest.raises(click.NoSuchOption) as caught:
        _run("--targett", "x", ".")
    assert "--target" in (caught.value.possibilities or ())


def test_what_is_always_so_is_taken_as_docker_spells_it(asked: list[BuildRequest]) -> None:
    _run("--pull", ".")
    assert len(asked) == 1


def test_this_machines_platform_may_be_named(asked: list[BuildRequest]) -> None:
    _run(".")
    own = asked[0].options.platform
    _run("--platform", str(own), ".")
    assert asked[1].options.platform == own


@pytest.mark.parametrize("word", ["linux/s390x", "linux", "windows/amd64", "linux/a,linux/b"])
def test_another_platform_is_refused_before_anything_is_built(
    asked: list[BuildRequest], word: str
) -> None:
    with pytest.raises(UsageError, match=r"it is built for linux/\w+; another platform"):
        _run("--platform", word, ".")
    assert not asked


def test_a_build_argument_without_a_value_is_the_environments(
    asked: list[BuildRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THERE", "a value")
    monkeypatch.delenv("NOT_THERE", raising=False)
    _run("--build-arg", "THERE", "--build-arg", "NOT_THERE", "--build-arg", "EMPTY=", ".")
    # One that is not there leaves the ARG's default.
    assert asked[0].options.build_args == {"THERE": "a value", "EMPTY": ""}


def test_that_nothing_is_wanted_can_be_said_and_only_alone(asked: list[BuildRequest]) -> None:
    _run("-o", "type=cacheonly", ".")
    assert (list(asked[0].outputs), asked[0].leaves_nothing) == ([], False)
    _run(".")
    assert asked[1].leaves_nothing
    with pytest.raises(UsageError, match="type=cacheonly stands alone"):
        _run("-o", "type=cacheonly", "-o", "out", ".")


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/a/b",
        "git@host:a/b.git",
        "github.com/a/b",
        "ssh://h/a.git",
        "https://h/a.GIT",
        "https://h/a.git?b",
    ],
)
def test_a_context_from_a_url_is_answered_with_what_to_give(
    asked: list[BuildRequest], url: str
) -> None:
    with pytest.raises(UsageError, match=r"only from a git repository at https://….git"):
        _run(url)
    with pytest.raises(UsageError, match=r"only from a git repository at https://….git"):
        _run("--build-context", f"other={url}", ".")
    assert not asked


def test_repositories_are_fetched_for_a_build_and_each_once(
    asked: list[BuildRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, other = "https://me:p$a@example.org/a.git#main", "https://example.org/b.git"
    monkeypatch.setenv("FILESYNC_MANAGER", "tcp://127.0.0.1:1")
    where: list[Path] = []

    async def build(request: BuildRequest, *_: object, **__: object) -> dict[str, object]:
        asked.append(request)
        if not request.roots:
            where.append(Path(request.outputs[0].dest))
            (where[-1] / "docker").mkdir(parents=True)
            (where[-1] / "docker/File").write_text("FROM scratch\n")
        return {}

    monkeypatch.setattr(builds, "_build", build)
    kept = ("--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1")
    named = ("--build-context", f"x={other}", "--build-context", f"y={url}")
    _run("-f", "docker/File", *named, *kept, url)
    first, second, last = asked
    assert first.text == (
        'FROM scratch\nADD --keep-git-dir ["https://me:p\\\\$a@example.org/a.git#main", "/"]\n'
    )
    assert second.text == f'FROM scratch\nADD --keep-git-dir ["{other}", "/"]\n'
    assert last.text == "FROM scratch\n"
    assert last.roots == {"context": where[0], "x": where[1], "y": where[0]}
    assert not [one for one in where if one.parent.exists()]


def test_a_directory_whose_name_is_like_a_url_is_a_directory(
    asked: list[BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = tmp_path / "github.com" / "a"
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM scratch\n")
    _run("github.com/a")
    assert list(asked[0].roots.values()) == [context]
