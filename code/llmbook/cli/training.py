"""``llmbook train`` and ``llmbook generate``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from llmbook import checkpoint, runtime
from llmbook.config import GPTConfig, TrainConfig, preset
from llmbook.corpus import Batches, TokenShard, load_corpus
from llmbook.hub import TOKENIZER, WEIGHTS
from llmbook.model import GPT
from llmbook.sampling import stream
from llmbook.tokenizer import BPETokenizer
from llmbook.train import CHECKPOINT_NAME, train

from .models import read_model
from .notes import visible


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

    model: Annotated[str, tyro.conf.Positional]
    """A folder that `train` or `align` filled, or that holds a GPT-2, Llama
    or Mistral in Hugging Face's format; or a name of the hub, such as gpt2
    or HuggingFaceTB/SmolLM2-135M."""
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
        model, tokenizer = read_model(self.model)
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
        print(visible(shown + tokenizer.decode(ids)))
        return f"{count} tokens from {self.model}"
