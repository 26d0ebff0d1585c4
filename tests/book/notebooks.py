"""The committed notebooks, as the tests read them."""

from __future__ import annotations

import json
from pathlib import Path

from tools.chapters import chapters

SETUP_LINES = (
    "try:\n"
    "    import llmbook\n"
    "except ModuleNotFoundError:\n"
    '    !pip install -q "llmbook[book] @ git+https://github.com/llmbook/'
    'llmbook" --extra-index-url https://download.pytorch.org/whl/cpu\n'
)


def read(path: Path) -> dict:
    """A notebook as it lies in the file."""
    return json.loads(path.read_text(encoding="utf-8"))


def text_of(cell: dict) -> str:
    """A cell's source as one text."""
    return "".join(cell["source"])


def cells(path: Path, kind: str) -> list[dict]:
    """The cells of one kind, ``"code"`` or ``"markdown"``."""
    return [c for c in read(path)["cells"] if c["cell_type"] == kind]


def all_chapters() -> list[Path]:
    """The chapters; [] before there is a table of contents."""
    try:
        return chapters()
    except FileNotFoundError:
        return []
