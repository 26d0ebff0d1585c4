"""What alignment does to the running model, measured over seeds.

    python -m benchmarks.alignment [PARTS] [--seeds 0 1 2] [--record]

One chain a seed: the running model, ``sft`` (its recipe and ``dpo``'s are
those of ``llmbook.aligned``), ``dpo`` from there, ``grpo`` from there on
sums, and ``reward``, a reward model. Data, their order and what is drawn
differ from seed to seed; the base and what is asked do not. At the first
seed alone: ``lora`` (adapters, as many steps), ``tradeoff`` (kind endings
against malformed stories on the way of DPO, with other settings beside the
recipe's) and ``rates`` (GRPO with larger steps). Every part is kept when it
is done, and training at its checkpoints, so that a run that was cut off goes
on; parts and seeds can be made one by one, and the last call records all.
Each seed and each curve has a process with one thread.

Sums are asked twice: problems that are new but whose sums training met, and
problems with sums that it never met. Endings are drawn at temperature 1, but
where the table says greedy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from benchmarks.alignment_exam import (
    Exam,
    ended,
    in_chat,
    in_plain_text,
    measured,
)
from benchmarks.alignment_report import report
from benchmarks.records import keep, surroundings
from llmbook import aligned, checkpoint, lora, running, runtime
from llmbook.alignment import (
    LoRAChoice,
    Tuned,
    encode_preference,
    fine_tune,
    grow_vocabulary,
    measures,
    prefer,
    reinforce,
    training_chats,
    with_chat_tokens,
    world_preferences,
    world_problems,
)
from llmbook.alignment import reward as rewarding
from llmbook.config import TrainConfig
from llmbook.corpus import load_corpus
from llmbook.evaluation.models import weights_hash
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer, Tokenizer
from llmbook.train import Callback, History, evaluate, train

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "runs" / "alignment.json"
FOLDER = ROOT / "_build" / "alignment"
SEEDS = (0, 1, 2)
CHAIN = ("sft", "dpo", "grpo", "reward")  # once a seed
ONCE = ("base", "lora")  # at the first seed alone, as all curves are
PARTS = (*ONCE, *CHAIN, "tradeoff", "rates")
POINTS = 8  # of a curve of trade-offs
GROUP_SIZE = 8


@dataclass(frozen=True)
class Plan:
    """All that is chosen: the trainings, and how much is asked.

    ``choices`` and ``problems`` is how many there are to learn from, and
    ``paragraphs`` how much of a story; ``asked`` is how many of each kind,
    but for ``functions``, and ``watched`` at each point of a curve.
    """

    sft: aligned.Recipe
    dpo: aligned.Recipe
    lora: TrainConfig
    reward: TrainConfig
    grpo: TrainConfig
    choices: int
    problems: int
    paragraphs: int | None
    asked: int
    functions: int
    watched: int
    documents: int


def plan() -> Plan:
    """What is chosen at the current budget."""
    pick, run_of = runtime.pick, aligned.run_of
    sft, dpo = map(aligned.recipe, ("sft", "dpo"))
    return Plan(
        sft=sft,
        dpo=dpo,
        choices=dpo.examples["ending"],
        paragraphs=dpo.paragraphs,
        lora=run_of(sft.train.steps, 8, "adamw", 5e-3),
        reward=run_of(pick(smoke=4, quick=80), 8, "adamw", 5e-4),
        grpo=run_of(pick(smoke=3, quick=120), 8, "adamw", 2e-4),
        problems=pick(smoke=40, quick=2_000),
        asked=pick(smoke=6, quick=200),
        functions=pick(smoke=2, quick=100),
        watched=pick(smoke=6, quick=150),
        documents=pick(smoke=4, quick=100),
    )


ASKED = ("asked", "functions", "watched", "documents", "paragraphs")
MADE_FROM = {  # of the plan: what a part and those before it depend on
    "base": (),
    "sft": ("sft",),
    "lora": ("sft", "lora"),
    "reward": ("sft", "choices", "reward"),
    "dpo": ("sft", "choices", "dpo"),
    "grpo": ("sft", "choices", "dpo", "problems", "grpo"),
    "tradeoff": ("sft", "choices", "dpo"),
    "rates": ("sft", "choices", "dpo", "problems", "grpo"),
}
NAME_LENGTH = 6  # hexadecimal digits of a hash


# What differs from DPO's recipe in each curve: factors of the learning rate,
# and other choices.
TRADEOFFS: dict[str, dict[str, float]] = {
    "the recipe": {},
    "steps 3 times larger": {"rate": 3},
    "no SFT term": {"sft": 0.0},
    "beta 0.02": {"beta": 0.02},
}
RATES = {"5 times": 5}  # GRPO's


# --- the parts -------------------------------------------------------------


@dataclass
class Bench:
    """A base, a plan, and the folder in which each part's result is kept.

    Args:
        name: of the base, in the record.
        model, tokenizer: the base.
        chosen: the plan.
        folder: for results, models and checkpoints; one a base.
        trained: how the base was made and how good it is, where known.
    """

    name: str
    model: GPT
    tokenizer: BPETokenizer
    chosen: Plan
    folder: Path
    trained: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def exam(self) -> Exam:
        """What is asked."""
        length = self.model.config.context_length
        return Exam(self.chosen, self.chat_tokenizer, length)

    @cached_property
    def chat_tokenizer(self) -> Tokenizer:
        """The tokenizer with the chat's tokens."""
        return with_chat_tokens(self.tokenizer)

    def named(self, part: str, seed: int, variant: str = "") -> str:
        """The name of a part's files: another where it is another run.

        At its end stands a hash of what is chosen for the part and for
        those before it.
        """
        values = asdict(self.chosen)
        chosen = {key: values[key] for key in (*ASKED, *MADE_FROM[part])}
        chosen["change"] = {**TRADEOFFS, **RATES}.get(variant)
        text = json.dumps(chosen, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:NAME_LENGTH]
        return "-".join([part, str(seed), *variant.split(), digest])

    def results(self) -> list[dict]:
        """All that is done with what is chosen now."""
        found = []
        for file in sorted(self.folder.glob("*.json")):
            result = json.loads(file.read_text(encoding="utf-8"))
            keys = (result["part"], result["seed"], result["variant"])
            if file.stem == self.named(*keys):
                found.append(result)
        return found

    def path(self, name: str, ending: str) -> Path:
        """A file of a part."""
        return self.folder / f"{name}.{ending}"

    def result(self, part: str, seed: int, variant: str = "") -> dict:
        """A part's result: read, or made first."""
        name = self.named(part, seed, variant)
        file = self.path(name, "json")
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path(name, "lock")):  # others may want it too
            if not file.is_file():
                say(f"{self.name}: {name}")
                found = MAKE[part](self, seed, name, variant)
                about = {"part": part, "seed": seed, "variant": variant}
                keep({**about, **found}, file)
                shutil.rmtree(self.path(name, "run"), ignore_errors=True)
        return json.loads(file.read_text(encoding="utf-8"))

    def tuned(self, part: str, seed: int) -> GPT:
        """The model that a part left, which is made first if need be."""
        self.result(part, seed)
        file = self.path(self.named(part, seed), "safetensors")
        return checkpoint.load_model(file)

    def run(self, name: str, *callbacks: Callback) -> dict[str, Any]:
        """How every training is run: it goes on where it was."""
        return {
            "run_dir": self.path(name, "run"),
            "resume": True,
            "progress": False,
            "callbacks": callbacks,
        }

    def kept(self, name: str, tuned: Tuned, clock: Clock) -> dict[str, Any]:
        """Keep a tuned model; what is measured of it."""
        checkpoint.save(self.path(name, "safetensors"), tuned.model)
        write = in_chat(tuned.model, tuned.tokenizer)
        return {
            **spent(tuned, clock),
            "measured": measured(
                tuned.model, tuned.tokenizer, self.exam, write
            ),
        }


