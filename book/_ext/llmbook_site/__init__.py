"""What turns Jupyter Book's pages into this book: one Sphinx extension.

``figures`` numbers what code cells draw, ``numbers`` takes chapter numbers
from file names, ``asides`` styles questions and margin notes, ``solutions``
gathers the exercises' answers, ``pages`` holds the site's local scripts,
styles and addresses, ``printed`` the PDF.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from . import asides, figures, numbers, pages, printed, solutions


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect every part."""
    for part in (figures, numbers, asides, solutions, pages, printed):
        part.setup(app)
    return {
        "version": "1",
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
