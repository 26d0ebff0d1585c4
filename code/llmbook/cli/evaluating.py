"""``llmbook evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmbook.batching import BATCH_SIZE
from llmbook.evaluation.harness import evaluate
from llmbook.evaluation.loading import load_model


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