class Clock:
    """A callback that knows how long a step takes this processor.

    Waiting does not count, and neither do steps of a run before this one.
    """

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.last = (0, 0.0)

    def __call__(self, step: int, model: Any, history: History) -> None:
        self.last = step, time.process_time()
        self.first = self.first or self.last

    def seconds(self, steps: int) -> float:
        """Processor seconds of so many steps; 0 where none was timed."""
        (begun, start), (done, end) = self.first or self.last, self.last
        return round(steps * (end - start) / max(1, done - begun), 1)


def spent(tuned: Tuned, clock: Clock) -> dict[str, Any]:
    """How long a training was, and what was left out."""
    history = tuned.history
    return {
        "steps": history.steps,
        "processor_seconds": clock.seconds(history.steps),
        "tokens": history.tokens,
        "left_out": tuned.left_out,
    }


def say(text: str) -> None:
    """What is being done, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def make_base(bench: Bench, seed: int, name: str, variant: str) -> dict:
    """The base, asked in plain text and, as it never was, in a chat."""
    model, tokenizer = bench.model, bench.tokenizer
    plain = in_plain_text(model, tokenizer)
    grown = grow_vocabulary(model, bench.chat_tokenizer.vocab_size)
    write = in_chat(grown, bench.chat_tokenizer)
    return {
        "measured": measured(model, tokenizer, bench.exam, plain),
        "in_chat": measured(
            grown.eval(), bench.chat_tokenizer, bench.exam, write
        ),
    }


def make_sft(bench: Bench, seed: int, name: str, variant: str) -> dict:
    """The base after learning to answer; adapters alone for ``lora``."""
    chosen, choice = bench.chosen, None
    config = chosen.sft.train
    if name.startswith("lora"):
        config, choice = chosen.lora, LoRAChoice()
    chats = training_chats(chosen.sft.examples, f"benchmark/{seed}")
    tuned = fine_tune(
        bench.model,
        bench.tokenizer,
        bench.exam.unasked(chats),
        replace(config, seed=seed),
        lora=choice,
        replay=learned_texts(chosen.sft.replay),
        **bench.run(name, clock := Clock()),
    )
    if choice is not None:
        lora.merge(tuned.model)
    return bench.kept(name, tuned, clock)


def learned_texts(count: int) -> list[str]:
    """Documents that the running model has learned from."""
    corpus = load_corpus(running.CORPUS, documents=running.recipe().documents)
    return corpus.train_texts[:count]


def make_dpo(bench: Bench, seed: int, name: str, variant: str) -> dict:
    """The model that answers, after learning what is preferred."""
    chosen = bench.chosen.dpo
    tuned = prefer(
        bench.tuned("sft", seed),
        bench.chat_tokenizer,
        choices_of(bench, seed),
        replace(chosen.train, seed=seed),
        **chosen.choices,
        **bench.run(name, clock := Clock()),
    )
    return bench.kept(name, tuned, clock)


def choices_of(bench: Bench, seed: int, side: str = "seen") -> list:
    """The preferences of one seed: to learn from, or unseen to be judged."""
    chosen = bench.chosen
    count = chosen.choices if side == "seen" else chosen.asked
    name = f"benchmark/{seed}"
    return world_preferences(side, count, name, chosen.paragraphs)


def make_grpo(bench: Bench, seed: int, name: str, variant: str) -> dict:
    """The model with preferences, after being rewarded for right sums."""
    config = bench.chosen.grpo
    factor = RATES[variant] if variant else 1
    problems = world_problems(
        "sum", "seen", bench.chosen.problems, f"benchmark/{seed}"
    )
    tuned = reinforce(
        bench.tuned("dpo", seed),
        bench.chat_tokenizer,
        bench.exam.unasked(problems),
        faster(replace(config, seed=seed), factor),
        group_size=GROUP_SIZE,
        max_new_tokens=measures.NEW_TOKENS,
        **bench.run(name, clock := Clock()),
    )
    seen = {
        what: [round(step[what], 4) for step in tuned.measured]
        for what in ("reward", "length", "equal")
    }
    return {**bench.kept(name, tuned, clock), "curves": seen}


def faster(config: TrainConfig, factor: float) -> TrainConfig:
    """The same run with a learning rate ``factor`` times as large."""
    return replace(
        config,
        learning_rate=config.learning_rate * factor,
        min_learning_rate=config.min_learning_rate * factor,
    )


def make_reward(bench: Bench, seed: int, name: str, variant: str) -> dict:
    """A reward model: how often it finds the kind ending the better one."""
    model = rewarding.RewardModel(bench.tuned("sft", seed))
    # It reads a text to its end: one token more than a model that guesses.
    length = bench.model.config.context_length - 1
    learned, judged = (
        [
            encode_preference(bench.chat_tokenizer, *choice, length)
            for choice in choices_of(bench, seed, side)
        ]
        for side in ("seen", "unseen")
    )
    learned, judged = (
        [row for row in rows if row is not None] for rows in (learned, judged)
    )
    config = replace(bench.chosen.reward, seed=seed)
    history = train(
        model,
        rewarding.RewardBatches(learned, config.batch_size, seed),
        config,
        loss_function=partial(rewarding.reward_loss, centring=0.01),
        **bench.run(name, clock := Clock()),
    )
    size = min(config.batch_size, len(judged))
    accuracy = evaluate(
        model,
        rewarding.RewardBatches(judged, size),
        len(judged) // size,
        loss_function=rewarding.reward_accuracy,
    )
    tuned = Tuned(model, bench.chat_tokenizer, history)
    return {**spent(tuned, clock), "accuracy": accuracy}


def make_tradeoff(bench: Bench, seed: int, name: str, variant: str) -> dict:
    """DPO with one choice changed: endings, at points on the way."""
    chosen = bench.chosen.dpo
    change = dict(TRADEOFFS[variant])
    config = faster(replace(chosen.train, seed=seed), change.pop("rate", 1))
    stories = bench.exam.stories[: bench.chosen.watched]
    every = max(1, config.steps // POINTS)
    points = read_lines(bench.path(name, "points"))

    def watch(step: int, model: Any, history: History) -> None:
        if step % every == 0 and all(p["step"] != step for p in points):
            write = in_chat(model, bench.chat_tokenizer)
            found = ended(stories, write)
            points.append({"step": step, **found})
            with bench.path(name, "points").open("a") as lines:
                lines.write(json.dumps(points[-1]) + "\n")

    tuned = prefer(
        bench.tuned("sft", seed),
        bench.chat_tokenizer,
        choices_of(bench, seed),
        config,
        **{**chosen.choices, **change},
        **bench.run(name, watch),
    )
    return {"steps": tuned.history.steps, "points": points}


def read_lines(file: Path) -> list[dict[str, Any]]:
    """What was noted before, one JSON object a line."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


