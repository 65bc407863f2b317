"""Variables in the words of an instruction.

The lexer is a library's; what it may cost is bounded here, since a value may hold the value
before it twice, a pattern may backtrack, and a replacement may be put in at every character.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from e2b_dockerfile_utils import ShellLex

from solver.dockerfile.errors import Invalid

MAX_VALUE_CHARS: Final = 128 << 10
"""Bound on one value: Linux passes no longer string to a process."""

_MAX_EXPANDED_CHARS: Final = 4 << 20
_MAX_STEPS: Final = 20_000_000
_LONG_PATTERN: Final = re.compile(r"\$\{\w+[#%/](?:\\.|[^}\\]){4096}")


class _Metered(Mapping[str, str]):
    """Variables that refuse to be read more than one word can have use for."""

    def __init__(self, values: Mapping[str, str], word: str) -> None:
        self._values = values
        self._word_chars = len(word)
        in_braces = "${" in word
        self._stars = word.count("*") if in_braces else 0
        self._replaces = in_braces and "/" in word
        self._read_chars = 0

    def __getitem__(self, name: str) -> str:
        value = self._values[name]
        self._read_chars += len(value)
        if self._read_chars > _MAX_EXPANDED_CHARS:
            raise ValueError(f"expands to more than {_MAX_EXPANDED_CHARS} characters")
        if len(value) ** max(1, self._stars) > _MAX_STEPS:
            raise ValueError(f"the pattern has too many '*' for a value of {len(value)}")
        if self._replaces and len(value) * self._word_chars > _MAX_STEPS:
            raise ValueError(f"the text is too long to replace in a value of {len(value)}")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Words:
    """Expands the words of one Dockerfile.

    Every method takes the variables that are set and raises Invalid where the word is no
    shell word, asks for a variable that must be set (``${x:?}``), or grows too large.
    """

    def __init__(self, escape: str) -> None:
        self._escape = escape

    def expand(self, word: str, variables: Mapping[str, str]) -> str:
        """Return ``word`` with variables put in and quotes taken away; unset ones are ''."""
        _check_pattern(word)
        lex = ShellLex(self._escape, env=_Metered(variables, word), skip_unset_env=False)
        try:
            return _bounded(lex.process_word(word))
        except (ValueError, re.error) as error:
            raise _invalid(word, error) from error

    def split(self, word: str, variables: Mapping[str, str]) -> list[str]:
        """Return the words that ``word`` expands to; an unquoted value may be several."""
        _check_pattern(word)
        lex = ShellLex(self._escape, env=_Metered(variables, word), skip_unset_env=False)
        try:
            return lex.process_words(word)
        except (ValueError, re.error) as error:
            raise _invalid(word, error) from error

    def expand_text(self, text: str, variables: Mapping[str, str]) -> str:
        r"""Return a heredoc's text with variables put in; quotes stay, ``\`` escapes."""
        _check_pattern(text)
        meter = _Metered(variables, text)
        lex = ShellLex("\\", skip_process_quotes=True, env=meter, skip_unset_env=False)
        try:
            return lex.process_word(text)
        except (ValueError, re.error) as error:
            raise _invalid(text, error) from error

    def show(self, text: str, variables: Mapping[str, str]) -> str:
        """Return ``text`` for people: known variables put in where that is possible."""
        if _LONG_PATTERN.search(text):
            return text
        lex = ShellLex(self._escape, raw_quotes=True, env=_Metered(variables, text))
        try:
            return lex.process_word(text)
        except (ValueError, re.error):
            return text


def _check_pattern(word: str) -> None:
    if _LONG_PATTERN.search(word):
        raise Invalid("a pattern of a ${} is longer than 4096 characters")


def _bounded(text: str) -> str:
    if len(text) > MAX_VALUE_CHARS:
        raise Invalid(f"a word expands to more than {MAX_VALUE_CHARS} characters")
    return text


def _invalid(word: str, error: Exception) -> Invalid:
    reason = str(error).removeprefix(f"failed to process {word!r}: ")
    return Invalid(f"cannot expand {word[:80]!r}: {reason[:200]}", word)
