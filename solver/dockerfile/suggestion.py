"""Guesses at what a mistyped word was meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

_MAX_WORD_CHARS: Final = 64


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean X?)`` for the known word nearest to ``word``, or nothing."""
    if len(word) > _MAX_WORD_CHARS:
        return ""
    by_fold = {name.lower(): name for name in known if name}
    close = get_close_matches(word.lower(), sorted(by_fold), n=1, cutoff=0.6)
    return f" (did you mean {by_fold[close[0]]}?)" if close else ""