MAKE: dict[str, Callable[[Bench, int, str, str], dict]] = {
    "base": make_base,
    "sft": make_sft,
    "lora": make_sft,
    "reward": make_reward,
    "dpo": make_dpo,
    "grpo": make_grpo,
    "tradeoff": make_tradeoff,
    "rates": make_grpo,
}
VARIANTS = {"tradeoff": tuple(TRADEOFFS), "rates": tuple(RATES)}


# --- the command -----------------------------------------------------------


def bench_of(base: Path | None) -> Bench:
    """The bench for the running model, or for the model of a folder."""
    if base is None:
        found = running.load_running()
        name, model, tokenizer = "running", found.model, found.tokenizer
    else:
        name = base.name
        model = checkpoint.load_model(base / "model.safetensors")
        tokenizer = BPETokenizer.load(base / "tokenizer.json")
    return Bench(
        name,
        model.eval(),
        tokenizer,
        plan(),
        FOLDER / weights_hash(model)[: running.HASH_LENGTH],
        training_of(base or found.folder),
    )


def training_of(folder: Path) -> dict[str, Any]:
    """What the folder of a model says of its training."""
    file = folder / running.RESULT_NAME
    said = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    names = ("recipe", "document_loss", "entropy_per_token")
    return {name: said[name] for name in names if name in said}


