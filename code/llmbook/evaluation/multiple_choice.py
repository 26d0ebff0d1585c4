"""Multiple choice without a pencil: which answer does a model find likely?

The model never answers. Each answer is put behind the question, and the
likeliest one counts as the model's choice. *Letters* shows the four choices
and compares the letters; *cloze* shows the question alone and compares the
choices themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from llmbook.corpus.benchmarks import LETTERS, MultipleChoice, load_mmlu
from llmbook.evaluation.models import LanguageModel, Pair, Scored, encode_pair
from llmbook.evaluation.tasks import (
    Options,
    Record,
    check_finite,
    hashed,
    proportion,
    tokens_cut,
)

BETWEEN = "\n\n"  # the harness's fewshot_delimiter
BEFORE_ANSWER = " "  # the harness's target_delimiter


@dataclass(frozen=True)
class Layout:
    """How a question is put, and what is compared.

    Args:
        name: what results call it.
        variant: the task of lm-evaluation-harness that it is.
        heading: the line above the examples, with ``{subject}`` in it.
        ask: a question as text, up to where the answer begins.
        answers: what may follow, in the order of the choices.
    """

    name: str
    variant: str
    heading: str
    ask: Callable[[MultipleChoice], str]
    answers: Callable[[MultipleChoice], Sequence[str]]


def letters_question(item: MultipleChoice) -> str:
    """A question with its four choices, up to the letter.

    Source: Hendrycks et al. 2021, figure 1a; lm-evaluation-harness's `mmlu`.

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

    Source: lm-evaluation-harness's `mmlu_continuation`.

    >>> print(cloze_question(
    ...     MultipleChoice("maths", "1 + 1?", ("1", "2", "3", "4"), "B")))
    Question: 1 + 1?
    Answer:
    """
    return f"Question: {item.question.strip()}\nAnswer:"


# Hendrycks et al. 2021, section 4.1 and figure 1a.
LETTERED = Layout(
    "mmlu",
    "mmlu (default template 1.0)",
    "The following are multiple choice questions (with answers) about "
    "{subject}.",
    letters_question,
    lambda item: tuple(LETTERS),
)
# Brown et al. 2020, section 2.4: whole answers are compared.
CLOZE = Layout(
    "mmlu_cloze",
    "mmlu_continuation (1.0)",
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


@dataclass(frozen=True)
class ChoiceTask:
    """MMLU in one of its layouts (Hendrycks et al. 2021).

    ``shots`` are the solved examples of each subject, from its ``dev`` file
    in the order of the file.
    """

    layout: Layout
    items: Sequence[MultipleChoice]
    shots: Mapping[str, Sequence[MultipleChoice]]

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def variant(self) -> str:
        return self.layout.variant

    @classmethod
    def load(cls, layout: Layout, options: Options) -> ChoiceTask:
        """The test questions, the first ``limit`` of each subject."""
        files = {"folder": options.folder, "subjects": options.subjects}
        groups = _by_subject(load_mmlu("test", **files))
        count = options.num_fewshot or 0
        shots = _by_subject(load_mmlu("dev", **files)) if count else {}
        for subject in groups if count else ():
            if len(shots.get(subject, ())) < count:
                raise ValueError(
                    f"{count} solved examples are asked for, and the dev "
                    f"file of {subject} has {len(shots.get(subject, ()))}. "
                    "Ask for fewer with num_fewshot."
                )
        return cls(
            layout,
            [q for group in groups.values() for q in group[: options.limit]],
            {subject: shots[subject][:count] for subject in shots},
        )

    def __len__(self) -> int:
        return len(self.items)

    def id(self, number: int) -> str:
        """The subject, and the number within it."""
        return self._ids[number]

    @cached_property
    def _ids(self) -> list[str]:
        groups = _by_subject(self.items)
        return [f"{s}/{n}" for s, qs in groups.items() for n in range(len(qs))]

    def digest(self) -> str:
        """A hash of questions and examples."""
        shots = {s: [asdict(q) for q in qs] for s, qs in self.shots.items()}
        return hashed([[asdict(q) for q in self.items], shots])

    def prompt(self, number: int) -> str:
        """All that stands before the answer."""
        item = self.items[number]
        return prompt(self.layout, item, self.shots.get(item.subject, ()))

    def pairs(self, model: LanguageModel, number: int) -> list[Pair]:
        """The prompt with each answer, as ids."""
        before = self.prompt(number)
        return [
            encode_pair(model, before, BEFORE_ANSWER + answer)
            for answer in self.layout.answers(self.items[number])
        ]

    def score(
        self, model: LanguageModel, numbers: Sequence[int]
    ) -> list[Record]:
        """Records with the log-likelihood of each answer."""
        pairs = [self.pairs(model, number) for number in numbers]
        scored = iter(model.loglikelihoods([p for row in pairs for p in row]))
        return [
            {
                **self.record(number, [next(scored) for _ in row]),
                "cut": max(tokens_cut(*p, model.context_length) for p in row),
            }
            for number, row in zip(numbers, pairs, strict=True)
        ]

    def record(self, number: int, scored: Sequence[Scored]) -> Record:
        """What is kept of a question."""
        item = self.items[number]
        logprobs = [s.logprob for s in scored]
        check_finite(self.name, self.id(number), logprobs)
        answers = self.layout.answers(item)
        target = LETTERS.index(item.answer)
        prediction = {
            "acc": likeliest(logprobs),
            "acc_norm": likeliest_per_character(logprobs, answers),
        }
        return {
            "task": self.name,
            "id": self.id(number),
            "subject": item.subject,
            "prompt": self.prompt(number),
            "answers": list(answers),
            "target": target,
            "loglikelihoods": logprobs,
            "greedy": [s.greedy for s in scored],
            "tokens": [s.tokens for s in scored],
            "prediction": prediction,
            "correct": {m: p == target for m, p in prediction.items()},
        }

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """Accuracy over all questions, by subject, and over subjects.

        Over all questions each subject weighs as much as it has questions:
        lm-evaluation-harness's group score, with its pooled error.
        """
        groups = _by_subject(records)
        chance = 1 / len(LETTERS)
        metrics, subjects, macro = {}, {s: {} for s in groups}, {}
        for metric in ("acc", "acc_norm"):
            for subject, rows in groups.items():
                flags = [row["correct"][metric] for row in rows]
                subjects[subject][metric] = proportion(flags, chance)
            scores = [s[metric] for s in subjects.values()]
            flags = [row["correct"][metric] for row in records]
            metrics[metric] = proportion(flags, chance)
            macro[metric] = sum(s["value"] for s in scores) / len(scores)
            if all(s["stderr"] is not None for s in scores):
                metrics[metric]["stderr"] = pooled_error(
                    [s["stderr"] for s in scores], [s["n"] for s in scores]
                )
        return {"metrics": metrics, "macro": macro, "subjects": subjects}


def _by_subject(items: Sequence[Any]) -> dict[str, list[Any]]:
    """Items or records grouped by subject, in order."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        subject = item["subject"] if isinstance(item, dict) else item.subject
        groups.setdefault(subject, []).append(item)
    return groups
