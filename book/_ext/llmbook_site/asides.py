"""Block quotes that speak: **Question.** and **Aside.**

In the notebook they are plain block quotes. On the page a question stands
out and an aside goes to the margin; in print both are set apart.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

KINDS = {"Question.": "llm-question", "Aside.": "llm-aside"}


class MarkQuotes(SphinxTransform):
    """Give a block quote the class that its first bold word asks for."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for quote in self.document.findall(nodes.block_quote):
            strong = next(iter(quote.findall(nodes.strong)), None)
            kind = KINDS.get(strong.astext()) if strong else None
            if kind is None:
                continue
            quote["classes"].append(kind)
            strong["classes"].append("llm-lead")
            if kind == "llm-aside":
                quote["classes"].append("margin")


class PrintQuotes(SphinxPostTransform):
    """In print, a quote with a class becomes an environment of its name."""

    default_priority = 500
    formats = ("latex",)

    def run(self, **kwargs: Any) -> None:
        for quote in list(self.document.findall(nodes.block_quote)):
            for kind in set(quote["classes"]) & set(KINDS.values()):
                name = kind.replace("-", "")
                begin, end = rf"\begin{{{name}}}", rf"\end{{{name}}}"
                quote.replace_self(
                    [
                        nodes.raw("", f"\n{begin}", format="latex"),
                        *quote.children,
                        nodes.raw("", f"{end}\n", format="latex"),
                    ]
                )


def setup(app: Sphinx) -> None:
    """Add both transforms."""
    app.add_transform(MarkQuotes)
    app.add_post_transform(PrintQuotes)