Job = tuple[str, int, str]  # a part, a seed, a variant


def wanted(
    parts: Sequence[str], seeds: Sequence[int], variants: Sequence[str]
) -> list[list[Job]]:
    """What to make, as lists that may be made side by side.

    First a chain for each seed, then what is made of the first one alone.
    """
    chains = [
        [(part, seed, "") for part in CHAIN if part in parts] for seed in seeds
    ]
    once = [[(part, seeds[0], "")] for part in ONCE if part in parts]
    curves = [
        [(part, seeds[0], name)]
        for part, names in VARIANTS.items()
        if part in parts
        for name in names
        if not variants or name in variants
    ]
    return [jobs for jobs in (*chains, *curves, *once) if jobs]


def made(base: Path | None, jobs: Sequence[Job]) -> None:
    """Make some parts, one after the other, on one thread."""
    torch.set_num_threads(1)
    runtime.keep_freed_memory()
    bench = bench_of(base)
    for job in jobs:
        bench.result(*job)


def make_all(
    base: Path | None, lists: Sequence[Sequence[Job]], workers: int
) -> None:
    """Make lists of parts, ``workers`` of them at once."""
    if min(workers, len(lists)) < 2:
        for jobs in lists:
            made(base, jobs)
        return
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        list(pool.map(partial(made, base), lists))


def recorded(bench: Bench) -> dict[str, Any]:
    """Everything that is done on this base, and how it was chosen."""
    return {
        **surroundings("alignment", ["torch"]),
        "parameters": bench.model.num_parameters(),
        "base": bench.trained,
        "plan": asdict(bench.chosen),
        "results": bench.results(),
    }


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"of {', '.join(PARTS)}; default: all",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument(
        "--variants",
        nargs="+",
        default=(),
        metavar="NAME",
        help="of tradeoff and rates; default: all",
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="model.safetensors and tokenizer.json to start "
        "from; default: the running model",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="processes, each with one thread",
    )
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args(arguments)
    known = {*TRADEOFFS, *RATES}
    for given, there in ((options.parts, PARTS), (options.variants, known)):
        for name in given:
            if name not in there:
                parser.error(
                    f"{name!r} is none; expected of {', '.join(there)}."
                )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the parts, print what came out, and keep it if asked to."""
    options = options_of(arguments)
    parts = options.parts or PARTS
    lists = wanted(parts, options.seeds, options.variants)
    make_all(options.base, lists, options.workers)
    bench = bench_of(options.base)
    found = recorded(bench)
    print(report(found["results"]))
    if options.record:
        old = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
        keep({**old, bench.name: found}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
