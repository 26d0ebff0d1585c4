"""The running model: the one model that the whole book uses.

``python -m llmbook.running`` trains it before the chapters. Its folder is
named after a hash of everything that decides what it becomes, so a chapter
finds exactly this model or trains it, and never meets another.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from llmbook import checkpoint, runtime
from llmbook.config import GPTConfig, TrainConfig, preset
from llmbook.corpus import (
    Batches,
    Corpus,
    DocumentBatches,
    TokenShard,
    floor_per_token,
    load_corpus,
)
from llmbook.model import GPT
from llmbook.sampling import generate
from llmbook.tokenizer import BPETokenizer
from llmbook.tokenizer.files import write_atomically
from llmbook.train import (
    CHECKPOINT_NAME,
    Callback,
    History,
    LossFunction,
    document_loss,
    next_token_loss,
    packed_loss,
    train,
)

FOLDER_VARIABLE = "LLMBOOK_MODELS"
RESULT_NAME = "running.json"  # written last: a folder with it is whole
CORPUS = "world"
SAMPLE_TOKENS = 120  # enough for the opening of a story
SAMPLE_START = "One"  # as most stories begin: facts and sums do not
SAMPLE_SEED = 9
SCORED_DOCUMENTS = 200  # held-out documents that are scored whole
SNAPSHOTS = 10  # each twice as far as the one before, the last at the end
HASH_LENGTH = 16  # hexadecimal digits: 64 bits are plenty for a folder name
# What decides the weights and the samples; comments and docstrings do not.
CODE = (
    "config.py",
    "runtime.py",
    "accounting.py",
    "compiling.py",
    "products.py",
    "processor.py",
    "corpus/__init__.py",
    "corpus/batches.py",
    "corpus/documents.py",
    "corpus/shards.py",
    "corpus/world",
    "tokenizer",
    "layers.py",
    "positions.py",
    "attention.py",
    "model.py",
    "cache.py",
    "batching/masks.py",
    "decoding.py",
    "sampling.py",
    "optim.py",
    "train/step.py",
    "train/measuring.py",
    "train/run.py",
    "train/loop.py",
    "running.py",
)


@dataclass(frozen=True)
class Recipe:
    """All that is chosen about the running model.

    ``windows`` says what a training window shows. With ``"documents"`` it
    begins at one, and each document in it sees itself alone; with
    ``"together"`` they see those before them; ``"anywhere"`` is any place
    in the row of tokens. ``benchmarks/recipe.py`` compares the choices.
    """

    documents: int
    model: GPTConfig
    train: TrainConfig
    windows: str = "documents"
    corpus: str = CORPUS
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"


def recipe() -> Recipe:
    """The running model of the current budget, seed and machine."""
    device = runtime.best_device()
    model = runtime.pick(
        smoke=preset(
            "running", vocab_size=512, context_length=128, n_embd=64, d_ff=172
        ),
        quick=preset("running"),
    )
    steps = runtime.pick(smoke=60, quick=1_750, laptop=10_000, gpu=20_000)
    rate = runtime.pick(smoke=1e-2, quick=6e-3, laptop=4e-3)
    settings = TrainConfig(
        steps=steps,
        batch_size=runtime.pick(smoke=8, quick=16, gpu=64),
        optimizer="muon",
        learning_rate=rate,
        adamw_scale=5.0,
        min_learning_rate=rate / 30,
        warmup_steps=max(5, steps // 20),
        eval_every=math.ceil(steps / 20),
        eval_batches=runtime.pick(smoke=2, quick=4),
        compile="auto",
    )
    return Recipe(
        documents=runtime.pick(smoke=600, quick=40_000, laptop=100_000),
        model=model,
        train=settings,
        seed=runtime.seed_offset(),
        device=device.type,
        dtype=str(runtime.best_dtype(device)).removeprefix("torch."),
    )


def models_folder() -> Path:
    """Where models are kept: ``LLMBOOK_MODELS``, or the book's ``_build``.

    An installed package has no book around it and uses the user's cache.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file() and (root / "book").is_dir():
        return root / "_build" / "models"
    return Path.home() / ".cache" / "llmbook" / "models"


