"""Do our scores agree with the reference harness's, example by example?

    LLMBOOK_BUDGET=quick python -m benchmarks.evaluation [--record]

The running model is saved in Hugging Face's format and evaluated by
lm-evaluation-harness and by ``llmbook.evaluation``, each from that folder,
with the same threads and the same batch size, on the world's benchmarks.
The table compares every log-likelihood, answer and score, and says how many
examples differ when our side has other weights. The seconds run from the
call to the results, with the model loaded: reading the task's files, in
which the harness spends a large part of its time on tasks this small, is in
them. HumanEval's programs are written and not run.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import harness
from benchmarks.records import keep, surroundings
from llmbook import hub, running, runtime
from llmbook.corpus import load_corpus
from llmbook.corpus.world import files, functions, sums
from llmbook.corpus.world.questions import COURSES
from llmbook.evaluation import humaneval_task
from llmbook.evaluation.harness import evaluate
from llmbook.evaluation.loading import load_model
from llmbook.evaluation.models import LanguageModel
from llmbook.evaluation.sandbox import Verdict
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer

RECORD = Path(__file__).resolve().parents[1] / "runs" / "evaluation.json"
EXAMPLES = 200  # a task
TRAIN = 1000  # problems that GSM8K's prompts are drawn from
DRAWN = 500  # documents, of which those of perplexity are taken
LONG_TEXTS = 40  # of these: longer than the context
JOINED = 3  # documents in one of them
LETTERS_A_TOKEN = 5  # more than there are, so that these do not fit
FRESH_SEED = 1000  # of the documents: those that no training met
TOLERANCE = 1e-4  # nats, in a log-likelihood
# How far a sum of 256 float32 numbers, added in pairs, can be off, as a share
# of it: log2(256) roundings of 2^-24 each.
SUMMED = 8 * 2.0**-24
ANSWER_SHARE = 4  # an answer takes up to this part of the context
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "lm_eval")
NOISE, NOISE_SEED = 0.4, 0  # on the other weights: enough to write wildly
LOUDER = 2.0  # the rows of tokens that end something
SUBJECTS = tuple(name.replace(" ", "_") for name in COURSES.values())
WORDS = ("word_perplexity", "byte_perplexity", "bits_per_byte")


# --- the data, in the real formats -----------------------------------------


def write_data(folder: Path, seed: int = 0) -> Path:
    """The world's benchmarks, 200 examples or more of each."""
    for name, content in files.mmlu_files(seed):
        put(folder / name, content)
    for split, side, count in (
        ("train", "seen", TRAIN),
        ("test", "unseen", EXAMPLES),
    ):
        rows = sums.gsm8k_rows(side, count, f"{seed}/{split}")
        put(folder / f"gsm8k/{split}.jsonl", files.json_lines(rows))
    rows = functions.humaneval_rows("unseen", EXAMPLES, seed)
    packed = gzip.compress(files.json_lines(rows), mtime=0)
    put(folder / "humaneval/HumanEval.jsonl.gz", packed)
    return folder


