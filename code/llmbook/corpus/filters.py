"""Rules that tell prose from what a crawl picks up beside it."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .clean import normalized
from .collect import Rejected, missing_package

STOP_WORDS = frozenset(
    {"the", "be", "to", "of", "and", "that", "have", "with"}
)
ELLIPSES = ("...", "…")
_LANGUAGE_SAMPLE = 500  # characters that are enough to tell a language


class Pieces:
    """A text cut up once, for all rules."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def words(self) -> list[str]:
        """What stands between white space."""
        return self.text.split()

    @functools.cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.split("\n") if line.strip()]

    @functools.cached_property
    def paragraphs(self) -> list[str]:
        """What stands between blank lines."""
        parts = re.split(r"\n{2,}", self.text)
        return [part for part in parts if part.strip()]


@dataclass(frozen=True)
class Rule:
    """A measure of a text, the bounds it has to keep, and who says so.

    Args:
        name: what the report calls it.
        source: paper and section.
        of: what is measured: ``"words"``, ``"lines"``, ``"paragraphs"`` or
            ``"text"``.
        measure: a function of these pieces.
        least, most: the bounds, both allowed.
    """

    name: str
    source: str
    of: str
    measure: Callable[..., float]
    least: float = -math.inf
    most: float = math.inf

    def check(self, pieces: Pieces) -> Rejected | None:
        """Why these pieces break the rule; None where they keep it."""
        value = self.measure(getattr(pieces, self.of))
        if self.least <= value <= self.most:
            return None
        bound = self.least if value < self.least else self.most
        side = "below" if value < self.least else "above"
        return Rejected(self.name, f"{value:.4g} is {side} {bound:g}")


# --- length and form -------------------------------------------------------


def mean_length(words: Sequence[str]) -> float:
    """Characters in a word, on average.

    >>> mean_length(["a", "kite"])
    2.5
    """
    return sum(map(len, words)) / max(1, len(words))


def symbols_per_word(words: Sequence[str]) -> float:
    """Hashes or ellipses, whichever are more, for each word.

    >>> symbols_per_word(["#kite", "#wind", "and", "so", "on..."])
    0.4
    """
    text = " ".join(words)
    ellipses = sum(text.count(mark) for mark in ELLIPSES)
    return max(text.count("#"), ellipses) / max(1, len(words))


def bullet_share(lines: Sequence[str]) -> float:
    """Lines that begin with a bullet."""
    bullets = ("•", "*", "-", "‣", "▪")
    return _share(line.lstrip().startswith(bullets) for line in lines)


def ellipsis_share(lines: Sequence[str]) -> float:
    """Lines that end in an ellipsis."""
    return _share(line.rstrip().endswith(ELLIPSES) for line in lines)


def letter_share(words: Sequence[str]) -> float:
    """Words with at least one letter.

    >>> letter_share(["3", "kites", "=", "x"])
    0.5
    """
    return _share(
        word.isalpha() or any(map(str.isalpha, word)) for word in words
    )


def stop_words(words: Sequence[str]) -> int:
    """How many of the eight commonest little words occur at all.

    >>> stop_words("The end of the kite.".split())
    2
    """
    return len(STOP_WORDS.intersection(word.casefold() for word in words))


def occurrences(text: str, phrase: str) -> int:
    """How often a phrase stands in a text, in whatever case.

    >>> occurrences("Lorem ipsum dolor sit amet.", "lorem ipsum")
    1
    """
    return text.casefold().count(phrase)


def _share(truths) -> float:
    truths = list(truths)
    return sum(truths) / max(1, len(truths))


# --- repetition ------------------------------------------------------------


def duplicate_share(pieces: Sequence[str]) -> float:
    """Lines (or paragraphs) that repeat an earlier one.

    >>> duplicate_share(["a", "b", "a", "a"])
    0.5
    """
    return 1 - len(set(pieces)) / len(pieces) if pieces else 0.0


