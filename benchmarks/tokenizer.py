"""The book's tokenizer beside others: training, encoding, memory, scaling.

    python -m benchmarks.tokenizer [PART ...] [--rounds 5] [--record]

Trains on Austen's six novels, where ``LLMBOOK_DATA`` has them, and on the
book's world, with this package, Hugging Face tokenizers, sentencepiece and
rustbpe (``pip install tokenizers sentencepiece rustbpe``; what is missing is
left out). Rounds are interleaved, so that a busy moment of the machine falls
on all; a time is the median over the rounds, in seconds of the clock and, in
brackets, of the processor. ``--record`` writes runs/tokenizer.json; parts
that are not named stay in it as they are.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import importlib.metadata
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmbook.tokenizer import (
    GPT2_PATTERN,
    BPETokenizer,
    count_pre_tokens,
    learn_merges,
    learn_merges_naively,
)

RECORD = Path(__file__).resolve().parents[1] / "runs" / "tokenizer.json"
PEERS = ("tokenizers", "sentencepiece", "rustbpe", "tiktoken")
SIZES = (512, 4096, 8192)  # vocabularies
WORLD_DOCUMENTS = 9000  # about 4 MB
NAIVE_BYTES = 100_000  # what the definition gets: it would take minutes
LONG_WORD = 1_000_000
Rows = list[list[str]]


@dataclass(frozen=True)
class Text:
    """A corpus under a name: its texts, and the same in lines.

    The lines are for the peers, which are faster on many short texts.
    """

    name: str
    texts: Sequence[str]

    @functools.cached_property
    def lines(self) -> list[str]:
        return [
            line for t in self.texts for line in t.splitlines(keepends=True)
        ]

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Vocabularies to train: SIZES, as far as there is to learn."""
        pieces = count_pre_tokens(self.texts)
        room = 256 + len(learn_merges(pieces, SIZES[-1] - 256))
        return sorted({min(size, room) for size in SIZES})

    @functools.cached_property
    def megabytes(self) -> float:
        return sum(len(text.encode()) for text in self.texts) / 1e6

    def share(self, part: float) -> Text:
        """About that part of the text, cut from the front."""
        whole = "".join(self.texts)
        return Text(self.name, [whole[: int(len(whole) * part)]])


def load_texts() -> list[Text]:
    """Austen's novels, where they are at hand, and the world."""
    from llmbook.corpus import load_corpus

    found = []
    files = Path(os.environ.get("LLMBOOK_DATA", "/nowhere"), "austen")
    novels = [p.read_text("utf-8") for p in sorted(files.glob("*.txt"))]
    if novels:
        found.append(Text("Austen", novels))
    else:
        print("LLMBOOK_DATA has no folder austen: on the world alone.\n")
    world = load_corpus("world", documents=WORLD_DOCUMENTS, seed=0)
    return [*found, Text("world", world.train_texts)]


# --- who trains ----------------------------------------------------------


def train_ours(text: Text, vocab_size: int) -> BPETokenizer:
    return BPETokenizer.train(text.texts, vocab_size, special_tokens=())


def train_tokenizers(text: Text, vocab_size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(text.lines, trainer)


def train_sentencepiece(text: Text, vocab_size: int, kind: str) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.lines),
        model_writer=io.BytesIO(),
        model_type=kind,
        vocab_size=vocab_size,
        character_coverage=1.0,
        minloglevel=2,
    )


def train_rustbpe(text: Text, vocab_size: int) -> None:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(text.lines, vocab_size, pattern=GPT2_PATTERN)


TRAINERS: dict[str, Callable[[Text, int], Any]] = {
    "ours": train_ours,
    "tokenizers": train_tokenizers,
    "sentencepiece BPE": functools.partial(train_sentencepiece, kind="bpe"),
    "sentencepiece unigram": functools.partial(
        train_sentencepiece, kind="unigram"
    ),
    "rustbpe": train_rustbpe,
}


def present(names: Iterable[str]) -> list[str]:
    """Those that can run here; the others are said to be missing."""
    found = []
    for name in names:
        package = name.split()[0]
        if package in PEERS and not version(package):
            print(f"{package} is not installed: left out.\n")
        else:
            found.append(name)
    return found


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- measuring -----------------------------------------------------------


@dataclass(frozen=True)
class Seconds:
    """Of the clock, and of all processors together."""

    clock: float
    processor: float

    def __str__(self) -> str:
        return f"{self.clock:.2f} ({self.processor:.2f})"


def timed(function: Callable[[], Any]) -> Seconds:
    gc.collect()
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return Seconds(
        time.perf_counter() - clock, time.process_time() - processor
    )


