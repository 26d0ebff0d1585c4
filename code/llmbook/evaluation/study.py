"""A model judged while it learns, beside what no learning gets.

What the chapter on Jane Austen runs live and ``benchmarks/austen.py``
records: one texts' share to learn from, another held out, one judge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus import Batches
from llmbook.evaluation.meter import scans, sonnets
from llmbook.evaluation.prose import (
    Judge,
    bits_per_byte,
    collect_text,
    counted_passages,
    model_passages,
    noise_passages,
)
from llmbook.evaluation.words import find_words
from llmbook.model import GPT
from llmbook.ngram import KneserNey, NGramModel
from llmbook.tokenizer.base import Tokenizer
from llmbook.train import train

PIECES = ("longest", "copied", "iambic", "known", "listed")  # kept of each


def row_of(texts: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """All texts as one row of ids, <|endoftext|> after each."""
    end = [tokenizer.end_of_text]
    return list(chain.from_iterable(tokenizer.encode(t) + end for t in texts))


def spread(texts: Sequence[str], count: int) -> list[str]:
    """``count`` of the texts, spread evenly over all; all, if there are less.

    >>> spread("abcdefg", 3)
    ['a', 'c', 'e']
    >>> spread("ab", 3)
    ['a', 'b']
    """
    count = min(count, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


def snapshot_steps(steps: int, wanted: Sequence[int]) -> list[int]:
    """Those of the wanted steps that a run of ``steps`` has, and its last.

    >>> snapshot_steps(60, [0, 10, 100])
    [0, 10, 60]
    """
    return sorted({step for step in wanted if step < steps} | {steps})


def judged(text: str, judge: Judge, shown: int) -> dict[str, Any]:
    """A text's measures, and its first ``shown`` characters."""
    return {**judge.judge(text), "sample": text[:shown]}


def judge_model(
    model: GPT,
    tokenizer: Tokenizer,
    judge: Judge,
    sides: dict[str, Sequence[str]],
    size: int,
    shown: int,
) -> dict[str, Any]:
    """What a model writes, measured, and its bits per byte.

    Args:
        sides: texts to be scored, by the name of the result.
        size: characters to draw and judge.
        shown: characters of them to keep.
    """
    tokens = model.config.context_length - 1
    drawn = model_passages(model, tokenizer.end_of_text, tokens)
    bits = {
        name: round(bits_per_byte(model, tokenizer, texts), 5)
        for name, texts in sides.items()
    }
    return {
        **bits,
        **judged(collect_text(drawn, tokenizer, size), judge, shown),
    }


def drawn_by_counts(
    tokenizer: Tokenizer, texts: Sequence[str], tokens: int
) -> Iterator[tuple[str, Iterator[list[int]]]]:
    """Noise, single tokens and runs of three, as endless passages."""
    end, V = tokenizer.end_of_text, tokenizer.vocab_size
    yield "noise", noise_passages(range(end), tokens)
    documents = [tokenizer.encode(text) for text in texts]
    single = NGramModel.train(documents, 1, V, boundary=end)
    yield "1-gram", counted_passages(single, tokens)
    three = KneserNey.train(documents, 3, V, boundary=end)
    yield "3-gram", counted_passages(three, tokens)


def baselines(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    judge: Judge,
    tokens: int,
    size: int,
    shown: int,
) -> dict[str, dict[str, Any]]:
    """The measures of noise and of two models that count."""
    return {
        name: judged(collect_text(drawn, tokenizer, size), judge, shown)
        for name, drawn in drawn_by_counts(tokenizer, texts, tokens)
    }


def yardsticks(
    held_out: Sequence[str], judge: Judge, size: int, shown: int
) -> dict[str, Any]:
    """Held-out texts and four sonnets, measured like what is drawn.

    The texts as one, in pieces of ``size`` characters, and with their words
    in random order.
    """
    novel = "\n\n".join(held_out)
    last = max(1, len(novel) - size + 1)
    parts = [judge.judge(novel[i : i + size]) for i in range(0, last, size)]
    shuffled = find_words(novel)
    random.Random(0).shuffle(shuffled)
    lines = [find_words(line) for poem in sonnets().values() for line in poem]
    verdicts = [scans(line, judge.stresses) for line in lines]
    return {
        "size": size,
        "novel": judged(novel, judge, shown),
        "pieces": {key: [part[key] for part in parts] for key in PIECES},
        "shuffled": judge.judge(" ".join(shuffled)),
        "sonnets": {
            **judge.judge("\n".join(" ".join(line) for line in lines)),
            "lines": len(lines),
            "lines_known": sum(v is not None for v in verdicts),
            "lines_iambic": sum(map(bool, verdicts)),
        },
    }


def train_on(
    learned: Sequence[str],
    held_out: Sequence[str],
    tokenizer: Tokenizer,
    shape: GPTConfig,
    plan: TrainConfig,
    take: Callable[..., None],
    **options: Any,
) -> dict[str, Any]:
    """Train on windows from anywhere in the texts; what the run measured.

    Args:
        shape: its vocabulary is replaced by the tokenizer's.
        take: called before the first step and after each, as a callback.
        options: more for :func:`llmbook.train.train`.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    model = GPT(replace(shape, vocab_size=tokenizer.vocab_size), generator)
    rows = [row_of(texts, tokenizer) for texts in (learned, held_out)]
    T, B = shape.context_length, plan.batch_size
    sides = [Batches(row, T, B, plan.seed) for row in rows]
    device = options.pop("device", "cpu")
    history = train(
        model.to(device),
        sides[0],
        plan,
        validation=sides[1],
        callbacks=[take],
        **options,
    )
    return {
        **history.to_dict(),
        "parameters": model.num_parameters(),
        "vocabulary": tokenizer.vocab_size,
        "tokens_in_novels": len(sides[0].tokens),
        "tokens_read": plan.tokens(T),
    }


def study(
    learned: Sequence[str],
    held_out: Sequence[str],
    tokenizer: Tokenizer,
    judge: Judge,
    shape: GPTConfig,
    plan: TrainConfig,
    wanted: Sequence[int],
    size: int,
) -> dict[str, Any]:
    """Train, stop after each wanted step to judge, and put it together.

    A short version of what ``runs/austen`` keeps, in the same form.
    """
    snapshots: list[dict[str, Any]] = []
    sides = {
        "held_out_bits": spread(held_out, 1),
        "training_bits": spread(learned, 1),
    }

    def take(step: int, model: GPT, history: Any) -> None:
        if step in wanted:
            found = judge_model(model, tokenizer, judge, sides, size, size)
            snapshots.append({"step": step, **found})

    history = train_on(
        learned, held_out, tokenizer, shape, plan, take, progress=False
    )
    tokens = shape.context_length - 1
    return {
        **history,
        "seed": plan.seed,
        "plan": plan.to_dict(),
        "baselines": baselines(tokenizer, learned, judge, tokens, size, size),
        "snapshots": snapshots,
    }
