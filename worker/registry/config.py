"""How to reach registries: a TOML file, in the words of BuildKit's ``buildkitd.toml``.

::

    [registry."docker.io"]
      mirrors = ["mirror.example:5000", "cache.example/docker-hub"]
    [registry."registry.example:5000"]
      ca = ["/etc/ssl/example.pem"]
    [registry."registry.internal:5000"]
      http = true
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.errors import UsageError
from filesync.transfer.connection.address import is_loopback
from worker.wire.images import BadReference, parse_reference

DEFAULT_FILE: Final = Path("/etc/filesync/registries.toml")
MAX_MIRRORS: Final = 16


class KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client certificate."""

    key: str
    cert: str


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is special about one registry.

    Attributes:
        mirrors: hosts, with a path before the repository's if need be, that are asked first.
        http: it is spoken to in plain HTTP.
        insecure: nobody proves that it is the right one.
        ca: files of certificates that may vouch for it, beside the system's.
        keypair: what this machine shows of itself; the first is used.
    """

    mirrors: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_MIRRORS)] = ()
    http: bool = False
    insecure: bool = False
    ca: tuple[str, ...] = ()
    keypair: tuple[KeyPair, ...] = ()


class _File(msgspec.Struct, frozen=True):
    registry: dict[str, Host] = {}


class Registries(msgspec.Struct, frozen=True):
    """What is configured of all registries.

    Others are spoken to over verified TLS; those on this machine in plain HTTP, as docker does.
    """

    hosts: Mapping[str, Host] = msgspec.field(default_factory=dict)

    def of(self, host: str) -> Host:
        """Return how to speak to ``host``, which a user has named; it may have a port."""
        return self.hosts.get(host) or Host(http=is_loopback(_without_port(host)))

    def of_named(self, host: str) -> Host:
        """Return how to speak to ``host``, which another registry has named: not as to one of ours."""
        return self.hosts.get(host) or Host()


def read_registries(path: Path | None) -> Registries:
    """Return what a file says; with None what the default file says, if it is there.

    Raises:
        UsageError: it cannot be read, or a file that it names cannot.
    """
    if path is None and not DEFAULT_FILE.exists():
        return Registries()
    path = path or DEFAULT_FILE
    try:
        hosts = msgspec.toml.decode(path.read_bytes(), type=_File).registry
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc
    except (*UNDECODABLE, ValueError) as exc:
        raise UsageError(f"{path}: {exc}") from exc
    for name, host in hosts.items():
        _check(path, name, host)
    return Registries(hosts)


def _without_port(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""


def _check(path: Path, name: str, host: Host) -> None:
    try:
        for text in (name, *host.mirrors):
            if parse_reference(f"{text}/image").host != text.partition("/")[0]:
                raise BadReference(text)
        tls_context(host)
    except BadReference:
        raise UsageError(
            f'{path}: [registry."{name}"]: it, or a mirror of it, is no host: a host has a dot'
            " or a port"
        ) from None
    except OSError as exc:
        raise UsageError(f'{path}: [registry."{name}"]: a ca or keypair: {exc}') from exc


def tls_context(host: Host) -> ssl.SSLContext:
    """Return how to speak TLS with a host. Reads its files.

    Raises:
        OSError: a file cannot be read or is no certificate (``ssl.SSLError``).
    """
    context = ssl.create_default_context()
    for ca in host.ca:
        context.load_verify_locations(ca)
    if host.ca:
        # Python 3.13 wants key identifiers of each certificate, which few who are their own CA
        # make; neither docker nor Python 3.12 does.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if host.keypair:
        context.load_cert_chain(host.keypair[0].cert, host.keypair[0].key)
    if host.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
