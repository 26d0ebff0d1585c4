"""Tokens a second of greedy generation, beside other programs'.

    python -m benchmarks.generation [--shapes S M 124M] [--formats ...]
        [--batches 1 16] [--rounds 5] [--seconds 25] [--nanogpt DIR]
        [--raschka DIR] [--record]

Every way writes on from the same prompts with a model of the same shape; the
weights of transformers' are ours, and the tokens are compared. nanoGPT and
Raschka's LLMs-from-scratch come from folders that are given; their weights are
random like ours, and of the same shape. Rounds are interleaved,
so that a busy moment of the machine falls on all: tokens a second are the
median over the rounds, and "llmbook is" the median of the rounds' ratios. A
shape in one format and batch takes no further round after ``--seconds``. Then
the time of a token against the length of the text before it, and the memory
of a cache against its formula. Threads are torch's own; ``OMP_NUM_THREADS``
sets them.
``--record`` writes runs/generation.json.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.calm import timed
from benchmarks.records import installed, keep, surroundings
from benchmarks.trainers import (
    load_file,
    nanogpt_shape,
    raschka_shape,
    transformers_shape,
)
from llmbook.accounting import cache_bytes
from llmbook.config import GPTConfig
from llmbook.model import GPT
from llmbook.sampling import generate, new_cache, stream

RECORD = Path(__file__).resolve().parents[1] / "runs" / "generation.json"
OURS = "llmbook"
DTYPES = ("float32", "bfloat16")
Way = Callable[[Tensor, int], list[list[int]]]  # prompts, count to texts


@dataclass(frozen=True)
class Work:
    """A model's shape, a prompt's tokens, and the new ones for a batch of 1.

    A batch of 16 writes ``few`` tokens, since a step of it takes longer.
    """

    config: GPTConfig
    prompt: int = 32
    new: int = 192
    few: int = 64


def shape(V: int, T: int, L: int, H: int, C: int) -> GPTConfig:
    """GPT-2's kind of model."""
    return GPTConfig(
        vocab_size=V, context_length=T, n_layer=L, n_head=H, n_embd=C
    )


WORK = {
    "S": Work(shape(4096, 256, 4, 4, 256)),
    "M": Work(shape(8192, 256, 7, 6, 384)),
    "124M": Work(shape(50257, 1024, 12, 12, 768), new=64, few=12),
}
# Texts that grow from a prompt of 32 tokens, and the length they reach.
GROWTH = {
    "M": (shape(8192, 256, 7, 6, 384), 256),
    "S with a context of 2,048": (shape(4096, 2048, 4, 4, 256), 2048),
}
BINS = 6  # parts of a growing text
MEMORY = shape(50257, 1024, 12, 12, 768), 4  # its cache, for so many rows


def say(text: str) -> None:
    """A line of progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


# --- the ways --------------------------------------------------------------


def ours(model: GPT) -> Way:
    """This package, as it is by itself."""
    return lambda prompts, new: generate(model, prompts, new, temperature=0)


def transformers_weights(model: GPT) -> dict[str, Tensor]:
    """``model``'s tensors by the names, and as the matrices, of theirs."""
    tensors = {
        "transformer.wte.weight": model.token_embedding.weight,
        "transformer.wpe.weight": model.position_embedding.weight,
        "lm_head.weight": model.head_weight,
    }
    modules = {"ln_f": model.final_norm}
    for number, block in enumerate(model.blocks):
        modules |= {
            f"h.{number}.ln_1": block.norm_1,
            f"h.{number}.attn.c_attn": block.attention.qkv,
            f"h.{number}.attn.c_proj": block.attention.output,
            f"h.{number}.ln_2": block.norm_2,
            f"h.{number}.mlp.c_fc": block.feed_forward.up,
            f"h.{number}.mlp.c_proj": block.feed_forward.down,
        }
    for name, module in modules.items():
        tensors[f"transformer.{name}.weight"] = module.weight.t()
        tensors[f"transformer.{name}.bias"] = module.bias
    return tensors


def transformers_way(model: GPT) -> Way:
    """transformers' GPT-2 with its cache, and the weights of ``model``."""
    import transformers

    config = transformers.GPT2Config(
        **transformers_shape(model.config), eos_token_id=None, pad_token_id=0
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(transformers_weights(model))
    theirs = theirs.to(model.head_weight.dtype)

    def way(prompts: Tensor, new: int) -> list[list[int]]:
        return theirs.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new,
            do_sample=False,
        ).tolist()

    return way