def code_hash(package: Path | None = None) -> str:
    """A SHA-256 of the code that makes the model, as Python understands it.

    Comments, docstrings and layout are left out: mending a sentence does
    not train the model again.

    >>> code_hash() == code_hash()
    True
    """
    package = package or Path(__file__).parent
    total = hashlib.sha256()
    for name in CODE:
        path = package / name
        files = [path] if path.suffix else sorted(path.rglob("*.py"))
        for file in files:
            tree = _without_docstrings(ast.parse(file.read_bytes()))
            total.update(file.relative_to(package).as_posix().encode())
            total.update(ast.dump(tree).encode())
    return total.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(
            first.value, ast.Constant
        ):
            body[0] = ast.Expr(ast.Constant(None))
    return tree


def fingerprint(chosen: Recipe) -> str:
    """The name of the model's folder: a hash of recipe and code."""
    text = json.dumps(asdict(chosen), sort_keys=True) + code_hash()
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


@dataclass(frozen=True)
class Snapshot:
    """The model as it was after ``step`` steps, and what it wrote then."""

    step: int
    sample: str
    file: Path = field(repr=False)

    def model(self) -> GPT:
        """The weights of that moment, kept in 16 bits, as a model."""
        return checkpoint.load_model(self.file)


@dataclass
class RunningModel:
    """The trained model and what belongs to it.

    ``entropy_per_token`` is the least loss any model can have on the
    held-out documents, and ``document_loss`` what this one has, both in
    nats a token over the same documents.
    """

    model: GPT
    tokenizer: BPETokenizer
    history: History
    snapshots: list[Snapshot]
    entropy_per_token: float
    document_loss: float
    recipe: Recipe
    folder: Path = field(repr=False)

    @property
    def config(self) -> GPTConfig:
        """The shape of the model."""
        return self.model.config

    @cached_property
    def corpus(self) -> Corpus:
        """The documents it learned from, and those held out."""
        return _corpus(self.recipe)

    @cached_property
    def shard(self) -> TokenShard:
        """The training documents as ids."""
        return TokenShard.open(self.folder / "train")

    @cached_property
    def validation_shard(self) -> TokenShard:
        """The held-out documents as ids."""
        return TokenShard.open(self.folder / "validation")


def load_running(progress: bool = True) -> RunningModel:
    """The running model of this budget; trained first where it is missing.

    Two processes that want it at once train it once: the second waits.
    """
    chosen = recipe()
    folder = models_folder() / fingerprint(chosen)
    if not (folder / RESULT_NAME).is_file():
        make_folder(folder)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / RESULT_NAME).is_file():
                train_running(chosen, folder, progress)
    return open_running(chosen, folder)


def make_folder(folder: Path) -> None:
    """Make ``folder``, or say which variable names another place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot make {folder} ({error}). Set {FOLDER_VARIABLE} to a "
            "folder that you may write to."
        ) from error


def open_running(chosen: Recipe, folder: Path) -> RunningModel:
    """Read a finished model's folder."""
    result = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))
    return RunningModel(
        model=checkpoint.load_model(folder / "model.safetensors"),
        tokenizer=BPETokenizer.load(folder / "tokenizer.json"),
        history=History.from_dict(result["history"]),
        snapshots=[
            Snapshot(s["step"], s["sample"], folder / s["file"])
            for s in result["snapshots"]
        ],
        entropy_per_token=result["entropy_per_token"],
        document_loss=result["document_loss"],
        recipe=chosen,
        folder=folder,
    )


def train_running(chosen: Recipe, folder: Path, progress: bool = True) -> None:
    """Make the tokenizer, the shards, the model and its record in ``folder``.

    An interrupted run is taken up at its last checkpoint.
    """
    runtime.keep_freed_memory()
    corpus = _corpus(chosen)
    tokenizer = BPETokenizer.train(corpus.train_texts, chosen.model.vocab_size)
    tokenizer.save(folder / "tokenizer.json")
    model = fresh_model(chosen, tokenizer)
    batches, validation = (
        windows_of(
            TokenShard.write(folder / name, texts, tokenizer),
            chosen,
            tokenizer.end_of_text,
        )
        for name, texts in (
            ("train", corpus.train_texts),
            ("validation", corpus.validation_texts),
        )
    )
    history = train(
        model,
        batches,
        chosen.train,
        validation=validation,
        run_dir=folder,
        resume=True,
        callbacks=[
            snapshot_taker(
                folder, tokenizer, snapshot_steps(chosen.train.steps)
            )
        ],
        loss_function=loss_of(chosen, tokenizer.end_of_text),
        progress=progress,
    )
    checkpoint.save(folder / "model.safetensors", model)
    _write_result(folder, chosen, history, scores(model, tokenizer, corpus))
    checkpoint.remove(folder / CHECKPOINT_NAME)


