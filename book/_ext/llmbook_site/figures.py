"""Figures and tables that code cells make, as numbered parts of the page.

A cell's output that holds ``application/vnd.llmbook.figure+json`` becomes
a figure (or table) of docutils: its caption is read as Markdown, its name
is a label, Sphinx numbers it, HTML shows inline SVG and print the vector.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import SphinxNbRenderer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llmbook import plots

from .places import STAGES_OF_PARTS

_stock_outputs = SphinxNbRenderer._render_nb_cell_code_outputs


class graphic(nodes.General, nodes.Element):
    """A drawing: markup for a page, a vector for print, words for both."""


def render_outputs(
    self: SphinxNbRenderer, token: Any, outputs: list[Any]
) -> None:
    """Render a cell's outputs, the book's figures and tables among them."""
    for output in outputs:
        own = output.get("data", {}).get(plots.FIGURE_MIME)
        if own is None:
            _stock_outputs(self, token, [output])
            continue
        make = table_node if own["kind"] == "table" else figure_node
        node = make(self, own, output["data"])
        self.add_line_and_source_path_r([node], token)
        self.current_node.append(node)
        if own["name"]:
            node["names"].append(own["name"])
            self.document.note_explicit_target(node, node)


def figure_node(
    renderer: SphinxNbRenderer, own: dict, data: dict
) -> nodes.figure:
    """A figure whose picture is a :class:`graphic`."""
    node = nodes.figure(
        "",
        graphic(
            html=own["html"],
            pdf=data.get("application/pdf", ""),
            alt=own["alt"],
            name=own["name"],
        ),
        classes=["llm-figure"],
    )
    if own["caption"]:
        node += inline(renderer, nodes.caption(), own["caption"])
    return node


def table_node(
    renderer: SphinxNbRenderer, own: dict, data: dict
) -> nodes.table:
    """A table whose cells are read as Markdown."""
    node = nodes.table(classes=["colwidths-auto", "llm-table"])
    if own["caption"]:
        node += inline(renderer, nodes.title(), own["caption"])
    group = nodes.tgroup(cols=len(own["headers"]))
    node += group
    group += [nodes.colspec(colwidth=1) for _ in own["headers"]]
    head, body = nodes.thead(), nodes.tbody()
    group += [head, body]
    for part, rows in ((head, [own["headers"]]), (body, own["rows"])):
        for cells in rows:
            row = nodes.row()
            part += row
            for cell, right in zip(cells, own["right"], strict=True):
                side = "text-right" if right else "text-left"
                text = inline(renderer, nodes.paragraph(), cell)
                row += nodes.entry("", text, classes=[side])
    return node


def inline(
    renderer: SphinxNbRenderer, node: nodes.Element, text: str
) -> nodes.Element:
    """``node`` filled with ``text``, read as inline Markdown."""
    with renderer.current_node_context(node):
        renderer.nested_render_text(text, 0, inline=True)
    return node


class StageMap(SphinxDirective):
    """``{stage-map}``: the five stages, drawn by :mod:`llmbook.plots`.

    The argument, if any, is what is lit; the content is the caption.
    """

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {
        "name": directives.unchanged_required,
        "alt": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        plots.use()
        lit = self.arguments[0].split(",") if self.arguments else ()
        name = self.options["name"]
        drawn = plots.figure(
            plots.book_map([part.strip() for part in lit]),
            alt=self.options["alt"],
            caption="",
            name=name,
        )
        node = nodes.figure("", graphic_of(drawn), classes=["llm-figure"])
        text = " ".join(self.content)
        children, _ = self.state.inline_text(text, self.lineno)
        node += nodes.caption(text, "", *children)
        node["names"].append(name)
        self.state.document.note_explicit_target(node, node)
        return [node]


class Cover(SphinxDirective):
    """``{cover}``: the title's attention map, on the first page alone."""

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "book" / "_static" / "cover.svg"
        self.env.note_dependency(str(path))
        drawing = path.read_text(encoding="utf-8")
        text = f'<div class="llm-cover">{drawing}</div>'
        return [nodes.raw("", text, format="html")]


def graphic_of(figure: plots.Figure) -> graphic:
    """A figure of the package as a node."""
    pdf = base64.b64encode(figure.pdf or b"").decode()
    return graphic(html=figure.html, pdf=pdf, alt=figure.alt, name=figure.name)


def visit_html(translator: Any, node: graphic) -> None:
    """Write the markup as it is."""
    translator.body.append(f'<div class="llm-graphic">{node["html"]}</div>')
    raise nodes.SkipNode


def visit_latex(translator: Any, node: graphic) -> None:
    """Lay the vector beside the TeX file and include it."""
    if not node["pdf"]:
        translator.body.append(translator.encode(node["alt"]))
        raise nodes.SkipNode
    name = f"{node['name']}.pdf"
    target = Path(translator.builder.outdir) / name
    target.write_bytes(base64.b64decode(node["pdf"]))
    translator.body.append(rf"\noindent\sphinxincludegraphics{{{name}}}")
    raise nodes.SkipNode


def visit_text(translator: Any, node: graphic) -> None:
    """Say what it shows."""
    translator.add_text(node["alt"])
    raise nodes.SkipNode


def draw_parts(app: Sphinx) -> None:
    """For print: the map that opens each part, its stages lit."""
    if app.builder.name != "latex":
        return
    plots.use()
    for part, stages in STAGES_OF_PARTS.items():
        lit = [name for s in stages for name in plots.MAP[s - 1]]
        drawn = plots.figure(
            plots.book_map(lit), alt=part, caption="", name="fig-part"
        )
        name = part_file(part)
        (Path(app.outdir) / name).write_bytes(drawn.pdf or b"")


def part_file(part: str) -> str:
    """The name of the file that holds a part's map.

    >>> part_file("The model")
    'part-the-model.pdf'
    """
    return f"part-{part.lower().replace(' ', '-')}.pdf"


def setup(app: Sphinx) -> None:
    """Take over the outputs that carry our MIME type."""
    SphinxNbRenderer._render_nb_cell_code_outputs = render_outputs
    app.add_node(
        graphic,
        html=(visit_html, None),
        latex=(visit_latex, None),
        text=(visit_text, None),
    )
    app.add_directive("stage-map", StageMap)
    app.add_directive("cover", Cover)
    app.connect("builder-inited", draw_parts)