def nanogpt_way(folder: Path, model: GPT) -> Way:
    """nanoGPT, which has no cache; weights are its own random ones."""
    peer = load_file(folder / "model.py", "peer_model")
    if not hasattr(peer.GPT, "generate"):
        raise ValueError(
            f"{folder / 'model.py'} has no GPT.generate(); expected the one "
            "of nanoGPT. Give --nanogpt a clone of it."
        )
    theirs = peer.GPT(peer.GPTConfig(**nanogpt_shape(model.config)))
    theirs = theirs.eval().to(model.head_weight.dtype)
    return lambda prompts, new: theirs.generate(prompts, new, top_k=1).tolist()


def raschka_code(folder: Path) -> ModuleType:
    """Raschka's model with a cache, from a clone of LLMs-from-scratch.

    The one in PyPI's llms-from-scratch cannot be used: in version 1.0.19
    its mask does not fit the second token.
    """
    found = sorted(folder.rglob("gpt_with_kv_cache.py"))
    if not found:
        raise ValueError(
            f"{folder} has no gpt_with_kv_cache.py; expected a clone of "
            "LLMs-from-scratch, or its folder ch04/03_kv-cache."
        )
    return load_file(found[0], "peer_raschka")


def raschka_way(folder: Path, model: GPT) -> Way:
    """Raschka's GPT with a cache; weights are its own random ones."""
    peer = raschka_code(folder)
    theirs = peer.GPTModel(raschka_shape(model.config))
    theirs = theirs.eval().to(model.head_weight.dtype)

    @torch.no_grad()
    def way(prompts: Tensor, new: int) -> list[list[int]]:
        return peer.generate_text_simple_cached(theirs, prompts, new).tolist()

    return way


def ways_of(
    model: GPT, nanogpt: Path | None = None, raschka: Path | None = None
) -> dict[str, Way]:
    """All that can be compared here, by name; ours first."""
    ways = {OURS: ours(model)}
    if importlib.util.find_spec("transformers") is not None:
        ways["transformers"] = transformers_way(model)
    if nanogpt is not None:
        ways["nanoGPT"] = nanogpt_way(nanogpt, model)
    if raschka is not None:
        ways["Raschka"] = raschka_way(raschka, model)
    return ways


# --- what is measured ------------------------------------------------------


def alike(found: list[list[int]], expected: list[list[int]], T: int) -> float:
    """The share of new tokens, behind ``T`` of a prompt, that are the same."""
    pairs = [
        pair
        for rows in zip(found, expected, strict=True)
        for pair in zip(*(row[T:] for row in rows), strict=True)
    ]
    return sum(one == other for one, other in pairs) / len(pairs)


def measure(
    ways: dict[str, Way], prompts: Tensor, new: int, rounds: int, most: float
) -> list[dict[str, Any]]:
    """For each way the tokens a second, and how often as fast ours is.

    ``rounds`` of them, fewer once ``most`` seconds have gone by. "alike" is
    the share of tokens that are ours, where the weights are.
    """
    (B, T), began = prompts.shape, time.perf_counter()
    texts = {name: way(prompts, min(2, new)) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            spent, texts[name] = timed(partial(way, prompts, new))
            taken[name].append(spent)
        if turn and time.perf_counter() - began > most:
            break
    return [
        {
            "way": name,
            "rounds": len(spent),
            "tokens_per_second": B * new / statistics.median(spent),
            "ours_times": statistics.median(
                other / own
                for own, other in zip(taken[OURS], spent, strict=True)
            ),
            "alike": alike(texts[name], texts[OURS], T)
            if name == "transformers"
            else None,
        }
        for name, spent in taken.items()
    ]


def prompts_for(config: GPTConfig, B: int, T: int) -> Tensor:
    """Random ids (B, T)."""
    source = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (B, T), generator=source)


def model_for(config: GPTConfig, dtype: torch.dtype) -> GPT:
    """A model with random weights."""
    source = torch.Generator().manual_seed(1)
    return GPT(config, source).eval().to(dtype)


