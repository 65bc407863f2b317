"""The variables of a stage: ENV, and ARG below it."""

from collections.abc import Iterator, Mapping
from typing import Final

from solver.dockerfile.errors import Invalid

_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
_MAX_VARIABLES: Final = 4096
_BUILDKIT: Final = ("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_INLINE_CACHE", "BUILDKIT_SYNTAX")
"""The settings of BuildKit's frontend that mean something here."""
SOURCE_DATE_EPOCH: Final = "SOURCE_DATE_EPOCH"


class Variables(Mapping[str, str]):
    """What a word may refer to, ENV before ARG, each in the order it was set.

    Of an ENV and an ARG of one name the later counts, as in BuildKit: so an ARG does over what
    a base has set. The image only ever has the ENV.
    """

    def __init__(self) -> None:
        self.env: dict[str, str] = {}
        self.args: dict[str, str] = {}
        self.declared: dict[str, None] = {}
        """Names of all ARGs, with a value or not."""
        self._over: set[str] = set()
        """Names of the ARGs that came after an ENV of that name."""

    def __getitem__(self, name: str) -> str:
        is_env = name in self.env and name not in self._over
        return self.env[name] if is_env else self.args[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.env
        yield from (name for name in self.args if name not in self.env)

    def __len__(self) -> int:
        return len(self.env.keys() | self.args.keys())

    def copy(self) -> "Variables":
        """Return an equal one that changes by itself."""
        other = Variables()
        other.env = dict(self.env)
        other.args = dict(self.args)
        other.declared = dict(self.declared)
        other._over = set(self._over)
        return other

    def set_env(self, name: str, value: str) -> None:
        """Set a variable of the image."""
        check_name(name)
        self.env[name] = value
        self._over.discard(name)
        self._check_count()

    def declare(self, name: str, value: str | None) -> None:
        """Set an ARG; one without a value keeps what it was."""
        check_name(name)
        self.declared[name] = None
        if value is not None:
            self.args[name] = value
            self._over.add(name)
        self._check_count()

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return what a command sees."""
        return tuple((name, self[name]) for name in self)

    def declared_pairs(self) -> list[str]:
        """Return each declared ARG as ``name=value``, for the history."""
        return [f"{name}={self.get(name, '')}" for name in self.declared]

    def _check_count(self) -> None:
        if len(self.env) + len(self.declared) > _MAX_VARIABLES:
            raise Invalid(f"more than {_MAX_VARIABLES} variables are set")


def check_name(name: str) -> None:
    """Raise Invalid unless a variable can have this name."""
    if not name:
        raise Invalid("the name of a variable cannot be empty")
    if "=" in name:
        raise Invalid(f"the name of a variable cannot have a '=': {name[:80]!r}", name)


def proxy_pairs(build_args: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the proxies among ``build_args``, each in capitals and in small letters."""
    pairs = []
    for proxy in _PROXIES:
        for name in sorted(build_args):
            if name.upper() == proxy:
                pairs += [(proxy, build_args[name]), (proxy.lower(), build_args[name])]
                break
    return tuple(pairs)


def is_predefined(name: str) -> bool:
    """Whether a build argument needs no ARG to be of use."""
    return name.upper() in _PROXIES or name == SOURCE_DATE_EPOCH or name in _BUILDKIT
