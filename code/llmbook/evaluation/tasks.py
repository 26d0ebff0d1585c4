"""What a task is, and what can be chosen about an evaluation.

A task has items. A model gets a *record* for each, as plain values: the
prompt, what the model found likely or wrote, and what of it is right. A
summary is computed from the records alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from llmbook.evaluation.models import Ids, LanguageModel
from llmbook.evaluation.statistics import (
    Interval,
    standard_error,
    wilson_interval,
)

Record = dict[str, Any]

FEWSHOT_SEED = 1234  # the harness's fewshot_random_seed


@dataclass(frozen=True)
class Options:
    """What can be chosen about an evaluation; None takes the task's own.

    Args:
        limit: the first so many items of a task, of ``mmlu`` of each
            subject, as lm-evaluation-harness counts.
        num_fewshot: solved examples in the prompt (mmlu 0, gsm8k 5).
        fewshot_seed: draws the examples of gsm8k.
        max_new_tokens: the most tokens written (gsm8k 256, humaneval 1024,
            and never more than half the model's context).
        samples: texts written for each problem of humaneval.
        temperature, top_p: how they are drawn; 0 is greedy.
        seed: of what is drawn.
        folder: holds the benchmarks' files, as `llmbook corpus world`
            writes them; None takes the published ones.
        subjects: of mmlu, None all.
        corpus: whose documents ``perplexity`` scores: ``"world"``,
            ``"austen"``, a .txt file, a folder of them, or texts.
        documents: how many the corpus was split from, as in training.
        held_out: score only those that training leaves out.
        window_context: tokens that a further window sees again
            (:func:`~llmbook.evaluation.perplexity.rolling_windows`).
        allow_weak_sandbox: run programs where nothing but limits holds them.

    Raises:
        ValueError: a number is out of range.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    fewshot_seed: int = FEWSHOT_SEED
    max_new_tokens: int | None = None
    samples: int = 1
    temperature: float = 0.0
    top_p: float | None = None
    seed: int = 0
    folder: str | os.PathLike[str] | None = None
    subjects: Sequence[str] | None = None
    corpus: str | os.PathLike[str] | Sequence[str] = "world"
    documents: int | None = None
    held_out: bool = True
    window_context: int = 1
    allow_weak_sandbox: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("limit", 1),
            ("num_fewshot", 0),
            ("max_new_tokens", 1),
            ("samples", 1),
            ("window_context", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"{name} is {value}; expected at least {least}."
                )
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature is {self.temperature}; expected from 0 up."
            )
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples is {self.samples} at temperature 0, where all are "
                "the same. Set a temperature, such as 0.2."
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; given texts become their number."""
        values = asdict(self)
        if self.folder is not None:
            values["folder"] = os.fspath(self.folder)
        if isinstance(self.corpus, os.PathLike):
            values["corpus"] = os.fspath(self.corpus)
        elif not isinstance(self.corpus, str):
            values["corpus"] = f"{len(self.corpus)} given texts"
        return values


class Task(Protocol):
    """Items that a model is measured by.

    ``variant`` names the task of lm-evaluation-harness that it is.
    """

    name: str
    variant: str

    def __len__(self) -> int: ...

    def id(self, number: int) -> str:
        """What item ``number`` is called, the same in every run."""
        ...

    def digest(self) -> str:
        """A hash of all that the model is shown and judged by."""
        ...

    def score(
        self, model: LanguageModel, numbers: Sequence[int]
    ) -> list[Record]:
        """A record for each of the items ``numbers``."""
        ...

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """The scores of all records, with what surrounds them."""
        ...


def metric(
    value: float,
    n: int,
    *,
    stderr: float | None = None,
    interval: Interval | None = None,
    chance: float | None = None,
) -> dict[str, Any]:
    """A score of ``n`` items as it stands in the results; None: not known.

    >>> metric(0.5, 10)["interval"] is None
    True
    """
    return {
        "value": value,
        "n": n,
        "stderr": stderr,
        "interval": None if interval is None else list(interval),
        "chance": chance,
    }


def proportion(
    correct: Sequence[bool], chance: float | None = None
) -> dict[str, Any]:
    """A share of right answers with its uncertainty.

    ``stderr`` is the normal one that lm-evaluation-harness reports,
    ``interval`` Wilson's 95 %, ``chance`` what guessing would reach.

    >>> score = proportion([True, False, True, True], chance=0.25)
    >>> score["value"], score["stderr"]
    (0.75, 0.25)
    """
    n = len(correct)
    return metric(
        sum(correct) / n,
        n,
        stderr=standard_error(correct) if n > 1 else None,
        interval=wilson_interval(sum(correct), n),
        chance=chance,
    )


def check_finite(task: str, item: str, scores: Sequence[float]) -> None:
    """Stop where a log-likelihood is no number.

    Comparisons with NaN are false and max() skips it, so a broken model
    would pass for a bad one.

    Raises:
        ArithmeticError: names the task and the item.
    """
    if not all(map(math.isfinite, scores)):
        raise ArithmeticError(
            f"{task}, item {item}: log-likelihoods are {list(scores)}; "
            "expected finite numbers. The model's weights hold NaN or "
            "infinity, or overflow: check them, or use float32."
        )


def tokens_cut(before: Ids, after: Ids, longest: int) -> int:
    """How many tokens of a pair are more than a model reads."""
    return max(0, len(before) + len(after) - (longest + 1))


def new_tokens(model: LanguageModel, chosen: int | None, usual: int) -> int:
    """How many tokens a model may write.

    The task's usual number; half the context of a model too small for it.
    (lm-evaluation-harness refuses such a model.)
    """
    return chosen or min(usual, model.context_length // 2)


def hashed(values: Any) -> str:
    """SHA-256 of plain values.

    >>> hashed([1, "a"]) == hashed((1, "a"))
    True
    """
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
