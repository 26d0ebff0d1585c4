"""What came in, what each rule took out, and what is left."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .collect import Rejected

EXAMPLES = 3  # of each rule that the report keeps
_EXCERPT = 80  # characters of an example


@dataclass(frozen=True)
class Prepared:
    """A document after everything that can be done to it alone.

    Args:
        id: where it came from.
        size: bytes it had there.
        text: what has become of it, or was left when it was rejected.
        rejected: the rule that it broke.
        guessed: the encoding it was taken for, if that had to be guessed.
        masked: placeholders put in, by kind.
        items: benchmark items found in it.
        content: hash of the normalised text.
        signature: for near duplicates.
    """

    id: str
    size: int
    text: str = ""
    rejected: Rejected | None = None
    guessed: str = ""
    masked: dict[str, int] = field(default_factory=dict)
    items: tuple[str, ...] = ()
    content: bytes = b""
    signature: np.ndarray | None = None


@dataclass
class Tally:
    """Documents, their bytes as they came, and a few of them to look at."""

    documents: int = 0
    bytes: int = 0
    examples: list[list[str]] = field(default_factory=list)

    def add(self, document: Prepared, why: str = "") -> None:
        """Count one document more."""
        self.documents += 1
        self.bytes += document.size
        if why and len(self.examples) < EXAMPLES:
            cut = document.text[:_EXCERPT]
            self.examples.append([document.id, why, cut])


@dataclass
class Report:
    """What went in, what each rule took out, and what is left.

    Args:
        came: all documents.
        removed: those left out, by rule.
        kept: those kept, by side.
        text_bytes: bytes of the text kept, by side.
        masked: placeholders put in, by kind.
        items: benchmark items found, and in how many documents.
        guessed: documents kept whose encoding was a guess, by encoding.
    """

    came: Tally = field(default_factory=Tally)
    removed: dict[str, Tally] = field(default_factory=dict)
    kept: dict[str, Tally] = field(default_factory=dict)
    text_bytes: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    guessed: dict[str, int] = field(default_factory=dict)

    headers = ("rule", "documents", "share", "bytes", "for example")

    def count(self, document: Prepared, rejected: Rejected | None) -> None:
        """Count a document that came, before it is said where it goes."""
        self.came.add(document)
        for name in document.items:
            self.items[name] = self.items.get(name, 0) + 1
        if rejected:
            tally = self.removed.setdefault(rejected.rule, Tally())
            tally.add(document, rejected.detail)
        else:
            for kind, number in document.masked.items():
                self.masked[kind] = self.masked.get(kind, 0) + number

    def keep(self, document: Prepared, side: str) -> None:
        """Count a document that is kept."""
        self.kept.setdefault(side, Tally()).add(document)
        size = len(document.text.encode())
        self.text_bytes[side] = self.text_bytes.get(side, 0) + size
        if name := document.guessed:
            self.guessed[name] = self.guessed.get(name, 0) + 1

    def table(self) -> list[list[Any]]:
        """Rows for ``plots.table(report.table(), report.headers)``."""
        all_documents = max(1, self.came.documents)
        rows = [("came in", self.came), *self.removed.items()]
        rows += [(f"kept: {side}", t) for side, t in self.kept.items()]
        return [
            [
                name,
                tally.documents,
                f"{tally.documents / all_documents:.1%}",
                tally.bytes,
                shown(*tally.examples[0]) if tally.examples else "",
            ]
            for name, tally in rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Report:
        """The report that :meth:`to_dict` wrote."""
        return cls(
            Tally(**plain["came"]),
            {name: Tally(**t) for name, t in plain["removed"].items()},
            {name: Tally(**t) for name, t in plain["kept"].items()},
            plain["text_bytes"],
            plain["masked"],
            plain["items"],
            plain["guessed"],
        )


def shown(id: str, why: str, text: str) -> str:
    """An example for a table: one line, nothing that Markdown acts on.

    >>> shown("a.txt", "2 is below 50", "| <b>kite</b>")
    'a.txt (2 is below 50): · ·b·kite·/b·'
    """
    line = " ".join(f"{id} ({why}): {text}".split())
    return "".join("·" if c in "`$*_|\\<>[]#~^" else c for c in line)
