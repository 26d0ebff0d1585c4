"""Make the figures' font from npm's Source Sans 3, under a name of its own.

The Open Font License reserves the name "Source" for unchanged files; taking
a file out of WOFF and renaming it is a change, so the result is called
Llmbook Sans. Run after ``npm ci``: ``python -m tools.figure_font``.
"""

from __future__ import annotations

import shutil

from fontTools.ttLib import TTFont

from tools.common import NODE_MODULES, ROOT

SOURCE = NODE_MODULES / "@fontsource" / "source-sans-3"
TARGET = ROOT / "code" / "llmbook" / "fonts"
FAMILY = "Llmbook Sans"
STYLES = {400: "Regular", 600: "Bold"}  # semi-bold serves as bold


def convert(weight: int, style: str) -> None:
    """Write one weight as a TrueType file."""
    name = f"source-sans-3-latin-{weight}-normal.woff"
    font = TTFont(SOURCE / "files" / name, recalcTimestamp=False)
    font.flavor = None
    names = {
        1: FAMILY,
        2: style,
        3: f"{FAMILY} {style}",
        4: f"{FAMILY} {style}",
        6: f"{FAMILY}-{style}".replace(" ", ""),
    }
    for number, text in names.items():
        font["name"].setName(text, number, 3, 1, 0x409)
    for record in list(font["name"].names):
        if record.nameID in (16, 17, 21, 22):
            font["name"].removeNames(nameID=record.nameID)
    if style == "Bold":
        font["OS/2"].usWeightClass = 700
        font["head"].macStyle |= 1
    TARGET.mkdir(exist_ok=True)
    font.save(TARGET / f"LlmbookSans-{style}.ttf")


def main() -> None:
    """Convert every weight and lay the licence beside them."""
    for weight, style in STYLES.items():
        convert(weight, style)
    shutil.copy(SOURCE / "LICENSE", TARGET / "OFL.txt")


if __name__ == "__main__":
    main()
