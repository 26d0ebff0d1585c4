"""Every figure of the book: one palette, one style, one way to show it.

A figure is drawn with matplotlib in the light theme's colours. On screen it
becomes inline SVG whose colours are CSS variables, so that it follows the
page's theme; in print it is a PDF vector; elsewhere a PNG. Where a page does
not define the variables (Colab, JupyterLab), the light colours stand.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_hex
from matplotlib.figure import Figure as MplFigure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

# name: (light theme, dark theme). The light colours are what matplotlib
# draws; in SVG each becomes var(--llm-<name>, <light>).
PALETTE = {
    "ink": ("#24211d", "#e9e4da"),
    "paper": ("#fffdf8", "#191817"),
    "muted": ("#6a645b", "#a9a195"),
    "faint": ("#d8d1c4", "#45413b"),
    "accent": ("#a1294a", "#f08ba0"),
    "query": ("#235fa4", "#7fb5f0"),
    "key": ("#a65400", "#eba850"),
    "value": ("#00755b", "#57c4a6"),
    "stage-1": ("#6b5794", "#b9a6e0"),
    "stage-2": ("#2b7590", "#79bdd6"),
    "stage-3": ("#4f7438", "#a3c987"),
    "stage-4": ("#966a00", "#dfb75b"),
    "stage-5": ("#a4483b", "#ee9c8e"),
}
INK, PAPER, MUTED, FAINT, ACCENT, QUERY, KEY, VALUE = (
    light for light, _ in list(PALETTE.values())[:8]
)
STAGES = [PALETTE[f"stage-{n}"][0] for n in range(1, 6)]
SERIES = [ACCENT, STAGES[1], STAGES[3], STAGES[0], INK, MUTED]

SEQUENTIAL = "llmbook"
LEVELS = 64  # steps of the sequential scale: finer than the eye tells
_LIGHT_STOPS = (
    "#fbf7ee",
    "#f3dcc0",
    "#e2a888",
    "#b5526d",
    "#7d3564",
    "#3a1a45",
)
_DARK_STOPS = (
    "#23201e",
    "#42264a",
    "#763863",
    "#b95f74",
    "#e9b18b",
    "#fcefd2",
)
_TURN = 36  # from this level on paper reads better than ink, in both themes

WIDTH = 5.2  # inches: the measure of the printed text
TEXT_SIZE = 9.0  # points: a caption's size
FIGURE_MIME = "application/vnd.llmbook.figure+json"
_FONTS = ("Llmbook Sans", "DejaVu Sans", "Noto Sans CJK SC")
_FONT_FILES = Path(__file__).with_name("fonts")


def _levels(stops: Sequence[str]) -> list[str]:
    scale = LinearSegmentedColormap.from_list("stops", stops)
    return [to_hex(scale(i / (LEVELS - 1))) for i in range(LEVELS)]


SEQUENTIAL_LIGHT = _levels(_LIGHT_STOPS)
SEQUENTIAL_DARK = _levels(_DARK_STOPS)


def css_variables(theme: str = "light") -> str:
    """The palette as CSS declarations, for the site's style sheet.

    >>> css_variables("dark").splitlines()[0]
    '--llm-ink: #e9e4da;'
    """
    if theme not in ("light", "dark"):
        raise ValueError(f"theme is {theme!r}; expected 'light' or 'dark'.")
    pick = 0 if theme == "light" else 1
    scale = (SEQUENTIAL_LIGHT, SEQUENTIAL_DARK)[pick]
    lines = [f"--llm-{k}: {v[pick]};" for k, v in PALETTE.items()]
    lines += [f"--llm-seq-{i}: {c};" for i, c in enumerate(scale)]
    return "\n".join(lines)


def css(color: str) -> str:
    """A palette colour as CSS that follows the theme.

    >>> css(QUERY)
    'var(--llm-query, #235fa4)'
    """
    name = _NAMES.get(to_hex(color))
    return f"var(--llm-{name}, {to_hex(color)})" if name else to_hex(color)


_NAMES = {light: name for name, (light, _) in PALETTE.items()}
_NAMES |= {color: f"seq-{i}" for i, color in enumerate(SEQUENTIAL_LIGHT)}
_NAMES |= {"#000000": "ink", "#ffffff": "paper"}


def use() -> None:
    """Take the book's style; in a notebook, draw stray figures as vectors."""
    if SEQUENTIAL not in matplotlib.colormaps:
        matplotlib.colormaps.register(
            ListedColormap(SEQUENTIAL_LIGHT, SEQUENTIAL)
        )
    for path in sorted(_FONT_FILES.glob("*.ttf")):
        font_manager.fontManager.addfont(path)
    known = set(font_manager.get_font_names())
    plt.rcParams.update(_STYLE)
    plt.rcParams["font.family"] = [f for f in _FONTS if f in known]
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", "pdf")


