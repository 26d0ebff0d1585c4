"""``llmbook tokenize`` and ``llmbook corpus``: texts, their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from llmbook import runtime
from llmbook.corpus import load_corpus
from llmbook.corpus.pipeline import PipelineConfig, run_pipeline
from llmbook.corpus.world.files import write_world
from llmbook.hub import load_tokenizer


@dataclass
class Tokenize:
    """Show a text's tokens and their ids."""

    text: Annotated[str, tyro.conf.Positional]
    tokenizer: str = "gpt2"
    """A tokenizer.json, a folder that holds one, or a name of the hub, such
    as gpt2 or HuggingFaceTB/SmolLM2-135M."""

    def run(self) -> str:
        chosen = load_tokenizer(self.tokenizer)
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
