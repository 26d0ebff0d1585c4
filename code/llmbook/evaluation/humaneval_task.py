"""HumanEval as a task: write functions, run them, count those that pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmbook.corpus.benchmarks import CodeProblem, load_humaneval
from llmbook.evaluation.humaneval import (
    STOP_STRINGS,
    check_many,
    pass_at_k,
)
from llmbook.evaluation.models import LanguageModel
from llmbook.evaluation.sandbox import Verdict, best_tier
from llmbook.evaluation.statistics import bootstrap_interval, standard_error
from llmbook.evaluation.tasks import (
    Options,
    Record,
    hashed,
    metric,
    new_tokens,
    proportion,
)

MAX_NEW_TOKENS = 1024  # the harness's max_gen_toks for this task
SEED_STRIDE = 1_000_003  # a prime: the draws of two problems do not meet


@dataclass(frozen=True)
class CodeTask:
    """HumanEval, or problems in its form (Chen et al. 2021).

    The prompt is the problem's own and has no solved examples; stop strings
    are those of lm-evaluation-harness.
    """

    items: Sequence[CodeProblem]
    options: Options
    tier: str  # of the sandbox

    name = "humaneval"
    variant = "humaneval (1.0)"

    @classmethod
    def load(cls, options: Options) -> CodeTask:
        """The first ``limit`` problems.

        Raises:
            InfrastructureError: there is no sandbox to run programs in.
        """
        items = load_humaneval(folder=options.folder)[: options.limit]
        return cls(items, options, best_tier(options.allow_weak_sandbox))

    def __len__(self) -> int:
        return len(self.items)

    def id(self, number: int) -> str:
        """What the file calls the problem, such as ``HumanEval/0``."""
        return self.items[number].task_id

    def digest(self) -> str:
        """A hash of problems and tests."""
        return hashed([asdict(problem) for problem in self.items])

    def score(
        self, model: LanguageModel, numbers: Sequence[int]
    ) -> list[Record]:
        """Records with what the model wrote and what became of it.

        Every program is run in the sandbox.
        """
        most = new_tokens(model, self.options.max_new_tokens, MAX_NEW_TOKENS)
        prompts = [model.encode(self.items[n].prompt) for n in numbers]
        written = self.write(model, numbers, prompts, most)
        verdicts = check_many(
            [
                (self.items[number], sample)
                for number, samples in zip(numbers, written, strict=True)
                for sample in samples
            ],
            tier=self.tier,
        )
        return [
            {
                **self.record(n, samples, [next(verdicts) for _ in samples]),
                "cut": max(0, len(ids) + most - model.context_length),
            }
            for n, ids, samples in zip(numbers, prompts, written, strict=True)
        ]

    def write(
        self,
        model: LanguageModel,
        numbers: Sequence[int],
        prompts: Sequence[list[int]],
        most: int,
    ) -> list[list[str]]:
        """The samples for each problem.

        Greedy ones are written side by side. Drawn ones have seeds that
        only the problem and the sample decide.
        """
        chosen = self.options
        if chosen.temperature == 0:
            written = model.generate(prompts, most, STOP_STRINGS)
            return [[text] for text in written]
        return [
            model.generate(
                [ids] * chosen.samples,
                most,
                STOP_STRINGS,
                temperature=chosen.temperature,
                top_p=chosen.top_p,
                seed=chosen.seed + number * SEED_STRIDE,
            )
            for number, ids in zip(numbers, prompts, strict=True)
        ]

    def record(
        self, number: int, samples: Sequence[str], verdicts: Sequence[Verdict]
    ) -> Record:
        """What is kept of a problem."""
        problem = self.items[number]
        return {
            "task": self.name,
            "id": self.id(number),
            "prompt": problem.prompt,
            "target": f"{problem.test}\ncheck({problem.entry_point})",
            "generation": samples[0],
            "generations": list(samples),
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "correct": {"pass": [verdict.passed for verdict in verdicts]},
        }

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """pass@k for 1, 10, 100, and as many samples as there are."""
        passed = [row["correct"]["pass"] for row in records]
        n = len(passed[0])
        ks = sorted({k for k in (1, 10, 100) if k < n} | {n})
        metrics = {f"pass@{k}": pass_at(k, passed) for k in ks}
        if n == 1:
            metrics["pass@1"] = proportion([row[0] for row in passed])
        return {"metrics": metrics, "sandbox": self.tier}


def pass_at(k: int, passed: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """pass@k over problems, from the verdicts on each one's samples.

    >>> pass_at(1, [[True, False], [False, False]])["value"]
    0.25
    """
    values = [pass_at_k(len(row), sum(row), k) for row in passed]
    many = len(values) > 1
    return metric(
        sum(values) / len(values),
        len(values),
        stderr=standard_error(values) if many else None,
        interval=bootstrap_interval(values) if many else None,
    )
