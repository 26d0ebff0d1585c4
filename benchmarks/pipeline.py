"""Measure the data pipeline: memory, speed, and what it finds.

    python -m benchmarks.pipeline speed --megabytes 20
    python -m benchmarks.pipeline memory --megabytes 40 400
    python -m benchmarks.pipeline duplicates
    python -m benchmarks.pipeline languages

The text is drawn word by word from Python's own help texts, so nothing has
to be downloaded and any amount of it can be had.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmbook.corpus import duplicates
from llmbook.corpus.duplicates import Banding

MEGABYTE = 1_000_000
_SHARES = {"copied": 0.05, "edited": 0.05, "short": 0.02, "mail": 0.02}


@functools.cache
def help_words() -> list[str]:
    """The words of Python's help texts, in order."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics))
    return [word for word in text.split() if word.isascii()]


def drawn(rng: random.Random, words: int) -> str:
    """A text of so many words in sentences and paragraphs."""
    chosen = rng.choices(help_words(), k=words)
    for end in range(11, words, 12):
        chosen[end] += ".\n\n" if end % 60 == 59 else "."
    return " ".join(chosen)


def documents(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Texts of about 3 kB until there are enough, faults among them."""
    rng = random.Random(seed)
    size, past = 0, []
    while size < megabytes * MEGABYTE:
        (fault,) = rng.choices(
            ["", *_SHARES], [1 - sum(_SHARES.values()), *_SHARES.values()]
        )
        text = drawn(rng, rng.randrange(200, 700))
        if fault in ("copied", "edited") and past:
            text = rng.choice(past)
        if fault == "edited":
            text = edited(text, 0.01, rng)
        elif fault == "short":
            text = text[:80]
        elif fault == "mail":
            text += " Write to tam@lull.example or call (212) 555-0187."
        elif len(past) < 1000:
            past.append(text)
        size += len(text)
        yield text


def edited(text: str, share: float, rng: random.Random) -> str:
    """The text with a share of its words replaced by others."""
    words = text.split(" ")
    count = max(1, round(share * len(words)))
    for place in rng.sample(range(len(words)), count):
        words[place] = rng.choice(help_words())
    return " ".join(words)


def write(path: Path, megabytes: float, seed: int = 0) -> None:
    """One JSONL file of drawn documents."""
    with open(path, "w", encoding="utf-8") as file:
        for text in documents(megabytes, seed):
            file.write(json.dumps({"text": text}) + "\n")


_RUN = """
import resource, sys, time
from llmbook.corpus.pipeline import run_pipeline
import llmbook.corpus.pipeline as p
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = time.process_time()
report = run_pipeline(sys.argv[1], sys.argv[2])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(peak, time.process_time() - start, report.came.documents)
"""


def measured(megabytes: float, folder: Path) -> tuple[float, float, int]:
    """Peak MiB, seconds and documents of a run in a process of its own."""
    source = folder / f"{megabytes:g}.jsonl"
    write(source, megabytes)
    command = [sys.executable, "-c", _RUN, str(source), str(folder / source.stem)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, seconds, count = done.stdout.split()
    return float(peak), float(seconds), int(count)


def memory(sizes: list[float]) -> None:
    """Peak memory and speed by size of the input."""
    print("| MB in | documents | peak MiB | seconds | MB/s |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            peak, seconds, count = measured(size, Path(folder))
        speed = size / seconds
        print(
            f"| {size:g} | {count:,} | {peak:.0f} | {seconds:.1f} | {speed:.2f} |",
            flush=True,
        )


def profile(megabytes: float) -> None:
    """Where the time goes."""
    import cProfile
    import pstats

    from llmbook.corpus.pipeline import run_pipeline

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "in.jsonl", megabytes)
        with cProfile.Profile() as profiler:
            run_pipeline(folder / "in.jsonl", folder / "out")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "speed", "duplicates"])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[4])
    arguments = parser.parse_args()
    if arguments.what == "memory":
        memory(arguments.megabytes)
    elif arguments.what == "speed":
        profile(arguments.megabytes[0])
