"""Which modules of the package a notebook's cells reach.

A chapter has to run again when the source of a module that it imports has
changed, directly or through other modules, and not otherwise.
"""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from pathlib import Path

import grimp

from tools.common import ROOT

PACKAGE = "llmbook"
VARIABLE = re.compile(r"\b(?:LLMBOOK|TIKTOKEN)_[A-Z_]+\b")
MAGIC = re.compile(r"^(\s*)[!%].*$", re.MULTILINE)


def plain_python(source: str) -> str:
    """A cell's source with IPython's own lines replaced by ``pass``.

    >>> plain_python("try:\\n    !pip install x")
    'try:\\n    pass'
    """
    return MAGIC.sub(r"\1pass", source)


def imported(source: str) -> set[str]:
    """Names of the package that a cell imports, dotted.

    >>> sorted(imported("from llmbook.model import GPT, Block"))
    ['llmbook.model', 'llmbook.model.Block', 'llmbook.model.GPT']
    >>> imported("import math, llmbook.plots as plots")
    {'llmbook.plots'}
    """
    names = set()
    for node in ast.walk(ast.parse(plain_python(source))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == PACKAGE}


@cache
def package_graph() -> grimp.ImportGraph:
    """The package's import graph (installed editable, so the checkout's)."""
    return grimp.build_graph(PACKAGE, cache_dir=None)


def reached(
    sources: list[str], number: str = "", graph: grimp.ImportGraph = None
) -> set[str]:
    """Every module that the cells reach, with the packages around it.

    Args:
        sources: the code cells.
        number: the chapter's number: its exercises are loaded by name.
        graph: an import graph; the package's own by default.
    """
    graph = graph or package_graph()
    first = set().union(*map(imported, sources)) if sources else set()
    if any(name.startswith(f"{PACKAGE}.exercises") for name in first):
        first.add(f"{PACKAGE}.exercises.ch{number}")
    found = {name for name in first if name in graph.modules}
    for name in list(found):
        found |= graph.find_upstream_modules(name)
    for name in list(found):
        parts = name.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts))}
    return found


def module_files(modules: set[str], code: Path = ROOT / "code") -> list[Path]:
    """The files of ``modules``: Python's, and the data that lies beside."""
    files = set()
    for name in modules:
        base = code.joinpath(*name.split("."))
        if base.with_suffix(".py").is_file():
            files.add(base.with_suffix(".py"))
            continue
        files.add(base / "__init__.py")
        files |= data_files(base)
    return sorted(files)


def data_files(folder: Path) -> set[Path]:
    """Files below a package's folder that are no modules, nor a subpackage's.

    The package's top folder is one for all, so its data counts for all.
    """
    found = set()
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.is_dir():
            inner = path.name == "__pycache__"
            if not inner and not (path / "__init__.py").exists():
                found |= data_files(path)
        elif path.suffix not in (".py", ".pyc"):
            found.add(path)
    return found


def variables(texts: list[str]) -> dict[str, str | None]:
    """The book's environment variables that ``texts`` name, with values."""
    names = set().union(*(VARIABLE.findall(text) for text in texts))
    return {name: os.environ.get(name) for name in sorted(names)}
