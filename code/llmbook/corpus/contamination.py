"""Questions of a benchmark that stand in the text to learn from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .clean import normalized

GRAM = 13  # words; Brown et al. 2020, appendix C
LEAST = 8  # words; their shortest gram, for benchmarks of short items

_NO_WORD = re.compile(r"[^\w\s]|_")


def gram_words(text: str) -> list[str]:
    """Words for the comparison: lower case, punctuation taken out.

    >>> gram_words("Ona's kite -- RED, not blue!")
    ['onas', 'kite', 'red', 'not', 'blue']
    """
    return _NO_WORD.sub("", normalized(text)).split()


def grams(words: list[str], n: int = GRAM) -> Iterator[str]:
    """Every n words that stand in a row."""
    for start in range(len(words) - n + 1):
        yield " ".join(words[start : start + n])


class Contamination:
    """The 13-grams of benchmark items, to be looked for in documents.

    An item shorter than 13 words is looked for whole, if it has at least
    8; anything shorter would be found by accident and is not looked for.
    Source: Brown et al. 2020, appendix C.

    Args:
        items: the texts, by name: ``{"gsm8k/test/12": "Tam buys ..."}``.

    >>> found = Contamination({"q1": "does a red kite fly at this hour?"})
    >>> found.hits("Does a red kite fly, at THIS hour")
    ['q1']
    """

    def __init__(self, items: Mapping[str, str]) -> None:
        self.short: list[str] = []
        self.index: dict[int, dict[str, list[str]]] = {}
        for name, text in items.items():
            words = gram_words(text)
            if len(words) < LEAST:
                self.short.append(name)
                continue
            n = min(GRAM, len(words))
            for gram in grams(words, n):
                self.index.setdefault(n, {}).setdefault(gram, []).append(name)

    def hits(self, text: str) -> list[str]:
        """The names of the items of which a document holds a gram."""
        words = gram_words(text)
        found = (
            name
            for n, known in self.index.items()
            for gram in grams(words, n)
            for name in known.get(gram, ())
        )
        return sorted(set(found))


def benchmark_items(name: str, problems: Iterable[object]) -> dict[str, str]:
    """What a benchmark asks, by a name for each item.

    Takes what ``load_mmlu``, ``load_gsm8k`` and ``load_humaneval`` give.

    >>> from llmbook.corpus.benchmarks import WordProblem
    >>> benchmark_items("gsm8k", [WordProblem("2 bags of 6?", "#### 12")])
    {'gsm8k/0': '2 bags of 6?'}
    """
    return {
        f"{name}/{number}": getattr(problem, "question", None)
        or problem.prompt
        for number, problem in enumerate(problems)
    }