_STYLE = {
    "figure.figsize": (WIDTH, 2.7),
    "figure.constrained_layout.use": True,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": TEXT_SIZE,
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT_SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=SERIES),
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "font.size": TEXT_SIZE,
    "mathtext.fontset": "stix",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": TEXT_SIZE - 0.5,
    "ytick.labelsize": TEXT_SIZE - 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "patch.edgecolor": INK,
    "hatch.color": MUTED,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "image.cmap": SEQUENTIAL,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Figure:
    """A figure that shows itself wherever a notebook is read.

    Args:
        html: what a page shows: inline SVG or a widget's markup.
        pdf: the vector that is printed.
        png: the picture where nothing else is understood.
        alt: what a reader who cannot see it needs to know.
        caption: Markdown with ``$math$``, without a number.
        name: its label: ``{numref}`name``` refers to it.
        extra: further entries of the bundle, by MIME type.

    >>> print(Figure("<b></b>", alt="A dot.", caption="", name="fig-dot"))
    A dot.
    """

    html: str
    pdf: bytes | None = field(default=None, repr=False)
    png: bytes | None = field(default=None, repr=False)
    alt: str = ""
    caption: str = ""
    name: str = ""
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise ValueError(
                "alt is empty; say in words what the figure shows."
            )
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise ValueError(
                f"name is {self.name!r}; expected a label such as "
                "'fig-05-scores' (lower case, digits, hyphens)."
            )

    def __str__(self) -> str:
        return self.alt

    def to_html(self) -> str:
        """A whole ``<figure>``, caption included."""
        caption = caption_html(self.caption)
        below = f"<figcaption>{caption}</figcaption>" if caption else ""
        return (
            '<figure class="llm-figure" style="margin: 1em 0; color: '
            f'{css(INK)}; background: {css(PAPER)}">{self.html}'
            f"{below}</figure>"
        )

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> dict[str, Any]:
        bundle = {
            "text/plain": self.alt,
            "text/html": self.to_html(),
            FIGURE_MIME: {
                "kind": "figure",
                "alt": self.alt,
                "caption": self.caption,
                "name": self.name,
                "html": self.html,
            },
            **self.extra,
        }
        if self.pdf:
            bundle["application/pdf"] = base64.b64encode(self.pdf).decode()
        if self.png:
            bundle["image/png"] = base64.b64encode(self.png).decode()
        return bundle


def caption_html(caption: str) -> str:
    """A caption's Markdown as HTML, where no book builder reads it.

    >>> caption_html("The *query* asks `q @ k`.")
    'The <em>query</em> asks <code>q @ k</code>.'
    """
    pieces = re.split(r"(\$[^$]+\$)", caption)
    for i in range(0, len(pieces), 2):
        text = html.escape(pieces[i], quote=False)
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
        text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
        pieces[i] = re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
    pieces[1::2] = [html.escape(p, quote=False) for p in pieces[1::2]]
    return "".join(pieces)


def figure(fig: MplFigure, *, alt: str, caption: str, name: str) -> Figure:
    """A matplotlib figure as the book's :class:`Figure`; it is closed."""
    pdf = _saved(fig, "pdf", name, transparent=True)
    png = _saved(fig, "png", name, dpi=192)
    svg = themed_svg(_saved(fig, "svg", name, transparent=True), name, alt)
    plt.close(fig)
    return Figure(svg, pdf, png, alt=alt, caption=caption, name=name)


def show(
    fig: MplFigure | Figure,
    *,
    alt: str = "",
    caption: str = "",
    name: str = "",
) -> None:
    """Display ``fig`` as a numbered figure of the book."""
    if not isinstance(fig, Figure):
        fig = figure(fig, alt=alt, caption=caption, name=name)
    try:
        from IPython.display import display
    except ImportError:
        print(fig)
    else:
        display(fig)


