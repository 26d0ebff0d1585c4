"""What an evaluation found: a table to read and a file to keep."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT, VERSION = "llmbook-evaluation", 1
WIDE = 10_000  # from here on, numbers are written with an exponent
COLUMNS = ("task", "metric", "n", "value", "stderr", "95 %", "chance")


@dataclass(frozen=True)
class Results:
    """The outcome of :func:`llmbook.evaluation.harness.evaluate`.

    Args:
        tasks: for each task its ``variant``, ``metrics`` (each with value,
            n, stderr, interval, chance), ``cut``, and ``examples``, the
            records of all items in order.
        about: model, options, versions, seeds, date.
    """

    tasks: dict[str, dict[str, Any]]
    about: dict[str, Any]

    def score(self, task: str, metric: str) -> float:
        """One number.

        Raises:
            ValueError: there is no such task or metric.
        """
        metrics = self.tasks.get(task, {}).get("metrics", {})
        if metric not in metrics:
            known = [f"{t} {m}" for t, m, _ in self._metrics()]
            raise ValueError(
                f"there is no {task} {metric}; expected one of "
                f"{', '.join(known)}."
            )
        return metrics[metric]["value"]

    def examples(self, task: str) -> list[dict[str, Any]]:
        """The records of a task's items."""
        return self.tasks[task]["examples"]

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells, as text: see ``COLUMNS``."""
        return [
            (
                task,
                metric,
                str(score["n"]),
                _number(score["value"]),
                _number(score["stderr"]),
                _interval(score["interval"]),
                _number(score["chance"]),
            )
            for task, metric, score in self._metrics()
        ]

    def table(self) -> str:
        """All scores as aligned text, names left and numbers right."""
        rows = [COLUMNS, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [
                cell.ljust(width) if number < 2 else cell.rjust(width)
                for number, (cell, width) in enumerate(
                    zip(row, widths, strict=True)
                )
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        head = {"format": FORMAT, "version": VERSION}
        return {**head, **self.about, "tasks": self.tasks}

    def to_json(self) -> str:
        """Everything, as JSON; a number that is none is an error."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON beside ``path`` and rename it into place."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")
        beside.write_text(self.to_json() + "\n", encoding="utf-8")
        os.replace(beside, path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: it is something else.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(
                f"{path} holds no results of an evaluation; expected a file "
                "that Results.save wrote."
            )
        about = {
            key: value
            for key, value in content.items()
            if key not in ("format", "version", "tasks")
        }
        return cls(content["tasks"], about)

    def _metrics(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for task, found in self.tasks.items():
            for metric, score in found["metrics"].items():
                yield task, metric, score


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if value < WIDE else f"{value:.4g}"


def _interval(bounds: list[float] | None) -> str:
    if bounds is None:
        return ""
    low, high = bounds
    if high < WIDE:
        return f"{low:.3f} to {high:.3f}"
    return f"{low:.3g} to {high:.3g}"
