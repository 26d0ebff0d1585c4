"""The colours of code in print: the palette's, as on the page."""

from __future__ import annotations

from typing import ClassVar

from pygments.style import Style
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    String,
    Token,
)

from llmbook import plots


class Code(Style):
    """Accent for keywords, the values' green for text, ochre for numbers."""

    styles: ClassVar = {
        Token: plots.INK,
        Comment: f"italic {plots.MUTED}",
        String.Doc: plots.MUTED,
        Keyword: plots.ACCENT,
        Operator.Word: plots.ACCENT,
        String: plots.VALUE,
        Number: plots.KEY,
        Name.Function: plots.QUERY,
        Name.Class: plots.QUERY,
        Name.Decorator: plots.QUERY,
    }
