"""What a .dockerignore keeps out of a context."""

from e2b_dockerfile_utils import PatternMatcher

from solver.dockerfile.errors import DockerfileError


class Ignore:
    """The patterns of one .dockerignore; the last that matches a path decides.

    Paths are relative to the context's root and '/'-separated; the root itself is never
    excluded. A walk needs both questions: an excluded directory is skipped without being
    read only if it may also be pruned, since ``!`` can bring back what lies below it.
    """

    def __init__(self, patterns: PatternMatcher) -> None:
        self._patterns = patterns

    def excludes(self, path: str) -> bool:
        """Whether ``path`` is kept out of the context."""
        path = path.strip("/")
        return bool(path) and self._patterns.matches(path)

    def may_prune(self, directory: str) -> bool:
        """Whether ``directory`` and all that can lie below it are kept out."""
        directory = directory.strip("/")
        return self.excludes(directory) and not self._patterns.may_match_under(directory)


def ignore_matcher(text: str, *, filename: str = ".dockerignore") -> Ignore:
    """Return the matcher for a .dockerignore's text.

    Raises:
        DockerfileError: a pattern that cannot be; it has the file and line.
    """
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    for number, line in enumerate(lines, 1):
        try:
            PatternMatcher([line])
        except ValueError as error:
            reason = str(error).rpartition(": ")[2]
            message = f"not a pattern: {reason}"
            raise DockerfileError(filename, number, line, message) from error
    return Ignore(PatternMatcher(lines))
