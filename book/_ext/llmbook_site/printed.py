"""The PDF: lualatex, a page like a book's, parts and matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform

from llmbook import plots

from .contents import parts
from .figures import part_file
from .places import chapter_number

LATE = 900
HERE = Path(__file__).parent
WIDE_CELL = 34  # letters: a column with a longer cell is a paragraph
LONG_TABLE = 12  # rows: a longer table may break over pages
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")
LINE_LETTERS = 80  # of text in a table's line


def configure(app: Sphinx, config: Config) -> None:
    """Set everything for LaTeX in one place."""
    config.latex_engine = "lualatex"
    config.latex_theme = "manual"
    config.pygments_style = "llmbook_site.code.Code"
    config.latex_docclass = {"manual": "book"}
    config.latex_toplevel_sectioning = "chapter"
    config.latex_show_urls = "no"
    config.latex_show_pagerefs = False
    config.latex_domain_indices = False
    config.latex_use_xindy = False
    config.latex_table_style = ["booktabs"]
    config.latex_documents = [
        (
            config.root_doc,
            "llmbook.tex",
            config.html_title,
            config.author,
            "manual",
        )
    ]
    config.latex_elements = elements()
    cover = Path(app.srcdir) / "book" / "_static" / "cover.pdf"
    config.latex_additional_files = [str(cover)] if cover.is_file() else []


def elements() -> dict[str, str]:
    """The pieces of the TeX file that are ours."""
    colors = "\n".join(
        rf"\definecolor{{llm{name}}}{{HTML}}{{{light[1:].upper()}}}"
        for name, (light, _) in plots.PALETTE.items()
    )
    return {
        "papersize": "",
        "pointsize": "10pt",
        "extraclassoptions": "openany",
        "babel": r"\usepackage[english]{babel}",
        "polyglossia": "",
        "cmappkg": "",
        "fncychap": "",
        "fontpkg": (HERE / "fonts.tex").read_text("utf-8"),
        "sphinxsetup": SPHINX_SETUP,
        "fvset": r"\fvset{fontsize=\llmcode}",
        "geometry": r"\usepackage[paperwidth=189mm,paperheight=246mm,"
        "textwidth=132.08mm,textheight=189mm,inner=25mm,top=26mm,"
        r"headsep=8mm,footskip=11mm]{geometry}",
        "preamble": colors + (HERE / "preamble.tex").read_text("utf-8"),
        "maketitle": r"\llmtitlepage",
        "tableofcontents": r"\frontmatter\llmcontents",
        "printindex": "",
        "makeindex": "",
        "tocdepth": r"\setcounter{tocdepth}{1}",
        "secnumdepth": r"\setcounter{secnumdepth}{1}",
        "figure_align": "!htb",
    }


SPHINX_SETUP = ",".join(
    [
        "verbatimwithframe=false",
        "pre_border-width=0pt",
        "pre_border-radius=2pt",
        "pre_padding=5pt",
        "pre_box-shadow=none",
        "verbatimforcewraps=true",
        "verbatimhintsturnover=false",
        "VerbatimColor={HTML}{F7F4EC}",
        "VerbatimBorderColor={HTML}{F7F4EC}",
        "InnerLinkColor={HTML}{7A1F38}",
        "OuterLinkColor={HTML}{7A1F38}",
        "TitleColor={HTML}{24211D}",
        "div.topic_box-shadow=none",
    ]
)


class Matter(SphinxPostTransform):
    """Parts, chapter numbers, front and back matter before each page."""

    default_priority = 900
    formats = ("latex",)

    def run(self, **kwargs: Any) -> None:
        if self.app.builder.name != "latex":
            return
        before = self.commands()
        for page in list(self.document.findall(addnodes.start_of_file)):
            code = before.get(page["docname"])
            if code:
                page.insert(0, nodes.raw("", code, format="latex"))

    def commands(self) -> dict[str, str]:
        """What stands before each page of the book."""
        found: dict[str, str] = {}
        main = back = False
        for part in parts(Path(self.app.srcdir)):
            for i, page in enumerate(part.pages):
                number = chapter_number(page)
                code = ""
                if number is not None and not main:
                    code, main = r"\llmmain", True
                if number is None and main and not back:
                    code, back = r"\llmback", True
                if part.caption and i == 0 and number is not None:
                    drawing = part_file(part.name) if part.stages else ""
                    words = f"{{{part.number}}}{{{part.name}}}{{{drawing}}}"
                    code += rf"\llmpart{words}"
                if number is not None:
                    code += rf"\setcounter{{chapter}}{{{number - 1}}}"
                found[page] = code + "\n" if code else ""
        return found


class PrintCells(SphinxPostTransform):
    """Print a cell as the page shows it: hidden code stays out."""

    default_priority = 150
    formats = ("latex",)

    def run(self, **kwargs: Any) -> None:
        for cell in list(self.document.findall(nodes.container)):
            if cell.get("nb_element") != "cell_code":
                continue
            hidden = cell.get("hide_mode", "")
            for part in list(cell.children):
                kind = part.get("nb_element", "")
                if kind == "cell_code_source" and hidden in (
                    "input",
                    "input+output",
                    "all",
                ):
                    cell.remove(part)


class PrintTables(SphinxPostTransform):
    """Columns as wide as they need: short ones natural, long ones wrapped."""

    default_priority = 950
    formats = ("latex",)

    def run(self, **kwargs: Any) -> None:
        for table in list(self.document.findall(nodes.table)):
            rows = list(table.findall(nodes.row))
            columns = list(zip(*(row.children for row in rows), strict=False))
            widths = [longest(column) for column in columns]
            sides = [side(column) for column in columns]
            long = len(rows) > LONG_TABLE
            spec = table_spec(widths, sides, long)
            place = table.parent.index(table)
            hint = addnodes.tabular_col_spec(spec=f"{{{spec}}}")
            table.parent.insert(place, hint)
            table["align"] = "left"
            if long:
                table["classes"].append("longtable")


def longest(cells: tuple[nodes.Element, ...]) -> int:
    """The letters of a column's longest cell."""
    return max(len(cell.astext()) for cell in cells)


