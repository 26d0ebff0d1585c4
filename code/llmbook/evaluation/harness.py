"""Evaluate a model: one call, any benchmarks, and nothing scored twice."""

from __future__ import annotations

import contextlib
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm.std import tqdm

import llmbook
from llmbook.batching import BATCH_SIZE
from llmbook.evaluation.gsm8k import WordProblemTask
from llmbook.evaluation.humaneval_task import CodeTask
from llmbook.evaluation.journal import Journal
from llmbook.evaluation.models import GPTModel, LanguageModel
from llmbook.evaluation.multiple_choice import CLOZE, LETTERED, ChoiceTask
from llmbook.evaluation.perplexity import PerplexityTask
from llmbook.evaluation.results import Results
from llmbook.evaluation.tasks import Options, Record, Task
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer

TASKS: dict[str, Callable[[Options], Task]] = {
    "mmlu": partial(ChoiceTask.load, LETTERED),
    "mmlu_cloze": partial(ChoiceTask.load, CLOZE),
    "gsm8k": WordProblemTask.load,
    "humaneval": CodeTask.load,
    "perplexity": PerplexityTask.load,
}
ALIASES = {"mmlu_continuation": "mmlu_cloze"}  # the harness's name


def evaluate(
    model: LanguageModel | GPT,
    tasks: str | Sequence[str] | Tokenizer,
    also_tasks: str | Sequence[str] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    batch_size: int = BATCH_SIZE,
    out: str | Path | None = None,
    restart: bool = False,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Measure a model by tasks; their names are in ``TASKS``.

    ``evaluate(model, tasks)`` takes any :class:`LanguageModel`, and
    ``evaluate(gpt, tokenizer, tasks)`` one of our models.

    Args:
        batch_size: items that are scored, and written down, together.
        out: file for the results. A journal lies beside it until they are
            complete; a run that was ended goes on from there, and one with
            ``restart`` begins anew.
        options: see :class:`~llmbook.evaluation.tasks.Options`.

    Raises:
        ValueError: no such task or option, a journal of something else, or
            an item that the model cannot read.
        FileNotFoundError: a benchmark's file is missing.
        ArithmeticError: a log-likelihood is no number.
    """
    if also_tasks is not None:
        tokenizer, tasks = tasks, also_tasks
    names, chosen = task_names(tasks), Options(**options)
    model = as_language_model(model, tokenizer, batch_size)
    loaded = [TASKS[name](chosen) for name in names]
    results = measure(
        model, loaded, chosen, batch_size, out, restart, progress
    )
    warn_of_cuts(results.tasks)
    return results


def measure(
    model: LanguageModel,
    tasks: Sequence[Task],
    options: Options,
    batch_size: int,
    out: str | Path | None,
    restart: bool,
    progress: bool,
) -> Results:
    """Run every task, keep the results, and then drop the journal."""
    about = description(model, tasks, options)
    with _journal(out, journal_key(about), restart) as journal:
        found = {
            task.name: run(model, task, journal, batch_size, progress)
            for task in tasks
        }
        results = Results(found, about)
        if out is not None:
            results.save(out)
            journal.remove()
    return results


def warn_of_cuts(found: dict[str, dict[str, Any]]) -> None:
    """Say of which tasks the model could not read every prompt whole."""
    for task, result in found.items():
        cut, n = result["cut"], result["n"]
        if cut["prompts"]:
            warnings.warn(
                f"{task}: {cut['prompts']} of {n} prompts are longer than "
                f"the model reads, by up to {cut['most_tokens']} tokens; "
                "their beginnings were left out, as the reference harness "
                "does.",
                stacklevel=3,
            )


def task_names(tasks: str | Sequence[str]) -> list[str]:
    """The names of known tasks, each once.

    Raises:
        ValueError: an unknown name, or none.

    >>> task_names("mmlu,mmlu_continuation")
    ['mmlu', 'mmlu_cloze']
    """
    given = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    names = [ALIASES.get(name.strip(), name.strip()) for name in given]
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise ValueError(
            f"there is no task {', '.join(map(repr, unknown)) or 'named'}; "
            f"expected some of {', '.join([*TASKS, *ALIASES])}."
        )
    return list(dict.fromkeys(names))


def as_language_model(
    model: LanguageModel | GPT,
    tokenizer: Tokenizer | None = None,
    batch_size: int = BATCH_SIZE,
) -> LanguageModel:
    """A GPT with its tokenizer as what tasks ask for; others as they are.

    Raises:
        ValueError: a GPT without a tokenizer.
    """
    if not isinstance(model, GPT):
        return model
    if tokenizer is None:
        raise ValueError(
            "got a GPT without its tokenizer; expected both. Call "
            "evaluate(model, tokenizer, tasks)."
        )
    return GPTModel(model, tokenizer, batch_size)


def description(
    model: LanguageModel, tasks: Sequence[Task], options: Options
) -> dict[str, Any]:
    """What is measured, by what and with which programs."""
    versions = {
        "llmbook": llmbook.__version__,
        "python": platform.python_version(),
    }
    versions |= {name: metadata.version(name) for name in model.packages}
    return {
        "model": {
            "name": model.name,
            "fingerprint": model.fingerprint(),
            "context_length": model.context_length,
        },
        "options": options.to_dict(),
        "data": {task.name: task.digest() for task in tasks},
        "versions": versions,
        "seeds": {
            "seed": options.seed,
            "fewshot_seed": options.fewshot_seed,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def journal_key(about: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to be gone on with.

    Names and places may change: weights and data are known by hashes.
    """
    options = {k: v for k, v in about["options"].items() if k != "folder"}
    return {
        "options": options,
        "model": about["model"]["fingerprint"],
        "context_length": about["model"]["context_length"],
        "data": about["data"],
        "versions": about["versions"],
    }


def run(
    model: LanguageModel,
    task: Task,
    journal: Journal | _NoJournal,
    batch_size: int,
    progress: bool,
) -> dict[str, Any]:
    """Score what the journal does not have yet, and sum up.

    Items are taken in batches that do not depend on where an earlier run
    ended, so that a run taken up again gives the same numbers.
    """
    found: list[Record | None] = [
        journal.get(task.name, task.id(n)) for n in range(len(task))
    ]
    done = sum(record is not None for record in found)
    bar = tqdm(
        total=len(task), initial=done, desc=task.name, disable=not progress
    )
    with bar:
        for first in range(0, len(task), batch_size):
            batch = range(first, min(first + batch_size, len(task)))
            missing = [n for n in batch if found[n] is None]
            if not missing:
                continue
            records = scored(model, task, missing)
            journal.add(records)
            for number, record in zip(missing, records, strict=True):
                found[number] = record
            bar.update(len(missing))
    return summed_up(task, found)


def scored(
    model: LanguageModel, task: Task, numbers: Sequence[int]
) -> list[Record]:
    """The records of some items; an error says which they are."""
    try:
        return task.score(model, numbers)
    except ValueError as error:
        first, last = task.id(numbers[0]), task.id(numbers[-1])
        raise ValueError(
            f"{task.name}, items {first} to {last}: {error}"
        ) from error


def summed_up(task: Task, records: list[Record]) -> dict[str, Any]:
    """A task's scores and records, and how many prompts were cut."""
    cut = [record["cut"] for record in records if record.get("cut")]
    return {
        "variant": task.variant,
        "n": len(records),
        **task.summary(records),
        "cut": {"prompts": len(cut), "most_tokens": max(cut, default=0)},
        "examples": records,
    }


class _NoJournal:
    """In place of a journal where nothing is kept on disk."""

    def get(self, task: str, item: str) -> None:
        """Nothing was scored before."""

    def add(self, records: Sequence[Record]) -> None:
        """Nothing is written down."""


@contextlib.contextmanager
def _journal(
    out: str | Path | None, key: dict[str, Any], restart: bool
) -> Iterator[Journal | _NoJournal]:
    if out is None:
        yield _NoJournal()
        return
    out = Path(out)
    if out.is_dir():
        raise ValueError(
            f"{out} is a folder; expected a file for the results, such as "
            f"{out / 'results.json'}."
        )
    with Journal(out.with_name(f"{out.name}.journal"), key, restart) as found:
        yield found
