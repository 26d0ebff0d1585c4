"""Measure the data pipeline: memory, speed, and what it finds.

    python -m benchmarks.pipeline memory --megabytes 40 400
    python -m benchmarks.pipeline speed --megabytes 4
    python -m benchmarks.pipeline duplicates
    python -m benchmarks.pipeline --record

The text is drawn word by word from Python's own help texts, so nothing has
to be downloaded and any amount of it can be had.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmbook.corpus.duplicates import (
    Banding,
    band_keys,
    chance_to_meet,
    jaccard,
    shingles,
    signature,
    similarity,
)

MEGABYTE = 1_000_000
RECORD = Path(__file__).resolve().parents[1] / "runs" / "pipeline.md"
RECORDED_MEGABYTES = [40.0, 400.0]
PAIRS = 300  # for each strength of editing
_SHARES = {"copied": 0.05, "edited": 0.05, "short": 0.02, "mail": 0.02}
_REMEMBERED = 1000  # documents that may be copied: a bound on our own memory


# --- text to measure with --------------------------------------------------


@functools.cache
def help_words() -> list[str]:
    """The words of Python's help texts, in order."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics))
    return [word.lower() for word in text.split() if word.isalpha()]


def drawn(rng: random.Random, words: int) -> str:
    """A text of so many words in sentences and paragraphs."""
    chosen = rng.choices(help_words(), k=words)
    for end in range(11, words, 12):
        chosen[end] += ".\n\n" if end % 60 == 59 else "."
    return " ".join(chosen)


def edited(text: str, count: int, rng: random.Random) -> str:
    """The text with so many of its words replaced by others."""
    words = text.split(" ")
    for place in rng.sample(range(len(words)), count):
        words[place] = rng.choice(help_words())
    return " ".join(words)


def documents(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Texts of about 3 kB until there are enough, faults among them."""
    rng = random.Random(seed)
    size, past = 0, []
    while size < megabytes * MEGABYTE:
        (fault,) = rng.choices(
            ["", *_SHARES], [1 - sum(_SHARES.values()), *_SHARES.values()]
        )
        text = drawn(rng, rng.randrange(300, 700))
        if fault in ("copied", "edited") and past:
            text = rng.choice(past)
        if fault == "edited":
            text = edited(text, 3, rng)
        elif fault == "short":
            text = text[:80]
        elif fault == "mail":
            text += " Write to tam@lull.example or call (212) 555-0187."
        elif len(past) < _REMEMBERED:
            past.append(text)
        size += len(text)
        yield text


def write(path: Path, megabytes: float) -> None:
    """One JSONL file of drawn documents."""
    with open(path, "w", encoding="utf-8") as file:
        for text in documents(megabytes):
            file.write(json.dumps({"text": text}) + "\n")


# --- memory and speed ------------------------------------------------------

_RUN = """
import resource, sys, time
from llmbook.corpus.pipeline import run_pipeline
start = time.process_time()
report = run_pipeline(sys.argv[1], sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(peak, time.process_time() - start, report.came.documents)
"""


def measured(megabytes: float, folder: Path) -> tuple[float, float, int]:
    """Peak MiB, seconds of processor time and documents of one run.

    The run has a process of its own, or the peak would be another's.
    """
    source = folder / f"{megabytes:g}.jsonl"
    write(source, megabytes)
    out = folder / f"{megabytes:g}"
    command = [sys.executable, "-c", _RUN, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, seconds, count = done.stdout.split()
    return float(peak), float(seconds), int(count)


def memory(sizes: list[float]) -> None:
    """Print peak memory and speed by size of the input."""
    print("| MB in | documents | peak MiB | CPU seconds | MB/s |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            peak, seconds, count = measured(size, Path(folder))
        row = f"{size:g} | {count:,} | {peak:.0f} | {seconds:.1f}"
        print(f"| {row} | {size / seconds:.2f} |", flush=True)


def profile(megabytes: float) -> None:
    """Print where the time goes."""
    import cProfile
    import pstats

    from llmbook.corpus.pipeline import run_pipeline

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "in.jsonl", megabytes)
        with cProfile.Profile() as profiler:
            run_pipeline(folder / "in.jsonl", folder / "out")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


# --- duplicates ------------------------------------------------------------


def planted(banding: Banding) -> np.ndarray:
    """Pairs of a text and its edit: true similarity, met, estimate.

    Shape (pairs, 3). The edits replace from 1 to 64 of 400 words, so the
    similarities run from nearly 1 to about 0.3.
    """
    rng = random.Random(0)
    rows = []
    for count in (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64):
        for _ in range(PAIRS):
            text = drawn(rng, 400)
            pair = text, edited(text, count, rng)
            true = jaccard(*(shingles(each, banding.words) for each in pair))
            first, second = (signature(each, banding) for each in pair)
            keys = zip(
                band_keys(first, banding),
                band_keys(second, banding),
                strict=True,
            )
            met = any(a == b for a, b in keys)
            rows.append((true, met, similarity(first, second)))
    return np.array(rows)


def duplicates(banding: Banding) -> None:
    """Print how many planted edits are found, by their true similarity."""
    true, met, estimate = planted(banding).T
    removed = (met > 0) & (estimate >= banding.threshold)
    print("| similarity | pairs | met | by theory | removed |")
    print("| :--- | ---: | ---: | ---: | ---: |")
    for low in np.arange(0.3, 1, 0.05):
        here = (true >= low) & (true < low + 0.05)
        if not here.any():
            continue
        theory = chance_to_meet(true[here], banding).mean()
        row = f"{low:.2f} to {low + 0.05:.2f} | {here.sum()}"
        row += f" | {met[here].mean():.3f} | {theory:.3f}"
        print(f"| {row} | {removed[here].mean():.3f} |")
    near = true >= banding.threshold
    print(f"\nof pairs at least {banding.threshold} similar:")
    print(f"recall {removed[near].mean():.3f}")
    print(f"precision {near[removed].mean():.3f}")
    far = true[removed & ~near]
    print(f"least similar of those removed: {far.min(initial=1):.3f}")


def record(path: Path = RECORD) -> None:
    """Keep the two tables, memory and duplicates, in ``runs/``."""
    kept = io.StringIO()
    with contextlib.redirect_stdout(kept):
        print("# The data pipeline, measured\n")
        print("`python -m benchmarks.pipeline --record`\n")
        memory(RECORDED_MEGABYTES)
        print()
        duplicates(Banding())
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(kept.getvalue(), encoding="utf-8")
    beside.replace(path)
    print(kept.getvalue())


def main() -> int:
    """Measure what is asked for, or everything that is recorded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    choices = ("memory", "speed", "duplicates")
    parser.add_argument("what", nargs="?", choices=choices)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[4])
    parser.add_argument("--record", action="store_true", help=f"to {RECORD}")
    arguments = parser.parse_args()
    if arguments.record:
        record()
    elif arguments.what == "memory":
        memory(arguments.megabytes)
    elif arguments.what == "speed":
        profile(arguments.megabytes[0])
    elif arguments.what == "duplicates":
        duplicates(Banding())
    else:
        parser.error(f"name one of {', '.join(choices)}, or --record.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