def side(cells: tuple[nodes.Element, ...]) -> str:
    """TeX's letter for where a column's text stands."""
    for cell in cells:
        for name in ("right", "center"):
            if f"text-{name}" in cell.get("classes", []):
                return name[0]
    return "l"


def table_spec(widths: list[int], sides: list[str], long: bool) -> str:
    """TeX's columns: natural where short, wrapped where a cell is long.

    A table that may break over pages needs its wrapped widths in advance,
    as shares of the line.

    >>> table_spec([6, 40], ["r", "l"], long=False)
    'rL'
    >>> table_spec([6, 70], ["l", "l"], long=True).replace(chr(92), ".")
    'l.Y{0.880}'
    """
    wide = [w > WIDE_CELL for w in widths]
    if not any(wide) and sum(w + 2 for w in widths) > LINE_LETTERS:
        wide = [w == max(widths) for w in widths]
    if not long or not any(wide):
        return "".join(
            s.upper() if w else s for s, w in zip(sides, wide, strict=True)
        )
    short = [w for w, is_wide in zip(widths, wide, strict=True) if not is_wide]
    left = 0.98 - sum(w + 2 for w in short) / LINE_LETTERS
    total = sum(w for w, is_wide in zip(widths, wide, strict=True) if is_wide)
    return "".join(
        rf"\Y{{{left * width / total:.3f}}}" if is_wide else one
        for one, width, is_wide in zip(sides, widths, wide, strict=True)
    )


def spell_lost(app: Sphinx, error: Exception | None) -> None:
    """Write as a command what LuaTeX does not take as a letter.

    A model that has learned nothing yet prints control characters and
    U+FFFD, which stands for bytes that are no UTF-8.
    """
    path = Path(app.outdir) / "llmbook.tex"
    if error is None and app.builder.name == "latex" and path.is_file():
        text = path.read_text("utf-8")
        path.write_text(UNPRINTABLE.sub(r"\\llmlost{}", text), "utf-8")


def setup(app: Sphinx) -> None:
    """Connect to Sphinx's events."""
    app.connect("config-inited", configure, priority=LATE)
    app.connect("build-finished", spell_lost)
    app.add_post_transform(Matter)
    app.add_post_transform(PrintCells)
    app.add_post_transform(PrintTables)