def _saved(fig: Any, kind: str, name: str, **options: Any) -> bytes:
    metadata = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
    }[kind]
    target = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": name}):
        fig.savefig(target, format=kind, metadata=metadata, **options)
    return target.getvalue()


def themed_svg(svg: bytes | str, name: str, alt: str) -> str:
    """Matplotlib's SVG made ready to stand inside a page.

    Colours become CSS variables, ids become ``name``'s own (several figures
    share a page), comments and unused ids go, and ``alt`` is its label.
    """
    text = svg.decode() if isinstance(svg, bytes) else svg
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<!--.*?-->\n?|<metadata>.*?</metadata>\n?", "", text, flags=re.S
    )
    text = _own_ids(text, name)
    text = re.sub(r"#[0-9a-f]{6}(?=[;\"\s])", lambda m: css(m[0]), text)
    text = re.sub(r' (d|x|y)="([^"]*)"', _rounded, text)
    head = re.match(r"<svg[^>]*>", text)[0]
    box = re.search(r'viewBox="([^"]*)"', head)[1]
    share = min(1.0, float(box.split()[2]) / (72 * WIDTH))
    new = (
        f'<svg class="llm-svg" role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="{box}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" style="display: block; '
        f'margin: 0 auto; width: {share:.1%}; height: auto">'
    )
    return re.sub(r"\n\s*", " ", new + text[len(head) :]).strip()


def _own_ids(text: str, name: str) -> str:
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]*)"',
        lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "",
        text,
    )
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)


def _rounded(match: re.Match) -> str:
    numbers = re.sub(
        r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", match[2]
    )
    return f' {match[1]}="{" ".join(numbers.split())}"'


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Table:
    """A table whose numbers a cell computed; see :func:`table`."""

    rows: tuple[tuple[str, ...], ...]
    headers: tuple[str, ...]
    right: tuple[bool, ...]
    caption: str = ""
    name: str = ""

    def __str__(self) -> str:
        return self._repr_markdown_()

    def _repr_markdown_(self) -> str:
        rule = ["---:" if r else ":---" for r in self.right]
        lines = [self.headers, rule, *self.rows]
        text = [
            "| " + " | ".join(c.replace("|", r"\|") for c in line) + " |"
            for line in lines
        ]
        return "\n".join(text) + (f"\n\n{self.caption}" * bool(self.caption))

    def _repr_html_(self) -> str:
        def line(cells: Sequence[str], tag: str) -> str:
            scope = ' scope="col"' if tag == "th" else ""
            sides = ["right" if right else "left" for right in self.right]
            inner = "".join(
                f'<{tag}{scope} style="text-align: {side}">'
                f"{caption_html(cell)}</{tag}>"
                for cell, side in zip(cells, sides, strict=True)
            )
            return f"<tr>{inner}</tr>"

        caption = caption_html(self.caption)
        top = f"<caption>{caption}</caption>" if caption else ""
        body = "".join(line(row, "td") for row in self.rows)
        return (
            f'<table class="llm-table">{top}<thead>'
            f"{line(self.headers, 'th')}</thead><tbody>{body}</tbody></table>"
        )

    def _repr_latex_(self) -> str:
        columns = "".join("r" if r else "l" for r in self.right)
        lines = [
            " & ".join(_latex(c) for c in row) + r" \\"
            for row in (self.headers, *self.rows)
        ]
        lines.insert(1, r"\midrule")
        return "\n".join(
            [
                rf"\begin{{center}}\begin{{tabular}}{{{columns}}}\toprule",
                *lines,
                r"\bottomrule\end{tabular}\end{center}",
            ]
        )

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> dict[str, Any]:
        return {
            "text/plain": str(self),
            "text/markdown": self._repr_markdown_(),
            "text/html": self._repr_html_(),
            "text/latex": self._repr_latex_(),
            FIGURE_MIME: {
                "kind": "table",
                "headers": list(self.headers),
                "rows": [list(row) for row in self.rows],
                "right": list(self.right),
                "caption": self.caption,
                "name": self.name,
            },
        }