def duplicate_characters(pieces: Sequence[str]) -> float:
    """Share of the characters that stand in repeated lines."""
    once = sum(map(len, set(pieces)))
    return 1 - once / max(1, sum(map(len, pieces))) if pieces else 0.0


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Every n words that stand in a row.

    >>> ngrams(["the", "red", "kite"], 2)
    [('the', 'red'), ('red', 'kite')]
    """
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def top_ngram_characters(words: Sequence[str], n: int) -> float:
    """Share of the characters that the commonest n-gram fills.

    An n-gram that occurs once repeats nothing and counts as 0.

    >>> top_ngram_characters("buy now buy now or weep".split(), 2)
    0.6...
    """
    counts = Counter(ngrams(words, n))
    most = max(counts.values(), default=1)
    if most == 1:
        return 0.0
    tied = (gram for gram, count in counts.items() if count == most)
    longest = max(sum(map(len, gram)) for gram in tied)
    return min(1.0, longest * most / sum(map(len, words)))


def repeated_ngram_characters(words: Sequence[str], n: int) -> float:
    """Share of the characters in n-grams that stood there before.

    A character counts once, however many repeated n-grams cover it.

    >>> repeated_ngram_characters(list("abcdeabcde"), 5)
    0.5
    """
    grams = ngrams(words, n)
    if len(set(grams)) == len(grams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = covered = 0  # characters, and words that are counted
    for start, gram in enumerate(grams):
        if gram in seen:
            fresh = words[max(start, covered) : start + n]
            repeated += sum(map(len, fresh))
            covered = start + n
        seen.add(gram)
    return repeated / sum(map(len, words))


# --- the rules, as published -----------------------------------------------

_QUALITY = "Rae et al. 2021, section A.1.1"
_C4 = "Raffel et al. 2020, section 2.2"
_REPETITION = "Rae et al. 2021, table A1"

GOPHER_QUALITY = (
    Rule("words", _QUALITY, "words", len, 50, 100_000),
    Rule("mean word length", _QUALITY, "words", mean_length, 3, 10),
    Rule("symbols", _QUALITY, "words", symbols_per_word, most=0.1),
    Rule("bullet points", _QUALITY, "lines", bullet_share, most=0.9),
    Rule("ellipses", _QUALITY, "lines", ellipsis_share, most=0.3),
    Rule("words with letters", _QUALITY, "words", letter_share, least=0.8),
    Rule("stop words", _QUALITY, "words", stop_words, least=2),
)

GOPHER_REPETITION = (
    Rule("repeated lines", _REPETITION, "lines", duplicate_share, most=0.3),
    Rule("repeated paragraphs", _REPETITION, "paragraphs",
         duplicate_share, most=0.3),
    Rule("characters in repeated lines", _REPETITION, "lines",
         duplicate_characters, most=0.2),
    Rule("characters in repeated paragraphs", _REPETITION, "paragraphs",
         duplicate_characters, most=0.2),
    *(
        Rule(f"commonest {n}-gram", _REPETITION, "words",
             functools.partial(top_ngram_characters, n=n), most=most)
        for n, most in ((2, 0.20), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(f"repeated {n}-grams", _REPETITION, "words",
             functools.partial(repeated_ngram_characters, n=n), most=most)
        for n, most in ((5, 0.15), (6, 0.14), (7, 0.13),
                        (8, 0.12), (9, 0.11), (10, 0.10))
    ),
)  # fmt: skip

GOPHER = GOPHER_QUALITY + GOPHER_REPETITION

# Not among the defaults: the second throws all code away.
C4 = (
    Rule("lorem ipsum", _C4, "text",
         functools.partial(occurrences, phrase="lorem ipsum"), most=0),
    Rule("curly brackets", _C4, "text",
         functools.partial(occurrences, phrase="{"), most=0),
)  # fmt: skip


def first_broken(text: str, rules: Sequence[Rule]) -> Rejected | None:
    """The first rule that a text breaks; None where it keeps them all.

    >>> first_broken("Too short.", GOPHER)
    Rejected(rule='words', detail='2 is below 50')
    """
    pieces = Pieces(text)
    checks = (rule.check(pieces) for rule in rules)
    return next((broken for broken in checks if broken), None)


# --- language --------------------------------------------------------------


def language(text: str) -> tuple[str, float]:
    """The likeliest language of a text, by its ISO 639-1 code.

    Returns the code and the model's probability of it. The model is
    langid's (Lui and Baldwin 2012), carried inside the package py3langid.

    >>> language("Der Drachen flog davon, aber Tam hat ihn gefunden.")[0]
    'de'
    """
    code, probability = _identifier().classify(text[:_LANGUAGE_SAMPLE])
    return code, float(probability)


@functools.lru_cache(maxsize=1)
def _identifier():
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise missing_package("py3langid", "tell languages") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def wrong_language(
    text: str, languages: Sequence[str], least: float
) -> Rejected | None:
    """Why a text is not in one of the languages; None where it is."""
    code, probability = language(normalized(text))
    if code in languages and probability >= least:
        return None
    return Rejected("language", f"{code}, probability {probability:.2f}")
