"""Draw the cover, the favicon and the card for links from the book itself.

The running model reads the book's title, and one of its attention heads is
drawn: ``python -m tools.cover`` after ``make model``. The results are
committed, since they need a trained model and change with every training.
"""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from llmbook import plots
from llmbook.running import load_running
from tools.common import BOOK

TITLE = "Large Language Models from the Ground Up"
STATIC = BOOK / "_static"
STRONG = 0.45  # root of the share at which a cell is the scale's darkest


def weights(layer: int, head: int) -> tuple[np.ndarray, list[str]]:
    """One head's attention to the title's tokens, and their text."""
    running = load_running()
    ids = running.tokenizer.encode(TITLE)
    with torch.no_grad():
        maps = running.model.attention_weights(torch.tensor([ids]))
    names = [running.tokenizer.decode([i]) for i in ids]
    return maps[layer, 0, head].float().numpy(), names


def triangle(ax, shares: np.ndarray, names: list[str], size: float) -> None:
    """The map's lower half, a token at the end of each row."""
    count = len(names)
    scale = plots.SEQUENTIAL_LIGHT
    for i in range(count):
        for j in range(i + 1):
            depth = min(1.0, shares[i, j] ** 0.5 / STRONG)
            color = scale[2 + int(depth * (len(scale) - 3))]
            cell = Rectangle((j, i), 0.92, 0.92, fc=color, ec="none")
            ax.add_patch(cell)
        text = plots.token_text(names[i])
        ax.text(i + 1.15, i + 0.42, text, va="center", size=size)
    ax.set(xlim=(0, count + 3.6), ylim=(count, 0), aspect="equal")
    ax.axis("off")


def cover(shares: np.ndarray, names: list[str]) -> None:
    """The title page's drawing, as themed SVG and as PDF."""
    height = plots.WIDTH * len(names) / (len(names) + 3.6)
    fig, ax = plots.canvas(height)
    triangle(ax, shares, names, size=8.5)
    alt = "The title, and what each of its tokens looks at."
    drawn = plots.figure(fig, alt=alt, caption="", name="cover")
    (STATIC / "cover.svg").write_text(drawn.html + "\n", "utf-8")
    (STATIC / "cover.pdf").write_bytes(drawn.pdf or b"")


def card(shares: np.ndarray, names: list[str]) -> None:
    """The picture of a link elsewhere: 1200 by 630 points of a screen."""
    fig = plt.figure(figsize=(12, 6.3), dpi=100)
    fig.set_layout_engine("none")
    ax = fig.add_axes((0.44, 0.06, 0.56, 0.88))
    triangle(ax, shares, names, size=13)
    words = TITLE.replace("Language", "\nLanguage").replace("Mod", "\nMod")
    words = words.replace(" from", "\nfrom").replace(" the G", "\nthe G")
    look = {"va": "center", "linespacing": 0.85}
    fig.text(0.05, 0.54, words.replace(" \n", "\n"), size=44, **look)
    fig.text(0.05, 0.1, "An executable book", size=18, color=plots.ACCENT)
    fig.savefig(STATIC / "card.png", dpi=100, metadata={"Software": None})
    plt.close(fig)


def favicon(shares: np.ndarray) -> None:
    """The map's first four rows."""
    scale = plots.SEQUENTIAL_LIGHT
    cells = "".join(
        f'<rect x="{3 + 7 * j}" y="{3 + 7 * i}" width="6" height="6" '
        f'rx="1" fill="{scale[20 + int(40 * shares[i, j] ** 0.5)]}"/>'
        for i in range(4)
        for j in range(i + 1)
    )
    (STATIC / "favicon.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 33 33">'
        f"{cells}</svg>\n",
        "utf-8",
    )


def main() -> None:
    """Draw all four."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--head", type=int, default=0)
    options = parser.parse_args()
    plots.use()
    shares, names = weights(options.layer, options.head)
    cover(shares, names)
    card(shares, names)
    favicon(shares)


if __name__ == "__main__":
    main()
