"""Where things lie, and what a page is within the book."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Part of the book: the stages (1 to 5) in a model's life that it covers.
STAGES_OF_PARTS = {
    "Text": (2,),
    "The model": (3,),
    "Training": (4,),
    "Evaluation": (5,),
    "Alignment": (5,),
    "A case study": (5,),
}


def root() -> Path:
    """The repository's root: the build runs in a copy of its pages."""
    named = os.environ.get("LLMBOOK_ROOT")
    if named:
        return Path(named)
    for folder in Path(__file__).resolve().parents:
        if (folder / "package.json").is_file():
            return folder
    raise FileNotFoundError(
        "package.json is in no folder above the extension; set LLMBOOK_ROOT "
        "to the repository's root."
    )


def node_modules() -> Path:
    """The folder of the web parts that npm installed."""
    named = os.environ.get("LLMBOOK_NODE_MODULES")
    return Path(named) if named else root() / "node_modules"


def chapter_number(docname: str) -> int | None:
    """A chapter's number, from its file's name; None for other pages.

    >>> chapter_number("book/05-attention"), chapter_number("book/preface")
    (5, None)
    """
    found = re.match(r"(\d+)-", docname.rsplit("/", 1)[-1])
    return int(found[1]) if found else None
