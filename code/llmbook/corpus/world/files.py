"""The world as files: a corpus, and what later chapters measure a model by.

The benchmarks are cut from the facts of Lull in exactly the files of the
real ones: MMLU (Hendrycks et al. 2021), GSM8K (Cobbe et al. 2021) and
HumanEval (Chen et al. 2021). Their test questions are about combinations
that training never meets.
"""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import LULL, sums
from . import functions as code
from .engine import Grammar, Rule, Side, Written, at_random, write
from .questions import COURSES, HEADING

if TYPE_CHECKING:
    from ..documents import Corpus, Document

Row = Mapping[str, Any]

DEV_QUESTIONS = 5  # a subject, as in MMLU: the examples of a prompt
TEST_QUESTIONS = 100  # a subject; MMLU has 100 or a few more
PROBLEMS = {"train": 1000, "test": 200}
FUNCTIONS = 100  # HumanEval has 164
INSTRUCTIONS = {"train": 2000, "test": 200}  # the test: as many of each side
PREFERENCES = {"train": 1000, "test": 200}
ANSWERED = ("question", "instruction", "sum")  # what a chat can be about
LABELS = ("Question: ", "\nAnswer:", "Instruction: ", "\nResponse:")
MANIFEST = "manifest.json"


@functools.cache
def only(*kinds: str) -> Grammar:
    """Lull with these kinds of document alone."""
    return Grammar(LULL.rules, tuple(k for k in LULL.kinds if k.name in kinds))


def draw(grammar: Grammar, seed: str, side: Side) -> Iterator[Written]:
    """Endless documents of a grammar."""
    index = 0
    while True:
        source = random.Random(f"{seed}/{index}")
        yield write(grammar, at_random(source), side)
        index += 1


def different(
    rows: Iterable[Row], count: int, key: str, taken: set[str]
) -> list[Row]:
    """The first ``count`` rows with a ``key`` that is not yet ``taken``."""
    kept: list[Row] = []
    for row in rows:
        if row[key] not in taken:
            taken.add(row[key])
            kept.append(row)
            if len(kept) == count:
                break
    return kept


# --- four letters ----------------------------------------------------------


def mmlu_row(text: str) -> tuple[str, ...]:
    """Question, four choices and letter of a document.

    >>> mmlu_row("Who hums?\\nA. Bo\\nB. Tam\\nC. Ona\\nD. Joss\\nAnswer: C")
    ('Who hums?', 'Bo', 'Tam', 'Ona', 'Joss', 'C')
    """
    stem, *choices, answer = text.split("\n\n")[-1].split("\n")
    return stem, *(choice[3:] for choice in choices), answer[-1]


def mmlu_rows(
    of: str, side: Side, count: int, seed: int | str = 0
) -> list[tuple[str, ...]]:
    """Different questions about a class: ``"person"``, ``"place"``, ..."""
    heading = HEADING.format(COURSES[of])
    rows = (
        {"text": written.text.removeprefix(heading)}
        for written in draw(only("choice"), f"mmlu/{seed}/{side}", side)
        if written.text.startswith(heading)
    )
    return [mmlu_row(r["text"]) for r in different(rows, count, "text", set())]


def mmlu_files(seed: int | str) -> Iterator[tuple[str, bytes]]:
    """Each subject's file of examples and its file of test questions."""
    for of, course in COURSES.items():
        subject = course.replace(" ", "_")
        for split, side, count in (
            ("dev", "seen", DEV_QUESTIONS),
            ("test", "unseen", TEST_QUESTIONS),
        ):
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerows(mmlu_rows(of, side, count, seed))
            name = f"mmlu/{split}/{subject}_{split}.csv"
            yield name, table.getvalue().encode()


# --- prompts and answers ---------------------------------------------------


def bare(text: str) -> str:
    """A prompt or an answer without the labels that the corpus gives it.

    >>> bare("Question: Who hums?\\nAnswer:"), bare(" Ona.")
    ('Who hums?', 'Ona.')
    """
    for label in LABELS:
        text = text.removeprefix(label).removesuffix(label)
    return text.strip()


def instructions(side: Side, seed: int | str = 0) -> Iterator[Row]:
    """Endless prompts with good answers."""
    for written in draw(only(*ANSWERED), f"instructions/{seed}/{side}", side):
        yield {
            "prompt": bare(written.prompt),
            "response": bare(written.answer),
            "kind": written.kind,
            "combination": side,
        }


def avoiding(temper: str, source: random.Random) -> Callable[[Rule], int]:
    """A ``pick`` that follows the weights, but never takes this temper."""
    usual = at_random(source)

    def pick(rule: Rule) -> int:
        index = usual(rule)
        while rule.options[index].tag == temper:
            index = usual(rule)
        return index

    return pick


