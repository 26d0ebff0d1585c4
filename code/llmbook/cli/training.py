"""``llmbook train`` and ``llmbook generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import nn

from llmbook import accounting, checkpoint, parallel, running, runtime
from llmbook.config import GPTConfig, TrainConfig, preset
from llmbook.corpus import Corpus, Document, TokenShard, load_corpus
from llmbook.corpus.gutenberg import chapters, load_novels
from llmbook.hub import TOKENIZER, WEIGHTS
from llmbook.hub.files import read_json
from llmbook.sampling import stream
from llmbook.tokenizer import BPETokenizer
from llmbook.train import (
    CHECKPOINT_NAME,
    Callback,
    History,
    should_cut,
    tensorboard_callback,
    train,
    whole,
)

from .models import read_model
from .notes import visible
from .runs import RECORD, begin, check_folder, write_record

# What a training run writes besides what any run does.
WRITTEN = (
    "train.*",
    "validation.*",
    "snapshot-*.safetensors",
    f"{Path(CHECKPOINT_NAME).stem}*.pieces",
    "events.out.tfevents.*",
)
AUSTEN_STEPS = 5_000
AUSTEN_SNAPSHOTS = (0, 10, 30, 100, 250, 500, 1000, 2500, AUSTEN_STEPS)


def of_running() -> dict[str, Any]:
    """The options of ``--config running``: the book's running model."""
    chosen = running.recipe()
    return {
        "corpus": chosen.corpus,
        "documents": chosen.documents,
        "model": chosen.model,
        "training": chosen.train,
    }


def of_austen() -> dict[str, Any]:
    """The options of ``--config austen``: the case study of chapter 19."""
    return {
        "corpus": "austen",
        "documents": None,
        "held_out": "Persuasion",
        "model": preset("austen"),
        "training": TrainConfig(
            steps=AUSTEN_STEPS,
            batch_size=8,
            warmup_steps=100,
            compile="auto",
        ),
        "snapshots": AUSTEN_SNAPSHOTS,
    }


CONFIGS = {"running": of_running, "austen": of_austen}