def table(
    rows: Sequence[Sequence[Any]],
    headers: Sequence[str],
    caption: str | None = None,
    name: str | None = None,
    digits: int = 2,
) -> Table:
    """A table for page, print and plain Markdown.

    Floats are rounded to ``digits`` places; whole numbers get a thin comma;
    a column of numbers is set to the right. Strings may hold Markdown.

    >>> print(table([["loss", 1.234]], ["what", "nats"]))
    | what | nats |
    | :--- | ---: |
    | loss | 1.23 |
    """
    rows = [list(row) for row in rows]
    wrong = [row for row in rows if len(row) != len(headers)]
    if wrong or not rows:
        raise ValueError(
            f"every row needs {len(headers)} cells, one a header; got "
            f"{wrong[0] if wrong else 'no rows'}."
        )
    number = (int, float, np.integer, np.floating)
    right = tuple(
        all(isinstance(row[i], number) for row in rows)
        for i in range(len(headers))
    )
    text = tuple(tuple(_cell(c, digits) for c in row) for row in rows)
    return Table(text, tuple(headers), right, caption or "", name or "")


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return f"{value:,.{digits}f}"
    return str(value)


def _latex(text: str) -> str:
    pieces = re.split(r"(\$[^$]+\$)", text)
    for i in range(0, len(pieces), 2):
        pieces[i] = re.sub(r"\\", r"\\textbackslash{}", pieces[i])
        pieces[i] = re.sub(r"([&%#_{}$])", r"\\\1", pieces[i])
        pieces[i] = pieces[i].replace(
            r"\textbackslash\{\}", r"\textbackslash{}"
        )
        pieces[i] = pieces[i].replace("~", r"\textasciitilde{}")
        pieces[i] = pieces[i].replace("^", r"\textasciicircum{}")
        pieces[i] = re.sub(r"`([^`]+)`", r"\\texttt{\1}", pieces[i])
        pieces[i] = re.sub(r"\*\*([^*]+)\*\*", r"\\textbf{\1}", pieces[i])
        pieces[i] = re.sub(r"\*([^*]+)\*", r"\\emph{\1}", pieces[i])
    return "".join(pieces)


# -------------------------------------------------------------- diagrams


def canvas(height: float, width: float = WIDTH) -> tuple[MplFigure, Axes]:
    """An empty sheet for a diagram, measured in inches from bottom left."""
    fig = plt.figure(figsize=(width, height))
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return fig, ax


def box(
    ax: Axes,
    x: float,
    y: float,
    w: float,
    h: float,
    label: str = "",
    *,
    color: str = INK,
    filled: bool = False,
    size: float = TEXT_SIZE,
    rounding: float = 0.05,
) -> FancyBboxPatch:
    """A rounded box, ``(x, y)`` its lower left corner, label in the middle.

    ``filled`` paints it in ``color`` and sets the label in the paper's.
    """
    style = f"round,pad=0,rounding_size={rounding}"
    if not filled:  # a tint that works on either theme's paper
        ax.add_patch(
            FancyBboxPatch((x, y), w, h, style, fc=color, alpha=0.1, lw=0)
        )
    fill = color if filled else "none"
    patch = FancyBboxPatch((x, y), w, h, style, fc=fill, ec=color, lw=0.9)
    ax.add_patch(patch)
    ax.text(
        x + w / 2,
        y + h / 2 + 0.01,  # the eye centres on the small letters
        label,
        ha="center",
        va="center" if "\n" in label else "center_baseline",
        color=PAPER if filled else INK,
        size=size,
        linespacing=1.1,
    )
    return patch


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    label: str = "",
    *,
    color: str = MUTED,
    bend: float = 0.0,
    width: float = 0.9,
    offset: tuple[float, float] | None = None,
) -> FancyArrowPatch:
    """An arrow from ``start`` to ``end`` with a label (a shape, say).

    The label stands above the middle of a level arrow, to the right of a
    steep one, or ``offset`` inches from the middle.
    """
    patch = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>,head_length=3.2,head_width=1.7",
        connectionstyle=f"arc3,rad={bend}",
        mutation_scale=1,
        joinstyle="miter",
        shrinkA=0,
        shrinkB=0,
        linewidth=width,
        color=color,
    )
    ax.add_patch(patch)
    if label:
        _arrow_label(ax, start, end, label, offset)
    return patch


