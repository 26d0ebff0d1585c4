"""What the stages of ``llmbook align`` share: a run from begin to end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import tyro

from llmbook import aligned, checkpoint, lora, runtime
from llmbook.alignment import LoRAChoice, Tuned, save_chat_model
from llmbook.config import TrainConfig
from llmbook.model import GPT
from llmbook.tokenizer import Tokenizer
from llmbook.train import CHECKPOINT_NAME

from . import runs
from .models import own_chat_model, read_chat_model
from .notes import note

WORLD = "world"
NAMES = ("model", "data", "validation")  # of what may move between two runs
NOT_THE_RUN = ("out", "resume", "export", *NAMES)


class Outcome(NamedTuple):
    """A number that a run should change, before it and after."""

    of: str
    before: float
    after: float


@dataclass
class Stage:
    """What the stages have in common.

    Each says how examples are read or drawn from the world (``read``,
    ``of_world``), which of them fit (``fitting``), how one learns from them
    (``tuned``), and what a model's ``score`` on them is.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """New folder for the model, its tokenizer and its record."""
    model: str | None = None
    """A folder that `train` or `align` filled, or that holds a GPT-2, Llama
    or Mistral in Hugging Face's format; else the book's own model."""
    data: str = WORLD
    """"world", or a file of JSON Lines."""
    validation: Path | None = None
    """A file like the data's to measure on; the world brings its own."""
    training: TrainConfig = field(default_factory=TrainConfig)
    lora_rank: int | None = None
    """Learn adapters of this rank alone, by AdamW; they are merged into the
    model, and kept beside it."""
    resume: bool = False
    """Go on with the run that was stopped in the folder."""
    export: bool = False
    """Write the model in Hugging Face's format too, with a chat template."""

    stage: ClassVar[str]
    number: ClassVar[str]  # what a run should change, of examples {}

    def run(self) -> str:
        runs.check_folder(self.out, self.resume)
        model, tokenizer = self.begun()
        learned, judged = self.examples()
        shown = self.shown(model, tokenizer, learned, judged)
        before = self.score(model, tokenizer, shown)
        settings = self.settings() | {"weights": lora.fingerprint(model)}
        runs.begin(self.out, settings, self.names())
        try:
            tuned = self.tuned(model, tokenizer, learned, judged)
        except KeyboardInterrupt:
            if checkpoint.is_kept(self.out / CHECKPOINT_NAME):
                note("the same command with --resume goes on from here")
            raise
        if self.lora_rank is not None:
            lora.save(self.out / runs.ADAPTERS, tuned.model)
            lora.merge(tuned.model)
        after = self.score(tuned.model, tokenizer, shown)
        whose = "learned from" if judged is None else "held out"
        outcome = Outcome(self.number.format(whose), before, after)
        self.keep(tuned, outcome)
        return self.line(tuned, outcome)

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that is gone on with."""
        chosen = {
            k: v for k, v in asdict(self).items() if k not in NOT_THE_RUN
        }
        chosen["training"] = self.loop()["config"].to_dict()
        return {"stage": self.stage, **chosen}

    def names(self) -> dict[str, Any]:
        """What the run is made from, by the names that were given."""
        return {
            "command": f"llmbook align {self.stage}",
            **{name: as_text(getattr(self, name)) for name in NAMES},
        }

    def begun(self) -> tuple[GPT, Tokenizer]:
        """The model to start from; but for ``sft`` one that answers."""
        if self.model is None:
            return own_chat_model("sft")
        return read_chat_model(self.model)

    def examples(self) -> tuple[list[Any], list[Any] | None]:
        """What is learned from, and what is measured on, if anything."""
        if self.data == WORLD:
            learned, judged = self.of_world(self.seed)
        else:
            learned, judged = self.read(self.data), None
        if self.validation is not None:
            judged = self.read(self.validation)
        return learned, judged

    def shown(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        learned: list[Any],
        judged: list[Any] | None,
    ) -> list[Any]:
        """What the model is scored on before and after, as it takes it.

        Raises:
            ValueError: none of it fits into the model's context.
        """
        T = model.config.context_length
        if judged is None:
            fitting = self.fitting(tokenizer, learned, T)
            found = list(islice(fitting, aligned.JUDGED))
        else:
            found = list(self.fitting(tokenizer, judged, T))
        if not found:
            raise ValueError(
                "none of the examples to measure on fits into the model's "
                f"context of {T} tokens. Give shorter ones, or another model."
            )
        return found

    @property
    def seed(self) -> int:
        """What examples of the world are drawn by."""
        return self.training.seed + runtime.seed_offset()

    def loop(self) -> dict[str, Any]:
        """What every front end hands on to the training loop."""
        training, adapters = self.training, None
        if self.lora_rank is not None:
            adapters = LoRAChoice(rank=self.lora_rank)
            training = replace(training, optimizer="adamw")
        return {
            "config": training,
            "lora": adapters,
            "run_dir": self.out,
            "resume": self.resume,
        }

    def keep(self, tuned: Tuned, outcome: Outcome) -> None:
        """Write what came out."""
        if self.export:
            folder = self.out / runs.EXPORT
            save_chat_model(tuned.model, tuned.tokenizer, folder)
        found = {
            "outcome": outcome._asdict(),
            "left_out": tuned.left_out,
            "history": tuned.history.to_dict(),
            "measured": tuned.measured,
        }
        runs.finish(self.out, tuned.model, tuned.tokenizer, found)

    def line(self, tuned: Tuned, outcome: Outcome) -> str:
        """What to tell the user."""
        history = tuned.history
        left_out = tuned.left_out
        short = f"{left_out} examples did not fit; " if left_out else ""
        return (
            f"{outcome.of}: {outcome.before:.3f} before, {outcome.after:.3f} "
            f"after {history.steps} steps and {history.seconds:.0f} s; "
            f"{short}{self.out}"
        )


def as_text(value: object) -> str | None:
    """A value as JSON may hold it."""
    return None if value is None else str(value)