def preferences(side: Side, seed: int | str = 0) -> Iterator[Row]:
    """Endless stories with a kind ending, chosen, and one that is not.

    Both are told from the same random numbers, so that they are one story
    up to the line that is kind or unkind. The log-probabilities are those
    of Lull itself, in nats, given the prompt.
    """
    index = 0
    while True:
        told = []
        for temper in ("unkind", "kind"):
            source = random.Random(f"preferences/{seed}/{side}/{index}")
            told.append(write(only("story"), avoiding(temper, source), side))
        chosen, rejected = told
        yield {
            "prompt": chosen.prompt,
            "chosen": chosen.answer,
            "rejected": rejected.answer,
            "chosen_logprob": chosen.answer_logprob,
            "rejected_logprob": rejected.answer_logprob,
            "combination": side,
        }
        index += 1


def split_rows(
    make: Callable[[Side, int | str], Iterator[Row]],
    counts: Mapping[str, int],
    seed: int | str,
) -> dict[str, list[Row]]:
    """Rows to learn from, and rows of both sides to be judged by.

    No prompt stands in both.
    """
    taken: set[str] = set()
    test = [
        row
        for side in ("seen", "unseen")
        for row in different(make(side, seed), counts["test"], "prompt", taken)
    ]
    learned = make("seen", f"{seed}/train")
    fresh = (row for row in learned if row["prompt"] not in taken)
    train = list(itertools.islice(fresh, counts["train"]))
    return {"train": train, "test": test}


# --- on disk ---------------------------------------------------------------


def json_lines(rows: Iterable[Row]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def document_row(document: Document) -> Row:
    """A document of the corpus as it is written down."""
    return {
        "text": document.text,
        "kind": document.kind,
        "logprob": document.logprob,
        "combination": document.combination,
    }


def world_files(corpus: Corpus, seed: int) -> Iterator[tuple[str, bytes]]:
    """Every file's name and content but for the manifest."""
    for name in ("train", "validation", "unseen"):
        rows = map(document_row, getattr(corpus, name))
        yield f"{name}.jsonl", json_lines(rows)
    yield from mmlu_files(seed)
    for split, side in (("train", "seen"), ("test", "unseen")):
        rows = sums.gsm8k_rows(side, PROBLEMS[split], f"{seed}/{split}")
        yield f"gsm8k/{split}.jsonl", json_lines(rows)
    tasks = json_lines(code.humaneval_rows("unseen", FUNCTIONS, seed))
    yield "humaneval/HumanEval.jsonl.gz", gzip.compress(tasks, mtime=0)
    for name, make, counts in (
        ("instructions", instructions, INSTRUCTIONS),
        ("preferences", preferences, PREFERENCES),
    ):
        for split, rows in split_rows(make, counts, seed).items():
            yield f"{name}/{split}.jsonl", json_lines(rows)


def summary(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Counts, bytes and entropy of each kind, the latter on validation."""
    kinds = {}
    for kind in (kind.name for kind in LULL.kinds):
        sides = {
            name: [d for d in getattr(corpus, name) if d.kind == kind]
            for name in ("train", "validation", "unseen")
        }
        judged = sides["validation"]
        nats = -math.fsum(d.logprob for d in judged)
        size = sum(len(d.text.encode()) for d in judged)
        kinds[kind] = {
            "documents": {name: len(side) for name, side in sides.items()},
            "train_bytes": sum(len(d.text.encode()) for d in sides["train"]),
            "nats_per_document": nats / len(judged) if judged else None,
            "nats_per_byte": nats / size if size else None,
        }
    return kinds


def write_world(corpus: Corpus, out: Path, seed: int = 0) -> Path:
    """Write the corpus, the benchmarks and a manifest into a new folder.

    Everything is written beside and renamed at the end, so that the folder
    is whole or not there. The same seed and size give the same bytes.

    Raises:
        ValueError: ``out`` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} is there already and not an empty folder; expected a new "
            "one. Name another, or delete it first."
        )
    beside = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        record = {}
        for name, content in world_files(corpus, seed):
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            record[name] = {"bytes": len(content), "sha256": digest}
        manifest = {
            "world": "Lull",
            "seed": seed,
            "documents": len(corpus.train) + len(corpus.validation),
            "nats_per_document": corpus.entropy,
            "kinds": summary(corpus),
            "files": record,
        }
        text = json.dumps(manifest, indent=2) + "\n"
        (beside / MANIFEST).write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out
