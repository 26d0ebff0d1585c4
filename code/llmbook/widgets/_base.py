"""What the interactive figures share on Python's side.

One drawing function in JavaScript serves two homes: a page without a kernel,
where the figure's data and script stand in its HTML, and a notebook with one,
where the same script draws an anywidget model whose traits Python shares.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import json
import os
from importlib import resources
from typing import Any, ClassVar

import anywidget
import numpy as np
import traitlets
from matplotlib import pyplot as plt
from PIL import Image

from llmbook import plots

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
LIVE_VARIABLE = "LLMBOOK_LIVE"  # "0" or "1" overrides what is found
MAX_BYTES = 500_000  # of one figure in a page, its picture not counted
PICTURE_DPI = 128  # of the fall-back picture inside the page
ENOUGH_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3


def is_live() -> bool:
    """Whether this kernel belongs to a notebook that somebody has open.

    Jupyter's server names the notebook in ``JPY_SESSION_NAME``; a build that
    executes notebooks does not. Only a live kernel opens a widget model: in
    a stored page it would bring the whole widget manager along.
    """
    setting = os.environ.get(LIVE_VARIABLE, "")
    if setting in ("0", "1"):
        return setting == "1"
    return "JPY_SESSION_NAME" in os.environ


@functools.cache
def source(*names: str) -> str:
    """The package's own script or style files, one after the other."""
    folder = resources.files("llmbook.widgets") / "static"
    return "\n".join((folder / n).read_text("utf-8") for n in names)


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2, its definition).

    >>> luminance("#ffffff")
    1.0
    """
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in parts
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, from 1 to 21 (WCAG 2.2).

    >>> round(contrast("#000000", "#ffffff"), 6)
    21.0
    """
    low, high = sorted(luminance(color) + 0.05 for color in (one, other))
    return high / low


def text_on(color: str) -> str:
    """The text colour that is read on ``color``: ink, paper, or stronger.

    >>> text_on("#ffffff") == plots.INK
    True
    """
    for choices in ((plots.INK, plots.PAPER), ("#000000", "#ffffff")):
        best = max(choices, key=lambda choice: contrast(choice, color))
        if contrast(best, color) >= ENOUGH_CONTRAST:
            break
    return best


@functools.cache
def style(*sheets: str) -> str:
    """The figures' style sheet, both themes' colours included.

    ``sheets`` are a figure's own, beside what all share. The colours are
    those of :mod:`llmbook.plots`, set inside the figure, so that they are
    there in a notebook too, whose page does not define them.
    """
    rules = []
    for theme in ("light", "dark"):
        scale = getattr(plots, f"SEQUENTIAL_{theme.upper()}")
        on = [f"--on-{i}: {text_on(c)};" for i, c in enumerate(scale)]
        declared = plots.css_variables(theme).split("\n") + on
        selector = f'.root[data-theme="{theme}"]'
        rules.append(f"{selector} {{ {''.join(declared)} }}")
    rules += [
        f".level-{i} {{ background: var(--llm-seq-{i}); "
        f"color: var(--on-{i}) }}"
        for i in range(plots.LEVELS)
    ]
    return "\n".join([source("explorer.css", *sheets), *rules])


def escaped_json(data: Any) -> str:
    """JSON that can stand inside a ``<script>``, whatever its strings hold.

    >>> escaped_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def packed(values: np.ndarray, kind: str = "<f4") -> str:
    """Numbers as base64, of little-endian float32 where nothing is said."""
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def lean(png: bytes) -> bytes:
    """A picture with 256 colours and a third of the bytes."""
    target = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(target, "PNG", optimize=True)
    return target.getvalue()


class Explorer(anywidget.AnyWidget):
    """An interactive figure: shows itself in a page, shares traits live.

    A subclass names its ``kind`` (its script's file) and ``shared`` (the
    traits a reader moves), fills ``data`` and draws its ``picture()``.
    ``scripts`` and ``sheets`` are files that its own script builds on.
    """

    kind = ""
    scripts: tuple[str, ...] = ()
    sheets: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, alt: str, caption: str, name: str, **values: Any):
        self.alt, self.caption, self.name = alt, caption, name
        values["data"].update(
            css=style(*self.sheets),
            alt=alt,
            caption=plots.caption_html(caption),
            name=name,
        )
        super().__init__(**values)
        size = len(escaped_json(self.data)) + len(self._script("page"))
        if size > MAX_BYTES:
            raise ValueError(
                f"the figure takes {size:,} bytes; at most {MAX_BYTES:,} fit "
                f"into a page. {self.mend}"
            )

    settings: ClassVar[dict[str, Any]] = {}  # the picture's own style
    mend = "Show less."  # what to do when the data are too large

    @property
    def _esm(self) -> str:
        return self._script("widget")

    def _script(self, home: str) -> str:
        own = *self.scripts, f"{self.kind}.js"
        return source("common.js", *own, f"end-{home}.js")

    def open(self) -> None:
        """Open the model's channel, if a notebook is there to listen."""
        if is_live():
            super().open()

    @property
    def model_id(self) -> str:
        """The live model's id; asking for it opens the channel.

        So a figure inside a box or a link is live, wherever that is built.
        """
        if self.comm is None:
            super().open()
        return self.comm.comm_id

    def picture(self) -> plt.Figure:
        """The figure as it is printed, in its present state."""
        raise NotImplementedError

    def figure(self) -> plots.Figure:
        """The figure as a page and a printed book hold it."""
        with plt.rc_context():
            plots.use()
            plt.rcParams.update(self.settings)
            fig = self.picture()
            pdf = plots._saved(fig, "pdf", self.name, transparent=True)
            png = lean(plots._saved(fig, "png", self.name, dpi=PICTURE_DPI))
            plt.close(fig)
        return plots.Figure(
            self.to_html(png), pdf, png, self.alt, self.caption, self.name
        )

    def to_html(self, png: bytes) -> str:
        """Markup that draws itself; where scripts are off, the picture.

        The script mounts every figure of its kind that is not drawn yet, so
        no id is needed, and nothing clashes when a page holds several.
        """
        state = {name: getattr(self, name) for name in self.shared}
        data = escaped_json({**self.data, "state": state})
        picture = base64.b64encode(png).decode()
        return (
            f'<div class="llm-explorer" data-llmbook="{self.kind}">'
            f'<img src="data:image/png;base64,{picture}" '
            f'alt="{html.escape(self.alt)}" style="max-width: 100%">'
            f'<script type="application/json">{data}</script></div>'
            f'<script type="module">{self._script("page")}</script>'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = self.figure()._repr_mimebundle_()
        if is_live() or self.comm is not None:
            bundle[WIDGET_MIME] = {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.model_id,
            }
        if is_live():  # only the book's build reads it; it doubles a file
            del bundle[plots.FIGURE_MIME]
        return bundle

    def widget(self) -> Explorer:
        """The figure with its channel open: itself, for boxes and links."""
        self.model_id  # noqa: B018  (asking for it opens the channel)
        return self

    def check(self, trait: str, value: Any, low: float, high: float) -> Any:
        """``value`` if it lies from ``low`` to ``high``, else an error."""
        if not low <= value <= high:
            raise ValueError(
                f"{trait} is {value!r}; expected a value from {low} to {high}."
            )
        return value
