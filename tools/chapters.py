"""The chapters: the notebooks that stand in ``_toc.yml``."""

from __future__ import annotations

from pathlib import Path

import yaml

from tools.common import ROOT, Stop


def toc_files(toc: Path | None = None) -> list[str]:
    """Every file that the table of contents names, in its order."""
    tree = yaml.safe_load((toc or ROOT / "_toc.yml").read_text("utf-8"))
    found: list[str] = []

    def visit(node: object) -> None:
        if isinstance(node, dict):
            found.extend(node[k] for k in ("root", "file") if k in node)
            node = [value for value in node.values()]
        if isinstance(node, list):
            for item in node:
                if isinstance(item, dict | list):
                    visit(item)

    visit(tree)
    return found


def chapters(numbers: list[str] | tuple = ()) -> list[Path]:
    """The chapters' notebooks; with ``numbers`` only those.

    Raises:
        Stop: a number that no chapter has.
    """
    names = [ROOT / name for name in toc_files()]
    names = [name.with_suffix("") for name in names]
    paths = [name.with_suffix(".ipynb") for name in names]
    found = [path for path in paths if path.is_file()]
    wanted = {number.zfill(2) for number in numbers}
    unknown = wanted - {number_of(path) for path in found}
    if unknown:
        raise Stop(
            f"no chapter has the number {', '.join(sorted(unknown))}; there "
            f"are {', '.join(number_of(path) for path in found)}."
        )
    return [p for p in found if not wanted or number_of(p) in wanted]


def number_of(path: Path) -> str:
    """A chapter's number, from its file's name.

    >>> number_of(Path("book/05-attention.ipynb"))
    '05'
    """
    return path.name.split("-")[0]