def medians(
    contestants: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, Seconds]:
    """Each contestant's median time over interleaved rounds."""
    runs: dict[str, list[Seconds]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, function in contestants.items():
            runs[name].append(timed(function))
    return {
        name: Seconds(
            statistics.median(run.clock for run in found),
            statistics.median(run.processor for run in found),
        )
        for name, found in runs.items()
    }


def table(title: str, header: Sequence[str], rows: Rows) -> None:
    print(f"### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("| " + " | ".join(["---"] + ["---:"] * (len(header) - 1)) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


# --- the parts -----------------------------------------------------------


def benchmark_training(text: Text, rounds: int) -> dict[str, Any]:
    """Seconds for each trainer and size of vocabulary."""
    names = present(TRAINERS)
    found: dict[str, dict[str, Seconds]] = {name: {} for name in names}
    for size in text.sizes:
        contestants = {
            name: functools.partial(TRAINERS[name], text, size)
            for name in names
            if can_train(name, text, size)
        }
        for name, seconds in medians(contestants, rounds).items():
            found[name][str(size)] = seconds
    sizes = list(map(str, text.sizes))
    rows = [
        [name, *(str(times.get(size, "–")) for size in sizes)]
        for name, times in found.items()
    ]
    table(
        f"Training on {text.name}, {text.megabytes:.1f} MB, by vocabulary",
        ["seconds", *(f"{int(size):,}" for size in sizes)],
        rows,
    )
    return plain(found)


def can_train(name: str, text: Text, size: int) -> bool:
    """Try once, which also warms up; some refuse so large a vocabulary."""
    try:
        TRAINERS[name](text, size)
    except RuntimeError:
        return False
    return True


def benchmark_definition(text: Text, rounds: int) -> dict[str, Any]:
    """The naive trainer on little text, once, and ours on the same."""
    whole = "".join(text.texts)[:NAIVE_BYTES]
    pieces = count_pre_tokens(whole)
    few = Text(text.name, [whole])
    found = {
        "the definition": timed(
            lambda: learn_merges_naively(pieces, SIZES[0] - 256)
        ),
        "ours": timed(lambda: train_ours(few, SIZES[0])),
    }
    table(
        f"For scale: {NAIVE_BYTES // 1000} kB of {text.name} at {SIZES[0]}",
        ["seconds", "once"],
        [[name, str(seconds)] for name, seconds in found.items()],
    )
    return plain(found)


def benchmark_encoding(text: Text, rounds: int) -> dict[str, Any]:
    """Megabytes a second, of one text and of many."""
    size = text.sizes[-1]
    ours = train_ours(text, size)
    engine, other = ours.to_tiktoken(), as_tokenizers(ours)
    whole, many = "".join(text.texts), text.lines
    ids = ours.encode_ordinary(whole)
    assert ids == engine.encode_ordinary(whole) == other.encode(whole).ids
    contestants: dict[str, Callable[[], Any]] = {
        "ours, first time": lambda: fresh(ours).encode_ordinary(whole),
        "ours": lambda: ours.encode_ordinary(whole),
        "ours, encode_batch of lines": lambda: ours.encode_batch(many),
        "tokenizers": lambda: other.encode(whole),
        "tokenizers, encode_batch of lines": lambda: other.encode_batch(many),
        "tiktoken, from to_tiktoken": lambda: engine.encode_ordinary(whole),
        "tiktoken, batch of lines": lambda: engine.encode_ordinary_batch(
            many, num_threads=os.cpu_count() or 1
        ),
        "decoding: ours": lambda: ours.decode(ids),
        "decoding: tokenizers": lambda: other.decode(ids),
        "decoding: tiktoken": lambda: engine.decode(ids),
    }
    found = medians(contestants, rounds)
    speeds = {
        name: Seconds(
            text.megabytes / took.clock, text.megabytes / took.processor
        )
        for name, took in found.items()
    }
    table(
        f"Encoding {text.name} at {size:,}, the same ids from all",
        ["MB a second", "by the clock (by the processor)"],
        [[name, str(speed)] for name, speed in speeds.items()],
    )
    return plain(speeds)


def fresh(tokenizer: BPETokenizer) -> BPETokenizer:
    """The same tokenizer, which has not met a text yet."""
    return BPETokenizer(tokenizer.merges, special_tokens=())


def as_tokenizers(ours: BPETokenizer) -> Any:
    """Our merges in the engine of Hugging Face tokenizers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    shown = [v for v in range(256) if chr(v).isprintable() and chr(v) != " "]
    hidden = [v for v in range(256) if v not in shown]
    signs = {v: chr(v) for v in shown}  # how GPT-2's files write bytes
    signs |= {v: chr(256 + n) for n, v in enumerate(hidden)}

    def written(token: bytes) -> str:
        return "".join(signs[value] for value in token)

    vocabulary = {written(t): i for i, t in enumerate(ours.vocabulary)}
    merges = [(written(left), written(right)) for left, right in ours.merges]
    other = Tokenizer(models.BPE(vocabulary, merges))
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other.decoder = decoders.ByteLevel()
    return other


def benchmark_long_words(text: Text, rounds: int) -> dict[str, Any]:
    """Seconds for a million characters without a space."""
    ours = train_ours(text, text.sizes[-1])
    solid = "".join(filter(str.isalpha, "".join(text.texts)))
    words = {
        "equal letters": "a" * LONG_WORD,
        f"the letters of {text.name}": solid[:LONG_WORD],
    }
    found = medians(
        {
            name: functools.partial(ours.encode_ordinary, word)
            for name, word in words.items()
        },
        rounds,
    )
    table(
        f"Encoding a word of {LONG_WORD:,} characters, ours",
        ["seconds", "by the clock (by the processor)"],
        [[name, str(seconds)] for name, seconds in found.items()],
    )
    return plain(found)


def benchmark_scaling(text: Text, rounds: int) -> dict[str, Any]:
    """Seconds to train on a quarter, a half and the whole of the text."""
    parts = {"a quarter": 0.25, "a half": 0.5, "the whole": 1.0}
    shares = {name: text.share(part) for name, part in parts.items()}
    size = shares["a quarter"].sizes[-1]
    rows, record = [], {}
    for trainer in ("ours", *present(["tokenizers"])):
        found = medians(
            {
                name: functools.partial(TRAINERS[trainer], share, size)
                for name, share in shares.items()
            },
            rounds,
        )
        rows.append([trainer, *map(str, found.values())])
        record[trainer] = found
    table(
        f"Training on parts of {text.name}, {text.megabytes:.1f} MB, at "
        f"{size:,}",
        ["seconds", *parts],
        rows,
    )
    return plain(record)


def benchmark_memory(text: Text, rounds: int) -> dict[str, Any]:
    """Megabytes that training takes at its peak, each in a process."""
    size = text.sizes[-1]
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(text.texts):
            Path(folder, f"{number:06}.txt").write_text(one, "utf-8")
        peaks = {
            name: peak_in_process(name, folder, size)
            for name in present(TRAINERS)
            if can_train(name, text, size)
        }
        peaks["ours, from files"] = peak_in_process(
            "ours, from files", folder, size
        )
    rows = [
        [name, f"{peak:.0f}", f"{peak / text.megabytes:.1f}"]
        for name, peak in peaks.items()
    ]
    table(
        f"Peak memory of training on {text.name} at {size:,}, above that of "
        "the process with the text loaded (from files: with nothing loaded)",
        ["", "MB", "times the text"],
        rows,
    )
    return peaks


def peak_in_process(name: str, folder: str, size: int) -> float:
    command = [sys.executable, "-m", "benchmarks.tokenizer"]
    command += ["--peak", name, folder, str(size)]
    done = subprocess.run(
        command,
        cwd=RECORD.parents[1],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout)


def print_peak(name: str, folder: str, size: int) -> None:
    """Train in this process; print by how many megabytes it grew."""
    files = sorted(Path(folder).glob("*.txt"))
    for package in present(PEERS):  # what is imported is not counted
        importlib.import_module(package)
    if name == "ours, from files":
        before = resident()
        BPETokenizer.train(files, size, special_tokens=())
    else:
        text = Text(name, [file.read_text("utf-8") for file in files])
        if name != "ours":
            _ = text.lines
        before = resident()
        TRAINERS[name](text, size)
    print(peak_resident() - before)


def resident() -> float:
    """Megabytes of memory that this process has now."""
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def peak_resident() -> float:
    """Megabytes that it had at most; on Linux, since it was started."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins at what the parent process had
        lines = dict(
            line.split(":", 1) for line in status.read_text().splitlines()
        )
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# --- all of it -----------------------------------------------------------


def plain(found: Any) -> Any:
    """Times as JSON: [of the clock, of the processor]."""
    if isinstance(found, Seconds):
        return [round(found.clock, 4), round(found.processor, 4)]
    return {name: plain(value) for name, value in found.items()}


def surroundings(rounds: int) -> dict[str, Any]:
    return {
        "command": f"python -m benchmarks.tokenizer --rounds {rounds}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "versions": {name: version(name) for name in (*PEERS, "regex")},
    }


PARTS: dict[str, Callable[[Text, int], dict[str, Any]]] = {
    "training": benchmark_training,
    "definition": benchmark_definition,
    "scaling": benchmark_scaling,
    "memory": benchmark_memory,
    "encoding": benchmark_encoding,
    "words": benchmark_long_words,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help=f"to {RECORD}")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, folder, size = options.peak
        print_peak(name, folder, int(size))
        return
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}")
    record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    record |= surroundings(options.rounds)
    for text in load_texts():
        found = record.setdefault(text.name, {})
        found["bytes"] = round(text.megabytes * 1e6)
        for part in options.parts or PARTS:
            found[part] = PARTS[part](text, options.rounds)
            if options.record:  # at once: all of it takes a quarter hour
                RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
