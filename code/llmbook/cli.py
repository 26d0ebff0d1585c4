"""The ``llmbook`` command: train, generate, evaluate, tokenize, corpus.

Each subcommand is a dataclass whose fields are its options. A folder that
``train`` fills holds ``model.safetensors``, ``tokenizer.json`` and
``run.json``; the others read it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from llmbook import checkpoint, runtime
from llmbook.batching import BATCH_SIZE
from llmbook.config import GPTConfig, TrainConfig, preset
from llmbook.corpus import Batches, TokenShard, load_corpus
from llmbook.corpus.pipeline import PipelineConfig, run_pipeline
from llmbook.corpus.world.files import write_world
from llmbook.evaluation.harness import evaluate
from llmbook.evaluation.loading import load_model, read_trained
from llmbook.evaluation.sandbox import InfrastructureError
from llmbook.hub import TOKENIZER, WEIGHTS
from llmbook.model import GPT
from llmbook.sampling import stream
from llmbook.tokenizer import BPETokenizer, gpt2
from llmbook.train import CHECKPOINT_NAME, train

EXIT_BAD_INPUT = 1  # what was asked cannot be done; the message says why
EXIT_USAGE = 2  # argparse's and tyro's own, for a wrong command line
EXIT_INTERRUPTED = 130  # the shell's convention for Ctrl-C
CANNOT_BE_DONE = (
    ValueError,
    OSError,
    ArithmeticError,
    ImportError,
    InfrastructureError,
)


@dataclass
class Train:
    """Train a tokenizer and a model on a corpus, from nothing."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the model, its tokenizer and its record."""
    corpus: str = "world"
    """"world", "austen", or a folder of .txt files."""
    documents: int | None = 10_000
    """How many documents of a generated corpus."""
    model: GPTConfig = field(default_factory=lambda: preset("running"))
    training: TrainConfig = field(default_factory=TrainConfig)
    resume: bool = False
    """Go on from the checkpoint in the folder."""

    def run(self) -> str:
        corpus = load_corpus(self.corpus, documents=self.documents)
        V = self.model.vocab_size
        tokenizer = BPETokenizer.train(corpus.train_texts, V)
        tokenizer.save(self.out / TOKENIZER)
        shape = replace(self.model, vocab_size=tokenizer.vocab_size)
        seed = self.training.seed + runtime.seed_offset()
        generator = torch.Generator().manual_seed(seed)
        model = GPT(shape, generator).to(runtime.best_device())
        history = train(
            model,
            self._batches("train", corpus.train_texts, tokenizer),
            self.training,
            validation=self._batches(
                "validation", corpus.validation_texts, tokenizer
            ),
            run_dir=self.out,
            resume=self.resume,
        )
        checkpoint.save(self.out / WEIGHTS, model)
        (self.out / CHECKPOINT_NAME).unlink(missing_ok=True)
        record = json.dumps(history.to_dict())
        (self.out / "run.json").write_text(record, encoding="utf-8")
        return (
            f"trained {history.steps} steps in {history.seconds:.0f} s, "
            f"{history.evaluations[-1][1]:.3f} nats a token held out: "
            f"{self.out}"
        )

    def _batches(
        self, name: str, texts: list[str], tokenizer: BPETokenizer
    ) -> Batches:
        shard = TokenShard.write(self.out / name, texts, tokenizer)
        return Batches(
            shard.tokens,
            self.model.context_length,
            self.training.batch_size,
            seed=self.training.seed + runtime.seed_offset(),
        )


@dataclass
class Generate:
    """Write on from a prompt."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `llmbook train` filled."""
    prompt: Annotated[str, tyro.conf.Positional] = ""
    """The text to go on from; empty begins a new document."""
    max_new_tokens: int = 200
    temperature: float = 1.0
    """0 always takes the likeliest token."""
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0

    def run(self) -> str:
        model, tokenizer = read_trained(self.folder)
        end = tokenizer.end_of_text
        prompt = [end, *tokenizer.encode(self.prompt)]
        shown, count = self.prompt, 0
        ids: list[int] = []
        for token in stream(
            model,
            prompt,
            self.max_new_tokens,
            stop_tokens=[end],
            seed=self.seed,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
        ):
            count += 1
            if token != end:
                ids.append(token)
        print(shown + tokenizer.decode(ids))
        return f"{count} tokens from {self.folder}"


