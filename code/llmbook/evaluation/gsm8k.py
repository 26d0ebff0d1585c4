"""Word problems: the model writes, and the last number counts.

Source: Cobbe et al. 2021. The prompts, the stop strings and both ways to
find the answer are those of lm-evaluation-harness's task `gsm8k`, 3.0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from llmbook.corpus.benchmarks import WordProblem

STOP = ("Question:", "</s>", "<|im_end|>")
MAX_NEW_TOKENS = 256  # the harness's default (HFLM.max_gen_toks)
SHOTS = 5
SHOTS_SEED = 1234  # the harness's fewshot_random_seed

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
NOTHING_FOUND = "[invalid]"  # counts as wrong
# Left out before two answers are compared, in this order: thousands
# separators, dollars, all before the result, and a full stop at the end.
IGNORED = tuple(map(re.compile, (r",", r"\$", r"(?s).*#### ", r"\.$")))


def question(problem: WordProblem) -> str:
    """A problem as text, up to where the answer begins.

    >>> question(WordProblem("2 bags of 3?", "#### 6"))
    'Question: 2 bags of 3?\\nAnswer:'
    """
    return f"Question: {problem.question}\nAnswer:"


def prompt(problem: WordProblem, shots: Sequence[WordProblem] = ()) -> str:
    """The solved examples ``shots``, and the problem."""
    solved = [f"{question(shot)} {shot.answer}" for shot in shots]
    return "\n\n".join([*solved, question(problem)])


def drawn_shots(
    pool: Sequence[WordProblem], count: int, seed: int = SHOTS_SEED
) -> Iterator[list[WordProblem]]:
    """New solved examples for each problem in turn, without end.

    One generator draws them for one problem after the other, as
    lm-evaluation-harness does; so the examples of a problem depend on how
    many came before it, and on nothing else.

    Raises:
        ValueError: ``pool`` has fewer than ``count`` problems.
    """
    if len(pool) < count:
        raise ValueError(
            f"{count} solved examples are asked for, and there are "
            f"{len(pool)} to draw from. Ask for fewer."
        )
    source = random.Random(seed)
    while True:
        yield source.sample(pool, count)


def strict_answer(text: str) -> str:
    """The number after the first ``####``, or ``[invalid]``.

    >>> strict_answer("2 * 3 = 6\\n#### 6 bags"), strict_answer("It is 6.")
    ('6', '[invalid]')
    """
    found = STRICT.search(text)
    return found[1].strip() if found else NOTHING_FOUND


def flexible_answer(text: str) -> str:
    """The last thing in ``text`` that looks like a number.

    >>> flexible_answer("2 * 3 = 6, so it is $6.50, I think")
    '$6.50,'
    >>> flexible_answer("none")
    '[invalid]'
    """
    found = list(FLEXIBLE.finditer(text))
    return found[-1][0].strip() if found else NOTHING_FOUND


def normalise_answer(answer: str) -> str:
    """An answer without what does not matter: see ``IGNORED``, and case.

    >>> normalise_answer("Two bags cost 600 dollars.\\n#### $1,200.")
    '1200'
    """
    for pattern in IGNORED:
        answer = pattern.sub("", answer)
    return answer.lower()


def exact_match(answer: str, solution: str) -> bool:
    """Whether an extracted answer is that of the worked ``solution``.

    >>> exact_match("$1,200.", "2 * 600 = 1200\\n#### 1,200")
    True
    """
    return normalise_answer(answer) == normalise_answer(solution)