def _arrow_label(
    ax: Axes, start: Any, end: Any, label: str, offset: Any
) -> None:
    level = abs(end[0] - start[0]) >= abs(end[1] - start[1])
    above = level and not offset
    dx, dy = offset or ((0.0, 0.05) if level else (0.06, 0.0))
    ax.text(
        (start[0] + end[0]) / 2 + dx,
        (start[1] + end[1]) / 2 + dy,
        label,
        size=TEXT_SIZE - 1,
        color=MUTED,
        ha="center" if above else "left",
        va="bottom" if above else "center",
    )


def token_strip(
    ax: Axes,
    x: float,
    y: float,
    tokens: Sequence[str],
    *,
    width: float = WIDTH,
    height: float = 0.28,
    color: str = INK,
    lit: Sequence[int] = (),
    numbers: Sequence[Any] | None = None,
) -> list[tuple[float, float]]:
    """Tokens as a row of boxes within ``width``; returns their middles.

    ``lit`` tokens are filled; ``numbers`` (ids, positions) stand beneath.
    """
    gap = 0.04
    w = (width - gap * (len(tokens) - 1)) / len(tokens)
    look = {"color": color, "size": TEXT_SIZE - 0.5, "rounding": 0.03}
    below = {"ha": "center", "va": "top", "color": MUTED}
    middles = []
    for i, token in enumerate(tokens):
        left = x + i * (w + gap)
        text = token_text(token)
        box(ax, left, y, w, height, text, filled=i in lit, **look)
        middles.append((left + w / 2, y + height / 2))
        if numbers is not None:
            where = (left + w / 2, y - 0.05)
            ax.text(*where, str(numbers[i]), size=TEXT_SIZE - 1.5, **below)
    return middles


def token_text(token: str) -> str:
    """A token as a figure prints it: spaces and line ends made visible.

    >>> token_text(" kite\\n")
    '␣kite↵'
    """
    text = token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return text.replace("$", r"\$")


def heatmap(
    ax: Axes,
    matrix: Any,
    rows: Sequence[str] | None = None,
    cols: Sequence[str] | None = None,
    *,
    mask: Any = None,
    values: bool = True,
    format: str = "{:.2f}",
    vmin: float | None = 0.0,
    vmax: float | None = None,
    size: float = TEXT_SIZE - 1,
) -> QuadMesh:
    """A matrix as cells, each with its value; hatched where masked.

    Args:
        matrix: (rows, columns) of numbers.
        mask: True where a cell counts (as ``causal_mask`` gives it); the
            others are hatched, and so are infinities and NaN.
        vmin, vmax: the ends of the scale; None takes the matrix's own.
    """
    data = np.asarray(matrix, dtype=float)
    keep = np.isfinite(data)
    if mask is not None:
        keep &= np.asarray(mask, dtype=bool)
    low = data[keep].min() if vmin is None else vmin
    high = data[keep].max() if vmax is None else vmax
    look = {"cmap": SEQUENTIAL, "edgecolor": PAPER, "linewidth": 0.8}
    shown = np.ma.array(data, mask=~keep)
    mesh = ax.pcolormesh(shown, vmin=low, vmax=high, **look)
    _hatch(ax, ~keep)
    _label_cells(ax, rows, cols, data.shape)
    if values:
        shares = (data - low) / ((high - low) or 1)
        _write_values(ax, data, shares, keep, format, size)
    return mesh


def _hatch(ax: Axes, cells: np.ndarray) -> None:
    for i, j in np.argwhere(cells):
        ax.add_patch(
            Rectangle((j, i), 1, 1, fc="none", ec=FAINT, hatch="////", lw=0)
        )


def _write_values(
    ax: Axes,
    data: np.ndarray,
    shares: np.ndarray,
    keep: np.ndarray,
    format: str,
    size: float,
) -> None:
    middle = {"ha": "center", "va": "center_baseline", "size": size}
    for i, j in np.argwhere(keep):
        color = cell_text_color(shares[i, j])
        text = format.format(data[i, j])
        ax.text(j + 0.5, i + 0.5, text, color=color, **middle)


def cell_text_color(share: float) -> str:
    """Ink on the scale's light half, paper on its dark half."""
    return PAPER if share * LEVELS >= _TURN else INK


