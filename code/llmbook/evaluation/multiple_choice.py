"""Multiple choice without a pencil: which answer does a model find likely?

The model never answers. Each answer is put behind the question, and the
likeliest one counts as the model's choice. *Letters* shows the four choices
and compares the letters; *cloze* shows the question alone and compares the
choices themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llmbook.corpus.benchmarks import LETTERS, MultipleChoice

BETWEEN = "\n\n"  # the harness's fewshot_delimiter
BEFORE_ANSWER = " "  # the harness's target_delimiter


@dataclass(frozen=True)
class Layout:
    """How a question is put, and what is compared.

    Args:
        name: what results call it.
        heading: the line above the examples, with ``{subject}`` in it.
        ask: a question as text, up to where the answer begins.
        answers: what may follow, in the order of the choices.
    """

    name: str
    heading: str
    ask: Callable[[MultipleChoice], str]
    answers: Callable[[MultipleChoice], Sequence[str]]


def letters_question(item: MultipleChoice) -> str:
    """A question with its four choices, up to the letter.

    >>> print(letters_question(
    ...     MultipleChoice("maths", "1 + 1?", ("1", "2", "3", "4"), "B")))
    1 + 1?
    A. 1
    B. 2
    C. 3
    D. 4
    Answer:
    """
    lines = [item.question.strip()]
    lines += [
        f"{letter}. {choice}"
        for letter, choice in zip(LETTERS, item.choices, strict=True)
    ]
    return "\n".join([*lines, "Answer:"])


def cloze_question(item: MultipleChoice) -> str:
    """A question without its choices, up to the answer.

    >>> print(cloze_question(
    ...     MultipleChoice("maths", "1 + 1?", ("1", "2", "3", "4"), "B")))
    Question: 1 + 1?
    Answer:
    """
    return f"Question: {item.question.strip()}\nAnswer:"


# Hendrycks et al. 2021, appendix B; the harness's task `mmlu`, version 1.0
# of its default template.
LETTERED = Layout(
    "mmlu",
    "The following are multiple choice questions (with answers) about "
    "{subject}.",
    letters_question,
    lambda item: tuple(LETTERS),
)
# The harness's task `mmlu_continuation`, version 1.0; the idea is older:
# Brown et al. 2020, section 2.4, compare whole answers.
CLOZE = Layout(
    "mmlu_cloze",
    "The following are questions (with answers) about {subject}.",
    cloze_question,
    lambda item: item.choices,
)


def prompt(
    layout: Layout, item: MultipleChoice, shots: Sequence[MultipleChoice] = ()
) -> str:
    """The heading, the solved examples ``shots``, and the question.

    Subjects are file names: their underscores are blanks here.
    """
    subject = item.subject.replace("_", " ")
    parts = [layout.heading.format(subject=subject)]
    parts += [
        layout.ask(shot) + BEFORE_ANSWER + right_answer(layout, shot)
        for shot in shots
    ]
    return BETWEEN.join([*parts, layout.ask(item)])


def right_answer(layout: Layout, item: MultipleChoice) -> str:
    """What stands behind ``Answer:`` in a solved example."""
    return layout.answers(item)[LETTERS.index(item.answer)]


def likeliest(logprobs: Sequence[float]) -> int:
    """Number of the answer with the highest log-probability (``acc``).

    Of equals the first, as in lm-evaluation-harness.

    >>> likeliest([-5.0, -3.0, -3.0, -9.0])
    1
    """
    return max(range(len(logprobs)), key=logprobs.__getitem__)


def likeliest_per_character(
    logprobs: Sequence[float], answers: Sequence[str]
) -> int:
    """The answer with the highest log-probability a character (``acc_norm``).

    A long answer is a product of many probabilities, and so unlikely for
    its length alone. Divided is by the characters of the choice, without
    the blank before it, as lm-evaluation-harness does; Brown et al. 2020,
    section 2.4, divide by tokens, which makes the score depend on the
    tokenizer.

    >>> likeliest_per_character([-4.0, -6.0], ["oak", "a tall oak"])
    1
    """
    return likeliest(
        [
            score / len(answer) if answer else -math.inf
            for score, answer in zip(logprobs, answers, strict=True)
        ]
    )


def pooled_error(errors: Iterable[float], sizes: Iterable[int]) -> float:
    """The standard error of a mean over subjects, weighted by their sizes.

    Each subject's spread is taken around its own mean: what
    lm-evaluation-harness reports for a group (``pooled_sample_stderr``).

    >>> round(pooled_error([0.1, 0.1], [50, 50]), 4)
    0.0707
    """
    rows = list(zip(errors, sizes, strict=True))
    n = sum(size for _, size in rows)
    squares = sum((size - 1) * size * error**2 for error, size in rows)
    return math.sqrt(squares / (n - len(rows)) / n)
