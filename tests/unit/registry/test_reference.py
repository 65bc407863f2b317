import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.wire.images import (
    BadReference,
    Credential,
    Reference,
    credential_for,
    parse_reference,
)

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("Host/app", "Host/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("a__b--c.d_e", "docker.io/library/a__b--c.d_e:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"alpine:3@{DIGEST}", f"docker.io/library/alpine:3@{DIGEST}"),
    ],
)
def test_a_name_is_completed_as_docker_does(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "alpine:",
        "alpine:-x",
        "alpine:" + "x" * 129,
        "UPPER",
        "a/B",
        "a//b",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "../../etc",
        "host.name/../app",
        "host.name:port/app",
        "-host.name/app",
        "host.name/",
        "alpine@sha256:abc",
        "alpine@sha512:" + "a" * 128,
        "alpine\n",
        "alpine:1\n",
        "al pine",
        "a.b/" + "c" * 300,
        "x" * 10_000,
        "user:secret@host.name/app",
    ],
)
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(BadReference):
        parse_reference(text)


@given(st.text(max_size=80))
def test_any_text_is_refused_or_means_the_same_when_it_is_written_out(text: str) -> None:
    try:
        found = parse_reference(text)
    except BadReference:
        return
    assert parse_reference(str(found)) == found
    # It becomes part of an address.
    assert re.fullmatch(r"[a-z0-9./_-]+", found.path)
    assert ".." not in found.path


def test_a_digest_needs_no_tag() -> None:
    assert parse_reference(f"a.b/c@{DIGEST}") == Reference("a.b", "c", "", DIGEST)


def test_a_credential_shows_no_secret_and_fits_one_host() -> None:
    credential = Credential("a.b", "user", "password", "token")
    for shown in (repr(credential), str(credential), f"{(credential,)}"):
        assert "password" not in shown
        assert "token" not in shown
    assert credential_for("a.b", (credential,)) is credential
    assert credential_for("a.b:443", (credential,)) is None