def windows_of(shard: TokenShard, chosen: Recipe, end_of_text: int) -> Batches:
    """The shard as batches, cut the way ``chosen`` asks for."""
    arguments = {
        "tokens": shard.tokens,
        "context_length": chosen.model.context_length,
        "batch_size": chosen.train.batch_size,
        "seed": chosen.seed,
    }
    if chosen.windows == "anywhere":
        return Batches(**arguments)
    return DocumentBatches(**arguments, end_of_text=end_of_text)


def loss_of(chosen: Recipe, end_of_text: int) -> LossFunction:
    """The loss over windows as ``chosen`` has them read."""
    if chosen.windows == "documents":
        return partial(packed_loss, end_of_text=end_of_text)
    return next_token_loss


def scores(
    model: GPT, tokenizer: BPETokenizer, corpus: Corpus
) -> dict[str, float]:
    """The model's loss on whole held-out documents, and the least possible.

    Both are nats a token over the same documents: −ln p(document) summed
    and divided by the tokens, the end of each counted as one.
    """
    documents = corpus.validation[:SCORED_DOCUMENTS]
    ids = [tokenizer.encode(d.text) for d in documents]
    return {
        "entropy_per_token": floor_per_token(documents, tokenizer),
        "document_loss": document_loss(model, ids, tokenizer.end_of_text),
    }


def snapshot_steps(steps: int) -> list[int]:
    """0, then ever larger strides up to ``steps``.

    >>> snapshot_steps(640)
    [0, 2, 5, 10, 20, 40, 80, 160, 320, 640]
    """
    parts = (steps / 2**n for n in range(SNAPSHOTS - 2, -1, -1))
    return sorted({0, *(max(1, round(part)) for part in parts)})


def snapshot_taker(
    folder: Path, tokenizer: BPETokenizer, wanted: Collection[int]
) -> Callback:
    """A callback that keeps a :class:`Snapshot` after each wanted step."""

    def take(step: int, model: nn.Module, history: History) -> None:
        if step not in wanted:
            return
        end = tokenizer.end_of_text
        ids = generate(
            model.eval(),
            [end, *tokenizer.encode(SAMPLE_START)],
            SAMPLE_TOKENS,
            stop_tokens=[end],
            seed=SAMPLE_SEED,
        )
        sample = tokenizer.decode(i for i in ids if i < end)
        small = GPT(model.config).half()
        small.load_state_dict(model.state_dict())
        file = folder / f"snapshot-{step:06d}.safetensors"
        try:
            checkpoint.save(
                file, small, state={"step": step, "sample": sample}
            )
        except checkpoint.CheckpointError as error:  # no reason to stop
            warnings.warn(
                f"the snapshot of step {step} is left out: {error} Only "
                "another run, in another folder, would have it.",
                checkpoint.CheckpointWarning,
                stacklevel=2,
            )

    return take


def _write_result(
    folder: Path, chosen: Recipe, history: History, scored: dict[str, float]
) -> None:
    snapshots = [
        {**checkpoint.load(file).state, "file": file.name}
        for file in sorted(folder.glob("snapshot-*.safetensors"))
    ]
    keep = ("step", "sample", "file")
    result = {
        **scored,
        "recipe": asdict(chosen),
        "torch": torch.__version__,
        "history": history.to_dict(),
        "snapshots": [{k: s[k] for k in keep} for s in snapshots],
    }
    write_atomically(folder / RESULT_NAME, json.dumps(result))


def _corpus(chosen: Recipe) -> Corpus:
    return load_corpus(chosen.corpus, documents=chosen.documents)


def fresh_model(chosen: Recipe, tokenizer: BPETokenizer) -> GPT:
    """A new model; its vocabulary is the tokenizer's, if that is smaller."""
    values = {**asdict(chosen.model), "vocab_size": tokenizer.vocab_size}
    generator = torch.Generator().manual_seed(chosen.seed)
    model = GPT(GPTConfig(**values), generator)
    return model.to(chosen.device)


def main() -> int:
    """Train the running model if it is missing, and say where it is."""
    running = load_running()
    print(
        f"running model: {running.document_loss:.3f} nats a token, "
        f"{running.entropy_per_token:.3f} possible, after "
        f"{running.history.steps} steps and {running.history.seconds:.0f} s "
        f"({running.history.tokens_per_second:,.0f} tokens/s): "
        f"{running.folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
