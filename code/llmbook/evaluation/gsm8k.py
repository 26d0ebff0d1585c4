"""Word problems: the model writes, and the last number counts.

Source: Cobbe et al. 2021. The prompts, the stop strings and both ways to
find the answer are those of lm-evaluation-harness's task `gsm8k`, 3.0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from llmbook.corpus.benchmarks import WordProblem, load_gsm8k
from llmbook.evaluation.models import LanguageModel
from llmbook.evaluation.tasks import (
    FEWSHOT_SEED,
    Options,
    Record,
    hashed,
    new_tokens,
    proportion,
)

STOP = ("Question:", "</s>", "<|im_end|>")
MAX_NEW_TOKENS = 256  # the harness's default (HFLM.max_gen_toks)
SHOTS = 5  # the task's num_fewshot

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
    pool: Sequence[WordProblem], count: int, seed: int = FEWSHOT_SEED
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


@dataclass(frozen=True)
class WordProblemTask:
    """GSM8K, or problems in its form; each with its own solved examples."""

    items: Sequence[WordProblem]
    shots: Sequence[Sequence[WordProblem]]
    max_new_tokens: int | None = None

    name = "gsm8k"
    variant = "gsm8k (3.0)"

    @classmethod
    def load(cls, options: Options) -> WordProblemTask:
        """The first ``limit`` test problems."""
        items = load_gsm8k("test", folder=options.folder)[: options.limit]
        count = SHOTS if options.num_fewshot is None else options.num_fewshot
        pool = load_gsm8k("train", folder=options.folder) if count else ()
        shots = drawn_shots(pool, count, options.fewshot_seed)
        drawn = list(islice(shots, len(items)))
        return cls(items, drawn, options.max_new_tokens)

    def __len__(self) -> int:
        return len(self.items)

    def id(self, number: int) -> str:
        """The number within the file."""
        return str(number)

    def digest(self) -> str:
        """A hash of problems and examples."""
        return hashed(
            [
                [asdict(p) for p in self.items],
                [[asdict(p) for p in row] for row in self.shots],
            ]
        )

    def score(
        self, model: LanguageModel, numbers: Sequence[int]
    ) -> list[Record]:
        """Records with what the model wrote and what was found in it."""
        prompts = [prompt(self.items[n], self.shots[n]) for n in numbers]
        most = new_tokens(model, self.max_new_tokens, MAX_NEW_TOKENS)
        ids = [model.encode(text) for text in prompts]
        written = model.generate(ids, most, STOP)
        return [
            {
                **self.record(number, text, generation),
                "cut": max(0, len(row) + most - model.context_length),
            }
            for number, text, generation, row in zip(
                numbers, prompts, written, ids, strict=True
            )
        ]

    def record(self, number: int, text: str, generation: str) -> Record:
        """What is kept of a problem."""
        solution = self.items[number].answer
        extracted = {
            "strict": strict_answer(generation),
            "flexible": flexible_answer(generation),
        }
        return {
            "task": self.name,
            "id": self.id(number),
            "prompt": text,
            "target": solution,
            "generation": generation,
            "extracted": extracted,
            "correct": {
                way: exact_match(answer, solution)
                for way, answer in extracted.items()
            },
        }

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """The share of exact matches, by either way of looking."""
        return {
            "metrics": {
                way: proportion([row["correct"][way] for row in records])
                for way in ("strict", "flexible")
            }
        }