def _label_cells(
    ax: Any, rows: Any, cols: Any, shape: tuple[int, int]
) -> None:
    ax.set(xlim=(0, shape[1]), ylim=(shape[0], 0), aspect="equal")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    for axis, labels, n in (
        (ax.yaxis, rows, shape[0]),
        (ax.xaxis, cols, shape[1]),
    ):
        names = [] if labels is None else [token_text(t) for t in labels]
        axis.set_ticks(np.arange(len(names)) + 0.5, names)
        if labels is not None and len(names) != n:
            raise ValueError(
                f"the matrix has shape {shape}, but {len(names)} labels "
                f"came for {n} cells: {list(labels)}."
            )
    if cols is not None and max(map(len, cols), default=0) > 3:
        plt.setp(
            ax.get_xticklabels(),
            rotation=45,
            ha="left",
            rotation_mode="anchor",
        )


def label_lines(ax: Axes, gap: float = 4, min_space: float = 10) -> None:
    """Write each line's label at its right end, in its own colour.

    Labels that would collide are moved apart by ``min_space`` points.
    """
    lines = [
        line
        for line in ax.get_lines()
        if not line.get_label().startswith("_") and len(line.get_xdata())
    ]
    ax.figure.draw_without_rendering()
    ends = [
        (ax.transData.transform(np.column_stack(line.get_data())[-1]), line)
        for line in lines
    ]
    points = 72 / ax.figure.dpi
    last = -np.inf
    for (_, y), line in sorted(ends, key=lambda end: end[0][1]):
        shifted = max(y * points, last + min_space)
        last = shifted
        ax.annotate(
            line.get_label(),
            np.column_stack(line.get_data())[-1],
            xytext=(gap, shifted - y * points),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            annotation_clip=False,
            size=TEXT_SIZE,
        )


# --------------------------------------------------------------- the map

STAGE_NAMES = (
    "Decide",
    "Data",
    "Architecture",
    "Pretraining",
    "Evaluation,\n    alignment",
)
MAP = (
    ("use case",),
    ("text", "tokens"),
    ("embeddings", "attention", "transformer"),
    ("pretraining", "sampling"),
    ("evaluation", "alignment"),
)


def book_map(lit: str | int | Sequence[str] = ()) -> MplFigure:
    """The book's map: five stages, their parts, the current part lit.

    ``lit`` is a part ("attention"), several, or a stage's number (1 to 5).
    Give the result to :func:`show`.
    """
    lit = _lit_parts(lit)
    fig, ax = canvas(1.72)
    gap, h, rise, top = 0.14, 0.27, 0.46, 0.94
    w = (WIDTH - 0.02 - 4 * gap) / 5
    last = None
    for s, parts in enumerate(MAP):
        x = 0.01 + s * (w + gap)
        _stage_title(ax, s, x, w, any(part in lit for part in parts))
        for p, part in enumerate(parts):
            y = top - p * rise
            box(ax, x, y, w, h, part, color=STAGES[s], filled=part in lit)
            if p:
                arrow(ax, (x + w / 2, y + rise), (x + w / 2, y + h))
            elif last:
                _elbow(ax, last, (x, y + h / 2))
            last = (x + w, y + h / 2)
    return fig


def _stage_title(ax: Axes, s: int, x: float, w: float, on: bool) -> None:
    color = STAGES[s]
    ax.add_patch(Rectangle((x, 1.32), w, 0.03, fc=color, ec="none"))
    ax.text(
        x,
        1.40,
        f"{s + 1}  {STAGE_NAMES[s]}",
        va="baseline",
        color=color,
        weight="bold" if on else "normal",
        size=TEXT_SIZE - 0.5,
        linespacing=0.9,
    )


def _lit_parts(lit: str | int | Sequence[str]) -> set[str]:
    if isinstance(lit, int):
        if not 1 <= lit <= len(MAP):
            raise ValueError(f"stage is {lit}; expected 1 to {len(MAP)}.")
        return set(MAP[lit - 1])
    chosen = {lit} if isinstance(lit, str) else set(lit)
    known = {part for parts in MAP for part in parts}
    if chosen - known:
        raise ValueError(
            f"lit is {sorted(chosen - known)}; expected parts of the map: "
            f"{', '.join(sorted(known))}."
        )
    return chosen


def _elbow(ax: Any, start: Any, end: Any) -> None:
    middle = (start[0] + end[0]) / 2
    ax.plot(
        [start[0], middle, middle],
        [start[1], start[1], end[1]],
        color=MUTED,
        linewidth=0.9,
        solid_joinstyle="miter",
        solid_capstyle="butt",
    )
    arrow(ax, (middle, end[1]), end)
