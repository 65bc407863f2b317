"""What docker's users type: taken where it means what is done, else answered with a sentence."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from filesync.errors import UsageError
from solver.client.request import BuildRequest
from solver.commands.build import build
from solver.commands.spelling import INSTEAD

_OURS = {name for param in build.params for name in param.opts}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[BuildRequest]:
    """An empty directory with a Dockerfile, and what builds there are asked for."""
    asked: list[BuildRequest] = []

    async def note(request: BuildRequest, *_: object) -> dict[str, object]:
        asked.append(request)
        return {}

    monkeypatch.setattr("solver.commands.build._build", note)
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


@pytest.mark.parametrize(
    "words",
    [
        ["--rm"],
        ["--rm=true", "--force-rm=False"],
        ["--pull=false", "--push=false", "--no-cache=0", "-f", "Dockerfile"],
        ["--provenance=false", "--sbom=false", "--load=false"],
        ["--progress=tty", "--network=host"],
    ],
)
def test_a_switch_of_dockers_may_be_said_to_be_what_it_is_anyway(
    asked: list[BuildRequest], words: list[str]
) -> None:
    _run(*words, ".")
    assert (asked[0].options.no_cache, list(asked[0].outputs)) == (False, [])


def test_a_short_option_may_have_its_value_behind_an_equals_sign(
    asked: list[BuildRequest],
) -> None:
    Path("Other").write_text("FROM scratch AS other\n")
    _run("-f=Other", "-t=a.example/b", "-o=type=tar,dest=a.tar", ".")
    assert asked[0].text == "FROM scratch AS other\n"
    assert (asked[0].tag, asked[0].outputs[0].dest) == ("a.example/b:latest", "a.tar")


def test_a_switch_may_be_said_to_be_true(asked: list[BuildRequest]) -> None:
    _run("--no-cache=true", "--push=1", "-t", "a.example/b", ".")
    assert asked[0].options.no_cache
    assert asked[0].outputs[0].names == ("a.example/b:latest",)


@pytest.mark.parametrize("word", ["--provenance=mode=max", "--load=true", "--sbom"])
def test_what_is_never_done_may_be_called_off_and_no_more(
    asked: list[BuildRequest], word: str
) -> None:
    with pytest.raises(click.NoSuchOption, match="is not there"):
        _run(word, ".")
    assert not asked


def test_how_progress_is_shown_may_come_from_dockers_variable(
    asked: list[BuildRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDKIT_PROGRESS", "plain")
    _run(".")
    with pytest.raises(click.BadParameter, match="there is no 'rawjson'; 'json' is"):
        _run("--progress", "rawjson", ".")
    assert len(asked) == 1


def test_a_dockerfile_in_small_letters_is_found_where_there_is_no_other(
    asked: list[BuildRequest],
) -> None:
    Path("dockerfile").write_text("FROM scratch AS small\n")
    _run(".")
    Path("Dockerfile").unlink()
    _run(".")
    assert [one.text for one in asked] == ["FROM scratch\n", "FROM scratch AS small\n"]


def test_stages_without_cache_and_the_network_of_steps_can_be_named(
    asked: list[BuildRequest],
) -> None:
    _run("--no-cache-filter=a,b", "--no-cache-filter", "c", "--network", "none", ".")
    assert asked[0].options.no_cache_stages == ("a", "b", "c")
    assert asked[0].options.network == "none"
    with pytest.raises(click.BadParameter, match="'mine' is not one of"):
        _run("--network=mine", ".")


def test_an_annotation_is_of_each_image_that_is_written(asked: list[BuildRequest]) -> None:
    words = ["--annotation", "a=1=2", "--annotation", "manifest,manifest-descriptor:b.c=x y"]
    own = "type=oci,dest=i.tar,annotation.a=0,annotation.d=4"
    _run(*words, "-o", own, "-o", "out", ".")
    image, files = asked[0].outputs
    assert image.annotations == {"a": "1=2", "b.c": "x y", "d": "4"}
    assert image.descriptor_annotations == {"b.c": "x y"}
    assert not files.annotations


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a=1"], "no image is written"),
        (["a", "-o", "type=oci,dest=i.tar"], "write it as NAME=VALUE"),
        (["index:a=1", "-o", "type=oci,dest=i.tar"], "has no index of its own"),
        (["other:a=1", "-o", "type=oci,dest=i.tar"], "'other' is none of"),
        (
            ["manifest[linux/s390x]:a=1", "-o", "type=oci,dest=i.tar"],
            r"annotation\[linux/s390x\]",
        ),
    ],
)
def test_an_annotation_that_nothing_could_have_is_refused(
    asked: list[BuildRequest], words: list[str], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        _run("--annotation", *words, ".")
    assert not asked


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

    monkeypatch.setattr("solver.commands.build._build", build)
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
