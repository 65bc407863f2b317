"""The ``-o`` option, and the tar around an image layout."""

import os
import tarfile
from pathlib import Path

import pytest

from filesync.errors import UsageError
from solver.client.outputs import Output, OutputType, check_outputs, pack_layout, parse_output
from worker.wire.orders import ExportForm

LOCAL, TAR, OCI = OutputType


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
    ],
)
def test_output_is_what_its_text_asks_for(text: str, output: Output, form: ExportForm) -> None:
    assert parse_output(text) == output
    assert output.form == form


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("type=docker,dest=x", "the type is one of local, tar, oci"),
        ("dest=x", "the type is one of"),
        ("type=tar", "say where to: dest=PATH"),
        ("type=tar,dest=", "say where to: dest=PATH"),
        ("type=tar,dst=x", "'dst=x' is none of type, dest, tar"),
        ("type=oci,dest=x,compression=rar", "the compression is one of "),
        ("type=tar,dest=x,more", "'more' is none of"),
        ("type=local,dest=-", "use type=tar"),
    ],
)
def test_output_that_cannot_be_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as refused:
        parse_output(text)
    assert str(refused.value).startswith(f"-o {text}: ")


def test_destinations_that_cannot_work_are_refused_before_the_build(tmp_path: Path) -> None:
    good = Output(TAR, str(tmp_path / "a"))
    check_outputs([good, Output(OCI, str(tmp_path / "b")), Output(TAR, "-")])
    with pytest.raises(UsageError, match="two outputs go to"):
        check_outputs([good, good])
    with pytest.raises(UsageError, match="missing is not a directory"):
        check_outputs([Output(TAR, str(tmp_path / "missing" / "a"))])


def test_packed_layout_depends_on_its_files_alone(tmp_path: Path) -> None:
    for name, stamp in (("one", 1), ("two", 2)):
        (tmp_path / name / "blobs").mkdir(parents=True)
        for path in (tmp_path / name / "index.json", tmp_path / name / "blobs" / "x"):
            path.write_text(path.name)
            os.utime(path, (stamp, stamp))
        pack_layout(tmp_path / name, tmp_path / f"{name}.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames() == ["blobs", "blobs/x", "index.json"]


def test_pack_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / "index.json").write_text("{}")
    (tmp_path / "out.tar").mkdir()
    with pytest.raises(OSError, match=r"out\.tar"):
        pack_layout(tmp_path / "layout", tmp_path / "out.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "out.tar"]
