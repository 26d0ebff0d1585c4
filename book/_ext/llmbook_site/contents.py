"""The book's parts, as ``_toc.yml`` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from .places import STAGES_OF_PARTS, chapter_number


@dataclass(frozen=True)
class Part:
    """A part: its caption (empty for front and back matter), its pages."""

    caption: str
    pages: tuple[str, ...]

    @property
    def name(self) -> str:
        """The caption without its number.

        >>> Part("Part II. The model", ()).name
        'The model'
        """
        return self.caption.partition(". ")[2] or self.caption

    @property
    def number(self) -> str:
        """The number that the caption gives.

        >>> Part("Part II. The model", ()).number
        'Part II'
        """
        head, dot, _ = self.caption.partition(". ")
        return head if dot else ""

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages of a model's life that it covers."""
        return STAGES_OF_PARTS.get(self.name, ())


def parts(source: Path) -> list[Part]:
    """Every part of the book whose pages lie in ``source``."""
    tree = yaml.safe_load((source / "_toc.yml").read_text("utf-8"))
    return [
        Part(
            part.get("caption", ""),
            tuple(page["file"] for page in part["chapters"]),
        )
        for part in tree.get("parts", [])
    ]


def part_of(source: Path, docname: str) -> Part | None:
    """The part with a caption that a chapter stands in."""
    if chapter_number(docname) is None:
        return None
    found = [p for p in parts(source) if docname in p.pages and p.caption]
    return found[0] if found else None
