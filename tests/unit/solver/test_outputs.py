"""The ``-o`` option."""

from pathlib import Path

import msgspec
import pytest

from filesync.errors import UsageError
from solver.client.outputs.outputs import (
    Output,
    OutputType,
    check_outputs,
    parse_output,
    with_epoch,
    with_tags,
)
from worker.wire.images import Compression
from worker.wire.orders import ExportForm

LOCAL, TAR, OCI, DOCKER, IMAGE, REGISTRY = OutputType


@pytest.mark.parametrize(
    ("text", "output", "form"),
    [
        ("out", Output(LOCAL, "out"), ExportForm.TREE),
        ("./a,b", Output(LOCAL, "./a,b"), ExportForm.TREE),
        ("-", Output(TAR, "-"), ExportForm.TAR),
        ("type=local,dest=out", Output(LOCAL, "out"), ExportForm.TREE),
        ("type=tar,dest=out.tar", Output(TAR, "out.tar"), ExportForm.TAR),
        ("dest=-,type=tar", Output(TAR, "-"), ExportForm.TAR),
        ("type=oci,dest=a=b", Output(OCI, "a=b"), ExportForm.OCI),
        ("type=oci,dest=-", Output(OCI, "-"), ExportForm.OCI),
        ("type=oci,dest=out,tar=true", Output(OCI, "out"), ExportForm.OCI),
        ("type=oci,dest=out,tar=false", Output(OCI, "out", packed=False), ExportForm.OCI),
        ("type=docker,dest=out", Output(DOCKER, "out"), ExportForm.OCI),
        ("type=oci,dest=out,tar=0", Output(OCI, "out", packed=False), ExportForm.OCI),
        ("type=tar,dest=out,platform-split=false", Output(TAR, "out"), ExportForm.TAR),
        (
            "type=oci,dest=out,oci-mediatypes=,force-compression=F,unpack=true,store=false",
            Output(OCI, "out"),
            ExportForm.OCI,
        ),
    ],
)
def test_output_is_what_its_text_asks_for(text: str, output: Output, form: ExportForm) -> None:
    assert parse_output(text) == output
    assert output.form == form


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("type=ducker,dest=x", "the type is one of local, tar, oci, docker"),
        ("type=docker", "say where to: dest=PATH"),
        ("type=docker,dest=x,tar=false", "docker reads one file"),
        ("type=docker,dest=x,push=true", "type=docker is not pushed; use type=registry"),
        ("type=tar,dest=x,annotation.a=b", "type=tar is no image, and takes no annotations"),
        ("type=oci,dest=x,source-date-epoch=now", "source-date-epoch=now: give whole seconds"),
        ("type=tar,dest=x,name=a", "type=tar is no image and has no name"),
        ("dest=x", "the type is one of"),
        ("type=tar", "say where to: dest=PATH"),
        ("type=tar,dest=", "say where to: dest=PATH"),
        ("type=tar,dst=x", "'dst=x' is none of type, dest, tar"),
        ("type=oci,dest=x,compression=rar", "the compression is one of "),
        ("type=tar,dest=x,more", "'more' is none of"),
        ("type=local,dest=-", "use type=tar"),
        ("type=oci,dest=x,tar=no", "tar is true or false"),
        ("type=oci,dest=x,unpack=maybe", "unpack is true or false"),
        ("type=oci,dest=x,rewrite-timestamp=yes", "rewrite-timestamp is true or false"),
        ("type=oci,dest=x,force-compression=true", "force-compression=true: layers of images"),
        ("type=oci,dest=x,oci-mediatypes=0", "oci-mediatypes=0: images have OCI's types"),
        ("type=oci,dest=x,push-by-digest=true", "type=oci is not pushed"),
        ("type=registry,name=a,registry.insecure=true", "registry.insecure=true: write `http"),
    ],
)
def test_output_that_cannot_be_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        parse_output(text)
    assert str(refused.value).startswith(f"-o {text}: ")


def test_output_of_an_unset_variable_does_not_fill_the_current_directory() -> None:
    with pytest.raises(UsageError, match="it is empty"):
        parse_output("")


def test_destinations_that_cannot_work_are_refused_before_the_build(tmp_path: Path) -> None:
    good = Output(TAR, str(tmp_path / "a"))
    check_outputs([good, Output(OCI, str(tmp_path / "b")), Output(TAR, "-")])
    with pytest.raises(UsageError, match="two outputs go to"):
        check_outputs([good, good])
    with pytest.raises(UsageError, match="missing is not a directory"):
        check_outputs([Output(TAR, str(tmp_path / "missing" / "a"))])


# --- pushes ----------------------------------------------------------------------------------


def test_an_image_is_pushed_under_its_own_names() -> None:
    names = ("docker.io/library/a:1", "b.io/c:latest")
    for text in (
        'type=image,"name=a:1,b.io/c",push=true',
        'type=registry,"name=a:1,b.io/c"',
    ):
        (output,) = with_tags([parse_output(text)], ["other:1"])
        assert (output.form, output.names) == (None, names)