def speeds(
    work: dict[str, Work], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Every shape, number format and batch."""
    results = []
    for name, one in work.items():
        for dtype in options.formats:
            model = model_for(one.config, getattr(torch, dtype))
            ways = ways_of(model, options.nanogpt, options.raschka)
            for B in options.batches:
                prompts = prompts_for(one.config, B, one.prompt)
                new = one.new if B == 1 else one.few
                what = {"shape": name, "dtype": dtype, "batch": B}
                say(f"{name}, {dtype}, batch {B}: {new} tokens each ...")
                limits = options.rounds, options.seconds
                found = measure(ways, prompts, new, *limits)
                results += [{**what, "new": new, **row} for row in found]
            del ways, model
            gc.collect()
    return results


def seconds_a_token(model: GPT, prompt: list[int], end: int) -> list[float]:
    """How long each token took of a text that grows to ``end`` tokens."""
    taken, before = [], time.perf_counter()
    for _ in stream(model, prompt, end - len(prompt), temperature=0):
        now = time.perf_counter()
        taken.append(now - before)
        before = now
    return taken


def growth(config: GPTConfig, end: int, rounds: int) -> list[dict[str, Any]]:
    """The time of a token in equal parts of a text, one row of float32.

    Beside it the bytes that a token reads: all weights, and of the cache
    what is full.
    """
    model = model_for(config, torch.float32)
    prompt = prompts_for(config, 1, min(32, end // 2))[0].tolist()
    one = partial(seconds_a_token, model, prompt, end)
    runs = [timed(one)[1] for _ in range(rounds)]
    medians = [statistics.median(each) for each in zip(*runs, strict=True)][
        1:
    ]  # the first reads the prompt
    weights = sum(p.numel() for p in model.parameters())
    weights -= model.position_embedding.weight.numel()
    parts = min(BINS, len(medians))
    cuts = [len(medians) * n // parts for n in range(parts + 1)]
    rows = []
    for first, last in pairwise(cuts):
        length = len(prompt) + 1 + (first + last) // 2
        rows.append(
            {
                "length": length,
                "microseconds": 1e6 * statistics.median(medians[first:last]),
                "bytes": 4 * weights + cache_bytes(config, 1, tokens=length),
            }
        )
    return rows


def resident() -> int | None:
    """Bytes of this process in memory, where /proc tells."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def memory(config: GPTConfig, B: int) -> list[dict[str, Any]]:
    """What a cache takes when it is full, beside the formula."""
    rows = []
    for dtype in DTYPES:
        with torch.device("meta"):
            model = GPT(config).to(getattr(torch, dtype))
        before = resident()
        model.token_embedding.to_empty(device="cpu")  # says where, and unused
        cache = new_cache(model, B)
        cache.keys.fill_(1.0)
        cache.values.fill_(1.0)
        after = resident()
        size = cache.keys.element_size()
        rows.append(
            {
                "dtype": dtype,
                "batch": B,
                "formula": cache_bytes(config, B, size),
                "taken": cache.nbytes,
                "resident": None if before is None else after - before,
            }
        )
        del cache, model
        gc.collect()
    return rows


# --- the report ------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| shape | format | batch | way | tokens/s | llmbook is | alike |",
        "| --- | --- | --: | --- | --: | --: | --: |",
    ]
    for r in results["speeds"]:
        same = "" if r["alike"] is None else f"{r['alike']:.0%}"
        lines.append(
            f"| {r['shape']} | {r['dtype']} | {r['batch']} | {r['way']} "
            f"| {r['tokens_per_second']:,.0f} | {r['ours_times']:.2f}x "
            f"| {same} |"
        )
    lines += ["", "| text | length | µs a token | MB read |"]
    lines += ["| --- | --: | --: | --: |"]
    for name, rows in results["growth"].items():
        lines += [
            f"| {name} | {row['length']:,} | {row['microseconds']:,.0f} "
            f"| {row['bytes'] / 1e6:,.1f} |"
            for row in rows
        ]
    lines += ["", "| cache | rows | formula, MB | taken | resident |"]
    lines += ["| --- | --: | --: | --: | --: |"]
    for row in results["memory"]:
        held = row["resident"]
        seen = "?" if held is None else f"{held / 1e6:,.1f}"
        lines.append(
            f"| {row['dtype']} | {row['batch']} "
            f"| {row['formula'] / 1e6:,.1f} | {row['taken'] / 1e6:,.1f} "
            f"| {seen} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Time every way, print the tables, and keep them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=WORK, default=[*WORK])
    parser.add_argument(
        "--formats", nargs="+", choices=DTYPES, default=[*DTYPES]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT")
    parser.add_argument("--raschka", type=Path, help="LLMs-from-scratch")
    parser.add_argument("--record", action="store_true", help=str(RECORD))
    options = parser.parse_args(arguments)
    results = {
        "threads": torch.get_num_threads(),
        "memory": memory(*MEMORY),  # first: later, freed pages are reused
        "speeds": speeds({n: WORK[n] for n in options.shapes}, options),
        "growth": {},
    }
    for name, (config, end) in GROWTH.items():
        say(f"{name}: a text of {end} tokens ...")
        results["growth"][name] = growth(config, end, min(3, options.rounds))
    print(table(results))
    if options.record:
        about = surroundings("generation", installed("torch", "transformers"))
        keep({**about, **results}, RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