@dataclass
class Evaluate:
    """Measure a model by benchmarks, one line a score.

    A run that was stopped goes on where it was, if --out names a file.
    """

    model: str
    """What `llmbook train` filled, a folder in Hugging Face's format, or a
    name on its hub."""
    tasks: str = "perplexity"
    """With commas between: mmlu, mmlu_cloze, gsm8k, humaneval, perplexity."""
    limit: int | None = None
    """The first so many items of a task, of MMLU of each subject."""
    out: Path | None = None
    """File for scores, predictions and log-likelihoods, as JSON."""
    restart: bool = False
    """Begin anew, though a stopped run could go on."""
    folder: Path | None = None
    """The benchmarks' files, as `llmbook corpus world` writes them; else
    the published ones."""
    num_fewshot: int | None = None
    """Solved examples in a prompt; else the task's own number."""
    max_new_tokens: int | None = None
    batch_size: int = BATCH_SIZE
    samples: int = 1
    """Programs written for each problem of HumanEval, for pass@k."""
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    top_p: float | None = None
    seed: int = 0
    corpus: str = "world"
    """Scored by perplexity: "world", "austen", or a folder of .txt files."""
    documents: int | None = 10_000
    """The number the model was trained with: it fixes what is held out."""
    held_out: bool = True
    """Score only documents that training leaves out."""
    allow_weak_sandbox: bool = False
    """Run a model's programs even where nothing but limits holds them."""

    def run(self) -> str:
        apart = ("model", "tasks", "out", "restart", "batch_size")
        options = {k: v for k, v in vars(self).items() if k not in apart}
        results = evaluate(
            load_model(self.model, self.batch_size),
            self.tasks,
            batch_size=self.batch_size,
            out=self.out,
            restart=self.restart,
            **options,
        )
        print(results.table())
        return f"results: {self.out}" if self.out else "no file was asked for"


@dataclass
class Tokenize:
    """Show a text's tokens and their ids."""

    text: Annotated[str, tyro.conf.Positional]
    tokenizer: str = "gpt2"
    """"gpt2", a tokenizer.json, or a folder that holds one."""

    def run(self) -> str:
        path = Path(self.tokenizer)
        if self.tokenizer == "gpt2":
            chosen = gpt2()
        else:
            chosen = BPETokenizer.load(
                path / TOKENIZER if path.is_dir() else path
            )
        ids = chosen.encode(self.text, on_special="text")
        for token in ids:
            print(f"{token:>7}  {chosen.token_bytes(token)!r}")
        return f"{len(ids)} tokens, {len(self.text.encode())} bytes"


@dataclass
class World:
    """Write the generated corpus and its benchmarks into a new folder."""

    out: Path
    """A folder that is not there yet, or empty."""
    documents: int = 10_000
    """How many, those held out included."""
    seed: int = 0

    def run(self) -> str:
        generated = load_corpus(
            "world", documents=self.documents, seed=self.seed
        )
        seed = self.seed + runtime.seed_offset()
        write_world(generated, self.out, seed)
        return f"{self.documents} documents and the benchmarks: {self.out}"


@dataclass
class Clean:
    """Clean, filter, deduplicate and split files of text.

    A run that was stopped goes on where it was.
    """

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files or folders: .txt, .html, .jsonl, and these with .gz."""
    out: Path
    """Folder for the texts and their manifest."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes to keep; none keeps all."""
    validation_fraction: float = 0.05
    """Share of the documents held out."""

    def run(self) -> str:
        config = PipelineConfig(
            languages=self.languages,
            validation_fraction=self.validation_fraction,
        )
        report = run_pipeline(self.sources, self.out, config)
        for name, documents, share, size, example in report.table():
            print(f"{documents:>9,}  {share:>6}  {size:>14,} B  {name}")
            if example:
                print(f"{'':11}{example}")
        return f"texts and manifest: {self.out}"


@dataclass
class CorpusCommand:
    """Write a corpus: generated, or cleaned from files."""

    what: (
        Annotated[World, tyro.conf.subcommand("world")]
        | Annotated[Clean, tyro.conf.subcommand("clean")]
    )

    def run(self) -> str:
        return self.what.run()


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[
        tyro.conf.OmitArgPrefixes[
            tyro.conf.OmitSubcommandPrefixes[CorpusCommand]
        ],
        tyro.conf.subcommand("corpus"),
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it went.

    0 it worked, 1 it could not be done (one line on stderr says why), 2 the
    command line was wrong, 130 interrupted.
    """
    try:
        command = tyro.cli(Command, args=arguments, prog="llmbook")
        with warnings.catch_warnings():
            warnings.showwarning = _on_one_line
            print(command.run())
    except CANNOT_BE_DONE as error:
        print(f"llmbook: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("llmbook: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _on_one_line(message: Warning | str, *_: object, **__: object) -> None:
    print(f"llmbook: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
