"""A run's history as JSON lines, readable while it is made; TensorBoard."""

from __future__ import annotations

import json
import os
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from llmbook import parallel
from llmbook.checkpoint import (
    CheckpointError,
    CheckpointWarning,
    sweep,
    why_not_written,
)

if TYPE_CHECKING:
    from .run import Callback, History

METRICS_NAME = "metrics.jsonl"
CURVE_SECONDS = 10  # until a number is on the disk for TensorBoard


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, whether it still runs or not.

    A step's line has ``step`` (from 1), ``loss`` (nats a token),
    ``learning_rate``, ``gradient_norm``, and ``tokens`` and ``seconds`` of
    the run so far; an evaluation's has ``step`` and ``validation_loss``. A
    line that is being written is left out.

    Raises:
        OSError: there is no such file.
    """
    rows = []
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # half a line: of a full disk, or not yet whole
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def rows_of(
    history: History, written: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The lines of a history, in the order of the run.

    Those ``written`` that agree with it are kept. A line made anew has its
    share of the run's tokens and seconds.
    """
    measured = dict(history.evaluations)
    known = {row["step"]: row for row in written if "loss" in row}
    rows: list[dict[str, Any]] = []
    for step in range(history.steps + 1):
        if step:
            row = {
                "step": step,
                "loss": history.loss[step - 1],
                "learning_rate": history.learning_rate[step - 1],
                "gradient_norm": history.gradient_norm[step - 1],
                "tokens": history.tokens * step // history.steps,
                "seconds": round(history.seconds * step / history.steps, 3),
            }
            before = known.get(step, {})
            rows.append(before if before.get("loss") == row["loss"] else row)
        if step in measured:
            rows.append({"step": step, "validation_loss": measured[step]})
    return rows


class Metrics:
    """Writes a run's lines, each as soon as it is known.

    Args:
        path: the file; lines of another run in it are forgotten.
        history: where the run stands: later lines are cut off.

    Raises:
        CheckpointError: the file cannot be written.
    """

    def __init__(self, path: Path, history: History) -> None:
        self.path, self.whole = path, True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path)
            self.rewrite(history)
        except OSError as error:
            raise CheckpointError(why_not_written(path, error)) from error

    def rewrite(self, history: History) -> None:
        """Make the file agree with ``history``; lines that do are kept."""
        rows = []
        if self.path.is_file():
            known = read_metrics(self.path)
            rows = [row for row in known if row["step"] <= history.steps]
        if not _agree(rows, history):
            rows = rows_of(history, rows)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)
        self.whole = True

    def add(self, row: dict[str, Any]) -> None:
        """Write one line; where the disk is full, warn and go on."""
        if not self.whole:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self.whole = False
            warnings.warn(
                f"step {row['step']} is missing in {self.path} ({error}). "
                "Training goes on; the lines are written once there is room.",
                CheckpointWarning,
                stacklevel=2,
            )

    def mend(self, history: History) -> None:
        """Write the lines that could not be written, if there were any."""
        if not self.whole:
            try:
                self.rewrite(history)
            except OSError:
                return  # the next time, then


def _agree(rows: list[dict[str, Any]], history: History) -> bool:
    losses = [row["loss"] for row in rows if "loss" in row]
    key = "validation_loss"
    measured = [(row["step"], row[key]) for row in rows if key in row]
    return losses == history.loss and measured == history.evaluations


def tensorboard_callback(run_dir: str | Path) -> Callback:
    """A callback that writes a run's curves for TensorBoard.

    Give it to :func:`llmbook.train.train` and look at the curves with
    ``tensorboard --logdir RUN_DIR``, also while it runs. A resumed run goes
    on with them.

    Raises:
        ImportError: the package ``tensorboard`` is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "curves for TensorBoard need the package tensorboard, which is "
            "not installed: pip install tensorboard. The same numbers stand "
            f"in {METRICS_NAME} of the run's folder."
        ) from error
    writer: Any = None

    def write(step: int, model: nn.Module, history: History) -> None:
        nonlocal writer
        if not parallel.team().speaks:
            return  # a model that is cut calls back in every process
        if writer is None:  # what a killed run wrote after this is dropped
            writer = SummaryWriter(
                str(run_dir), purge_step=step, flush_secs=CURVE_SECONDS
            )
            weakref.finalize(write, writer.close)  # at the latest, at exit
        if step:
            writer.add_scalar("loss", history.loss[-1], step)
            rate, norm = history.learning_rate[-1], history.gradient_norm[-1]
            writer.add_scalar("learning rate", rate, step)
            writer.add_scalar("gradient norm", norm, step)
        if history.evaluations and history.evaluations[-1][0] == step:
            found = history.evaluations[-1][1]
            writer.add_scalar("validation loss", found, step)

    return write