@dataclass
class Train:
    """Train a tokenizer and a model on a corpus, from nothing.

    --config sets the other options together; any that is given changes it.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the model, its tokenizer and its record."""
    config: Literal["running", "austen"] = "running"
    """The book's running model, at the size that LLMBOOK_BUDGET names; or
    15 million parameters on five of Jane Austen's novels."""
    corpus: str = "world"
    """"world", "austen", or a folder of .txt files."""
    documents: int | None = 10_000
    """How many documents of a generated corpus."""
    held_out: str | None = None
    """The title of the novel to measure on; else a share of all chapters."""
    windows: Literal["auto", "documents", "together", "anywhere"] = "auto"
    """Where training windows begin, and whether a document in one sees
    itself alone or those before it together; auto is documents for the
    world's short ones, and any place in other texts."""
    model: GPTConfig = field(default_factory=lambda: preset("running"))
    training: TrainConfig = field(default_factory=TrainConfig)
    snapshots: tuple[int, ...] = ()
    """Steps after which the weights are kept, with a sample of text."""
    tensorboard: bool = False
    """Write curves for TensorBoard too, into the same folder."""
    resume: bool = False
    """Go on from the checkpoint in the folder."""

    def run(self) -> str:
        with parallel.together() as team:
            return self.train_with(team)

    def train_with(self, team: parallel.Team) -> str:
        """Train as one of a team; only the first process says how it went."""
        resume = self.resume or parallel.restarts() > 0
        self.check(team, resume)
        if team.speaks:
            begin(self.out, self.data(), {})
            if not self.is_prepared():
                self.prepare()
        team.wait()
        tokenizer, chosen = self.tokenizer(), self.recipe()
        model = running.fresh_model(chosen, tokenizer)
        learned, judged = (
            running.windows_of(
                TokenShard.open(self.out / name), chosen, tokenizer.end_of_text
            )
            for name in ("train", "validation")
        )
        history = train(
            model,
            learned,
            self.training,
            validation=judged,
            run_dir=self.out,
            resume=self.resume,
            callbacks=self.callbacks(tokenizer),
            loss_function=running.loss_of(chosen, tokenizer.end_of_text),
        )
        trained = whole(model, team)
        if trained is None:
            return ""
        self.finish(trained, history)
        return (
            f"trained {history.steps} steps in {history.seconds:.0f} s, "
            f"{history.evaluations[-1][1]:.3f} nats a token held out: "
            f"{self.out}"
        )

    def check(self, team: parallel.Team, resume: bool) -> None:
        """Refuse what cannot be done, before the work begins.

        Raises:
            ValueError: the folder is another run's, the batch cannot be
                shared out, or a snapshot would need a model that is cut.
            ImportError: TensorBoard is asked for and not installed.
        """
        check_folder(self.out, resume, WRITTEN)
        if self.tensorboard:
            tensorboard_callback(self.out)
        team.share(self.training.batch_size)
        size = accounting.parameters(self.model)
        if self.snapshots and should_cut(size, self.training, team):
            raise ValueError(
                "snapshots were asked for and the model is cut (fsdp), so no "
                "process has the whole of it. Leave snapshots away, or train "
                "with --training.parallel ddp."
            )

    def data(self) -> dict[str, Any]:
        """What is read and how: the same when the run is gone on with."""
        return {
            "corpus": self.corpus,
            "documents": self.documents,
            "held_out": self.held_out,
            "windows": self.recipe().windows,
        }

    def is_prepared(self) -> bool:
        """Whether a stopped run has left its tokens and tokenizer whole."""
        if not checkpoint.is_kept(self.out / CHECKPOINT_NAME):
            return False
        try:
            self.tokenizer()
            for name in ("train", "validation"):
                TokenShard.open(self.out / name)
        except (OSError, ValueError):
            return False
        return True

    def prepare(self) -> None:
        """Write the tokenizer, and both sides of the corpus as its tokens."""
        texts = self.texts()
        tokenizer = BPETokenizer.train(
            texts.train_texts, self.model.vocab_size
        )
        tokenizer.save(self.out / TOKENIZER)
        for name, side in (
            ("train", texts.train_texts),
            ("validation", texts.validation_texts),
        ):
            TokenShard.write(self.out / name, side, tokenizer)

    def tokenizer(self) -> BPETokenizer:
        """The one that :meth:`prepare` has written."""
        return BPETokenizer.load(self.out / TOKENIZER)

    def finish(self, model: nn.Module, history: History) -> None:
        """Write the weights and the record, and forget the checkpoint."""
        checkpoint.save(self.out / WEIGHTS, model)
        options = {k: v for k, v in asdict(self).items() if k != "out"}
        begun = read_json(self.out / RECORD)
        write_record(
            self.out, {**begun, "options": options, **history.to_dict()}
        )
        checkpoint.remove(self.out / CHECKPOINT_NAME)

    def texts(self) -> Corpus:
        """The documents to learn from, and those to measure on."""
        if self.held_out is None:
            return load_corpus(self.corpus, documents=self.documents)
        if self.corpus != "austen":
            raise ValueError(
                f"held_out is {self.held_out!r} and the corpus "
                f"{self.corpus!r}; only novels of austen are held out by "
                "title. Leave held_out away, or give --corpus austen."
            )
        return without_novel(self.held_out)

    def recipe(self) -> running.Recipe:
        """The options as the recipe of a model."""
        windows = self.windows
        if windows == "auto":
            windows = "documents" if self.corpus == "world" else "anywhere"
        many = parallel.team().size > 1
        return running.Recipe(
            documents=self.documents or 0,
            model=self.model,
            train=self.training,
            windows=windows,
            corpus=self.corpus,
            seed=self.training.seed + runtime.seed_offset(),
            # Of several processes each is given its own device by train().
            device="cpu" if many else runtime.best_device().type,
        )

    def callbacks(self, tokenizer: BPETokenizer) -> list[Callback]:
        """What is written beside checkpoint and metrics."""
        taken = [running.snapshot_taker(self.out, tokenizer, self.snapshots)]
        curves = [tensorboard_callback(self.out)] if self.tensorboard else []
        return taken + curves


def without_novel(title: str) -> Corpus:
    """Jane Austen's chapters, one novel's held out.

    Raises:
        ValueError: none of the six has that title.
    """
    novels = load_novels()
    if title not in novels:
        raise ValueError(
            f"held_out is {title!r}; expected one of {', '.join(novels)}."
        )
    learned = [c for t, n in novels.items() if t != title for c in chapters(n)]
    sides = (
        tuple(Document(text) for text in side)
        for side in (learned, chapters(novels[title]))
    )
    return Corpus("austen", *sides)


def configured(arguments: Sequence[str]) -> Train:
    """``llmbook train``'s defaults, as ``--config`` among these names them.

    >>> configured(["train", "out", "--config", "austen"]).held_out
    'Persuasion'
    """
    name = "running"
    for word, after in zip(arguments, [*arguments[1:], ""], strict=False):
        if word.startswith("--config"):
            name = word.partition("=")[2] or after
    if name not in CONFIGS:
        name = "running"  # and the parser says what is wrong
    return Train(out=tyro.MISSING, config=name, **CONFIGS[name]())


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
    repetition_penalty: float = 1.0
    """Above 1 what was said before becomes less likely."""
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
            repetition_penalty=self.repetition_penalty,
        ):
            count += 1
            if token != end:
                ids.append(token)
        print(visible(shown + tokenizer.decode(ids)))
        return f"{count} tokens from {self.model}"