def test_annotations_are_those_of_the_manifest() -> None:
    text = 'type=registry,annotation.a.b=c=d,annotation-manifest.e=,"annotation.f=g,h"'
    assert parse_output(text).annotations == {"a.b": "c=d", "e": "", "f": "g,h"}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("annotation-index.a", "an image of one platform has no index of its own"),
        ("annotation-index-descriptor.a", "write annotation.a or annotation-manifest-desc"),
        ("annotation[].a", r"name the platform, such as annotation\[linux/amd64\].a"),
        ("annotation-layer.a", "is none of type, dest"),
        ("annotation.", "is none of type, dest"),
    ],
)
def test_an_annotation_of_what_is_not_there_is_refused(key: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_output(f"type=oci,dest=a,{key}=b")


def test_times_are_rewritten_to_a_time_that_is_given() -> None:
    output = parse_output("type=oci,dest=/a,rewrite-timestamp=true")
    assert output.rewrite
    (timed,) = with_epoch([output], 0)
    assert timed.epoch_s == 0
    with pytest.raises(UsageError, match="needs the time, in SOURCE_DATE_EPOCH"):
        with_epoch([output], None)


def test_an_output_may_have_a_time_of_its_own() -> None:
    texts = ("type=oci,dest=a,source-date-epoch=5", "type=tar,dest=b,source-date-epoch=")
    own, common = with_epoch([parse_output(text) for text in texts], 7)
    assert (own.epoch_s, common.epoch_s) == (5, 7)


def test_annotations_of_a_descriptor_are_apart_and_those_for_the_platform_count_most() -> None:
    text = (
        "type=oci,dest=a,annotation[linux/amd64].x=special,annotation.x=general,"
        "annotation-manifest-descriptor.y=d,annotation-manifest[linux/amd64].z=m"
    )
    output = parse_output(text)
    assert output.annotations == {"x": "special", "z": "m"}
    assert output.descriptor_annotations == {"y": "d"}
    check_outputs([msgspec.structs.replace(output, dest="-")], platform="linux/amd64")
    with pytest.raises(UsageError, match="the image is for linux/arm64 alone"):
        check_outputs([msgspec.structs.replace(output, dest="-")], platform="linux/arm64")


def test_an_image_without_names_is_pushed_under_the_tags() -> None:
    tags = ["a.io/b:1", "a.io/b:2", "a.io/b:1"]
    (output,) = with_tags([parse_output("type=registry")], tags)
    assert output.names == ("a.io/b:1", "a.io/b:2")


def test_an_image_that_is_pushed_by_digest_has_repositories_for_names() -> None:
    asked = parse_output(
        "type=image,push=1,push-by-digest=true,name-canonical=true,name=a.io/b"
    )
    assert asked.by_digest
    assert asked.names == ("a.io/b",)
    (output,) = with_tags(
        [parse_output("type=registry,push-by-digest=true")], ["a", "a.io:1/b"]
    )
    assert output.names == ("docker.io/library/a", "a.io:1/b")
    with pytest.raises(
        UsageError, match="push-by-digest=true takes a repository alone; leave out :1"
    ):
        with_tags([msgspec.structs.replace(output, names=())], ["a.io/b:1"])


def test_a_file_that_holds_an_image_has_its_own_names_or_else_the_tags() -> None:
    tags = ["app:1", "b.io/app"]
    named, tagged, tree = with_tags(
        [
            parse_output("type=docker,dest=a,name=own"),
            parse_output("type=oci,dest=b"),
            parse_output("type=tar,dest=c"),
        ],
        tags,
    )
    assert named.names == ("docker.io/library/own:latest",)
    assert tagged.names == ("docker.io/library/app:1", "b.io/app:latest")
    assert tree.names == ()
    (bare,) = with_tags([parse_output("type=docker,dest=a")], [])
    assert bare.names == ()


def test_a_layers_compression_may_have_a_level() -> None:
    output = parse_output("type=oci,dest=a,compression=zstd,compression-level=22")
    assert (output.compression, output.level) == (Compression.ZSTD, 22)
    assert parse_output("type=registry,compression-level=0").level == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("type=image,name=a", "say push=true"),
        ("type=image,name=a,push=false", "say push=true"),
        ("type=registry,dest=a", "has no dest"),
        ("type=registry,tar=false", "has no dest"),
        ("type=registry,name=A", "names no image"),
        ("type=registry,name=a@sha256:" + "a" * 64, "it is made; name a tag"),
        ("type=oci,dest=a,compression=estargz,compression-level=10", "of estargz are 0 to 9"),
        ("type=registry,compression=lzma", "the compression is one of gzip, zstd"),
        ("type=registry,compression-level=10", "the levels of gzip are 0 to 9"),
        ("type=registry,compression=zstd,compression-level=0", "of zstd are 1 to 22"),
        ("type=registry,compression=zstd,compression-level=-1", "of zstd are 1 to 22"),
        ("type=oci,dest=a,compression=uncompressed,compression-level=1", "are none at all"),
        ("type=registry,name=a,push=junk", "push is true or false"),
        (
            "type=registry,push-by-digest=true,name=a.io/b:1",
            "takes a repository alone; leave out :1",
        ),
        (
            "type=registry,push-by-digest=true,name=a@sha256:" + "a" * 64,
            "leave out @sha256:aaa",
        ),
        ('type=registry,"name=a', "unexpected end of data"),
    ],
)
def test_a_push_that_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_output(text)


def test_a_push_without_any_name_is_refused() -> None:
    with pytest.raises(UsageError, match="a push needs a name: give -t"):
        with_tags([parse_output("type=registry")], [])