def put(path: Path, content: bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def documents(context_length: int, seed: int = FRESH_SEED) -> list[str]:
    """Fresh documents of the world; one has no text, some take windows."""
    longest = LETTERS_A_TOKEN * context_length
    drawn = load_corpus("world", documents=DRAWN, seed=seed).train_texts
    long = [
        "\n\n".join(drawn[i * JOINED : (i + 1) * JOINED])
        for i in range(LONG_TEXTS)
    ]
    short = drawn[LONG_TEXTS * JOINED :][: EXAMPLES - LONG_TEXTS - 1]
    return [text[:longest] for text in [*long, *short]] + [""]


# --- the comparison --------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How far two evaluations of one task lie apart.

    Args:
        examples: how many there are.
        loglikelihoods: how many numbers were compared.
        apart: the largest difference of two log-likelihoods, in nats.
        different: how many examples differ in anything: a log-likelihood
            is :func:`far` from the other, or another part is not the same.
        parts: the names of the parts that differ, with how many.
    """

    examples: int
    loglikelihoods: int
    apart: float
    different: int
    parts: dict[str, int]


def numbers(ours: Mapping, theirs: Mapping) -> list[tuple[float, float]]:
    """The log-likelihoods of two records, side by side.

    Raises:
        ValueError: one is not a number, or infinite, or missing. The
            largest of differences would not show it: ``max(0, nan)`` is 0.
    """
    sides = [side.get("loglikelihoods", ()) for side in (ours, theirs)]
    pairs = list(zip(*sides, strict=True))
    if not all(math.isfinite(value) for pair in pairs for value in pair):
        raise ValueError(
            f"example {theirs['id']} has the log-likelihoods {pairs}, ours "
            "first; expected finite ones. Look at the model's weights."
        )
    return pairs


def far(ours: float, theirs: float) -> bool:
    """Whether two log-likelihoods differ by more than they may.

    They may by ``TOLERANCE``. But the harness adds up each window in
    float32, and for a long document, below -210 nats, the rounding of such
    a sum can be larger than that (``SUMMED``); ours is added exactly.
    """
    return abs(ours - theirs) > max(TOLERANCE, SUMMED * abs(theirs))


def compare(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> Agreement:
    """Hold the records of one task against each other, in order.

    Raises:
        ValueError: no example, another number of examples or of choices,
            records that do not hold the same parts, or a log-likelihood
            that is not finite.
    """
    pairs = list(zip(ours, theirs, strict=True))
    names = {frozenset(record) for pair in pairs for record in pair}
    if len(names) != 1:
        raise ValueError(
            f"the records hold {sorted(map(sorted, names))}; expected some, "
            "and the same parts in all of them."
        )
    wrong = {
        name: [a[name] != b[name] for a, b in pairs]
        for name in sorted(frozenset(*names) - {"id", "loglikelihoods"})
    }
    likely = [numbers(a, b) for a, b in pairs]
    wrong["loglikelihoods"] = [any(far(*two) for two in row) for row in likely]
    return Agreement(
        examples=len(pairs),
        loglikelihoods=sum(map(len, likely)),
        apart=max((abs(a - b) for row in likely for a, b in row), default=0.0),
        different=sum(map(any, zip(*wrong.values(), strict=True))),
        parts={
            name: sum(flags) for name, flags in wrong.items() if any(flags)
        },
    )


# --- both sides ------------------------------------------------------------

# The harness's names, and ours.
METRICS = {
    "acc,none": "acc",
    "acc_norm,none": "acc_norm",
    "exact_match,strict-match": "strict",
    "exact_match,flexible-extract": "flexible",
    "word_perplexity,none": "per_word",
    "byte_perplexity,none": "per_byte",
    "bits_per_byte,none": "bits_per_byte",
}
FILTERS = {"strict": "strict-match", "flexible": "flexible-extract"}


def of_choices(record: Mapping[str, Any]) -> dict[str, Any]:
    """Our record of a question in the harness's terms."""
    return {
        "id": record["id"],
        "prompt": record["prompt"],
        "continuations": [f" {answer}" for answer in record["answers"]],
        "loglikelihoods": record["loglikelihoods"],
        "greedy": record["greedy"],
        "scores": {
            metric: float(record["correct"][metric])
            for metric in COMPARED[record["task"]]
        },
    }


def of_text(record: Mapping[str, Any]) -> dict[str, Any]:
    """Our record of a document in the harness's terms."""
    words, size = record["words"], record["bytes"]
    return {
        "id": record["id"],
        "prompt": record["target"],
        "loglikelihoods": record["loglikelihoods"],
        "counts": dict(zip(WORDS, (words, size, size), strict=True)),
    }


def of_answer(record: Mapping[str, Any]) -> dict[str, Any]:
    """Our record of a word problem in the harness's terms."""
    return {
        "id": record["id"],
        "prompt": record["prompt"],
        "generation": record["generation"],
        "extracted": {
            name: record["extracted"][way] for way, name in FILTERS.items()
        },
        "scores": {
            name: float(record["correct"][way])
            for way, name in FILTERS.items()
        },
    }


def of_code(record: Mapping[str, Any]) -> dict[str, Any]:
    """Our record of a function in the harness's terms: the text alone."""
    return {
        "id": record["id"],
        "prompt": record["prompt"],
        "generation": record["generation"],
        "extracted": {"none": record["generation"]},
        "scores": {},
    }


TRANSLATED = {
    "mmlu": of_choices,
    "mmlu_cloze": of_choices,
    "gsm8k": of_answer,
    "humaneval": of_code,
    "perplexity": of_text,
}


COMPARED = {
    "mmlu": ("acc",),
    "mmlu_cloze": ("acc", "acc_norm"),
    "gsm8k": ("strict", "flexible"),
    "humaneval": (),  # the harness's metric would be downloaded
    "perplexity": ("per_word", "per_byte", "bits_per_byte"),
}


@dataclass(frozen=True)
class Row:
    """A task, and how many solved examples stand in its prompts."""

    task: str
    shots: int | None = None

    @property
    def scored(self) -> bool:
        """Whether log-likelihoods are compared, and not what is written."""
        return self.task not in ("gsm8k", "humaneval")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores that both sides have."""
        return COMPARED[self.task]

    @property
    def label(self) -> str:
        """What the table calls it."""
        return f"{self.task}, {self.shots} shots" if self.shots else self.task


PLAN = (
    Row("mmlu"),
    Row("mmlu", 5),
    Row("mmlu_cloze"),
    Row("gsm8k", 5),
    Row("humaneval"),
    Row("perplexity"),
)


@dataclass(frozen=True)
class Case:
    """What both sides evaluate alike.

    Args:
        data: the benchmarks' files as published.
        tasks: the harness's tasks with the same data.
        texts: the documents of the perplexity task.
        max_new_tokens: the longest answer.
        batch_size: rows in a pass.
        limit: the first so many examples of a task, of MMLU of a subject.
        subjects: of MMLU.
    """

    data: Path
    tasks: Path
    texts: Sequence[str]
    max_new_tokens: int
    batch_size: int = 16
    limit: int | None = None
    subjects: Sequence[str] = SUBJECTS


def world_case(folder: Path, context_length: int) -> Case:
    """The world's benchmarks, written into ``folder``."""
    most = context_length // ANSWER_SHARE
    data = write_data(folder / "data")
    whole = documents(context_length)
    tasks = harness.write_tasks(
        data,
        folder / "tasks",
        subjects=SUBJECTS,
        texts=whole,
        max_gen_toks=most,
    )
    return Case(data, tasks, whole, most)


def job(row: Row, case: Case, model: Path) -> dict[str, Any]:
    """What the harness is asked for a row."""
    names = [row.task]
    if row.task.startswith("mmlu"):
        names = [f"{row.task}-{subject}" for subject in case.subjects]
    return {
        "folder": str(case.tasks),
        "tasks": dict.fromkeys(names, row.shots),
        "model": str(model),
        "batch_size": case.batch_size,
        "limit": case.limit,
    }


def joined(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A job's tasks as one: the subjects of MMLU behind each other.

    A score is the mean over all examples, as the harness's group has it.
    """
    parts = list(found.values())
    sizes = [len(part["records"]) for part in parts]
    scores = {
        ours: sum(
            n * part["results"][name]
            for n, part in zip(sizes, parts, strict=True)
        )
        / sum(sizes)
        for name, ours in METRICS.items()
        if name in parts[0]["results"]
    }
    return {
        "records": [r for part in parts for r in part["records"]],
        "seconds": sum(part["seconds"] for part in parts),
        "scores": scores,
    }


def theirs(
    rows: Sequence[Row], case: Case, model: Path, folder: Path
) -> list[dict[str, Any]]:
    """What the harness says of each row."""
    jobs = [job(row, case, model) for row in rows]
    found = harness.run_jobs(jobs, folder, torch.get_num_threads())
    return list(map(joined, found))


def ours(row: Row, case: Case, model: LanguageModel) -> dict[str, Any]:
    """What our evaluation says of a row; programs are written, not run."""
    unread = Verdict("wrong", "was not run: only texts are compared")
    start = time.perf_counter()
    with (
        patch.object(
            humaneval_task,
            "check_many",
            lambda solutions, **_: (unread for _ in solutions),
        ),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".* are longer than the model")
        found = evaluate(
            model,
            row.task,
            batch_size=case.batch_size,
            progress=False,
            folder=case.data,
            subjects=case.subjects,
            corpus=case.texts,
            num_fewshot=row.shots,
            max_new_tokens=case.max_new_tokens,
            limit=case.limit,
        )
    seconds = time.perf_counter() - start
    scores = {name: found.score(row.task, name) for name in row.metrics}
    records = list(map(TRANSLATED[row.task], found.examples(row.task)))
    return {"records": records, "seconds": seconds, "scores": scores}


def other_weights(model: GPT, tokenizer: Tokenizer) -> GPT:
    """The model with noise on its weights, and some tokens made likely.

    What it writes is wild: broken letters, control characters, and every
    now and then the end of a text or of an answer. The head shares its
    weights with the embedding, so that what is added to the last norm's
    bias along a token's embedding speaks for that token.
    """
    source = torch.Generator().manual_seed(NOISE_SEED)
    other = copy.deepcopy(model)
    loud = {*tokenizer.encode("\n#Question:"), tokenizer.end_of_text}
    with torch.no_grad():
        for parameter in other.parameters():
            drawn = torch.randn(parameter.shape, generator=source)
            parameter.add_(NOISE * drawn.to(parameter.device))
        other.head_weight[sorted(loud)] *= LOUDER
    return other


# --- the table -------------------------------------------------------------


def measure(folder: Path) -> list[dict[str, Any]]:
    """Each row of the plan, on both sides, and with other weights on ours."""
    chosen = running.load_running()
    saved = hub.save_pretrained(
        chosen.model, chosen.tokenizer, folder / "model"
    )
    other = hub.save_pretrained(
        other_weights(chosen.model, chosen.tokenizer),
        chosen.tokenizer,
        folder / "other",
    )
    case = world_case(folder, chosen.config.context_length)
    model = load_model(saved, case.batch_size)
    changed = load_model(other, case.batch_size)
    found = []
    for row, there in zip(
        PLAN, theirs(PLAN, case, saved, folder), strict=True
    ):
        here, beside = ours(row, case, model), ours(row, case, changed)
        found.append(
            {
                "task": row.label,
                "agreement": asdict(
                    compare(here["records"], there["records"])
                ),
                "other weights": asdict(
                    compare(beside["records"], there["records"])
                ),
                "ours": {k: here[k] for k in ("scores", "seconds")},
                "harness": {k: there[k] for k in ("scores", "seconds")},
            }
        )
    return found


HEAD = (
    "| task | examples | score | ours | harness | difference | "
    "log-likelihoods apart | examples that differ | with other weights | "
    "seconds, ours | harness | times as fast |",
    "| --- | --: | --- |" + 9 * " --: |",
)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown, a line for each score."""
    lines = list(HEAD)
    for row in found:
        here, there = row["ours"], row["harness"]
        same, other = row["agreement"], row["other weights"]
        for name in here["scores"] or ("",):
            values = [side["scores"].get(name) for side in (here, there)]
            lines.append(
                f"| {row['task']} | {same['examples']} | {name} "
                f"| {' | '.join(map(number, values))} "
                f"| {number(difference(*values))} "
                f"| {apart(same)} | {same['different']} "
                f"| {other['different']} "
                f"| {here['seconds']:.1f} | {there['seconds']:.1f} "
                f"| {there['seconds'] / here['seconds']:.1f} |"
            )
    return "\n".join(lines)


def difference(ours: float | None, theirs: float | None) -> float | None:
    """How far two scores lie apart; None where there are none."""
    return None if ours is None or theirs is None else abs(ours - theirs)


def number(value: float | None) -> str:
    """A score, as short as it can be told from another."""
    return "" if value is None else f"{value:.4g}"


def apart(agreement: Mapping[str, Any]) -> str:
    """The largest difference, where there is anything to differ."""
    return f"{agreement['apart']:.0e}" if agreement["loglikelihoods"] else ""


def record(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The results with what they were made of."""
    about = surroundings("evaluation", PACKAGES)
    about["machine"] += f", {torch.get_num_threads()} threads"
    return {
        **about,
        "budget": runtime.budget(),
        "seed": runtime.seed_offset(),
        "results": found,
    }


def main() -> int:
    """Compare, print the table, and keep the numbers if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    print(table(found))
    if options.record:
        keep(record(found), RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
