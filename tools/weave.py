"""Put the package's own source into the chapters, and keep it the same.

A code cell whose first line is ``# from llmbook.attention: split_heads``
holds that object's source. ``python tools/weave.py`` writes such cells;
``python tools/weave.py --check`` only compares, and fails when a cell and
the package differ, when a name is gone, when an object is longer than a
printed page holds, or when one object is woven twice.

Functions, classes, module constants and single methods
(``llmbook.model: GPT.forward``) can be woven. A method loses its
indentation, and ruff then lays it out again for the width it has gained.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 40  # a printed page holds no more
HEADER = re.compile(r"# from (llmbook(?:\.\w+)*): (\w+(?:\.\w+)*)\s*")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class WeaveError(Exception):
    """A cell and the package do not fit; the message says how to mend it."""


def module_file(module: str, code: Path) -> Path:
    """The file that ``module`` is written in, below the folder ``code``."""
    base = code.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    raise WeaveError(f"there is no module {module}")


def find(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The last statement of ``body`` that defines ``name``."""
    found = None
    for node in body:
        if isinstance(node, Definition):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [t.id for t in node.targets if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign):
            target = node.target
            names = [target.id] if isinstance(target, ast.Name) else []
        else:
            continue
        if name in names:
            found = node
    return found


def source_of(module: str, name: str, code: Path) -> str:
    """The source of ``name``, decorators included, without indentation."""
    text = module_file(module, code).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        inner = find(getattr(node, "body", []), part)
        if inner is None:
            raise WeaveError(f"{module} has no {name}")
        node = inner
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(item.lineno for item in decorators)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    source = textwrap.dedent("\n".join(lines))
    if "." in name:
        source = laid_out(source)
    length = len(source.splitlines())
    if length > MOST_LINES:
        raise WeaveError(
            f"{module}: {name} has {length} lines; a page holds "
            f"{MOST_LINES}. Weave a part of it, or make it smaller"
        )
    return source


@cache
def laid_out(source: str) -> str:
    """``source`` as ``ruff format`` writes it."""
    command = [sys.executable, "-m", "ruff", "format"]
    done = subprocess.run(
        [*command, "--stdin-filename", "woven.py", "-"],
        input=source.encode(),
        capture_output=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise WeaveError(f"ruff format: {done.stderr.decode().strip()}")
    return done.stdout.decode().replace("\r\n", "\n").rstrip("\n")


def weave_notebook(
    path: Path, notebook: dict, code: Path, seen: dict[str, str]
) -> list[str]:
    """Weave one notebook in memory; return what was wrong before.

    Args:
        path: the notebook's file, for messages.
        notebook: its contents; changed in place.
        code: the folder that holds the package.
        seen: every object woven so far, with its place; added to.

    Raises:
        WeaveError: something that weaving cannot mend.
    """
    differences = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        header, _, body = text.partition("\n")
        match = HEADER.fullmatch(header)
        if cell["cell_type"] != "code" or not match:
            continue
        place = f"{path.name}, cell {cell.get('id', '?')}"
        remember(match, place, seen)
        try:
            wanted = source_of(*match.groups(), code)
        except WeaveError as error:
            raise WeaveError(f"{place}: {error}.") from None
        if body.rstrip("\n") != wanted or header != header.rstrip():
            differences.append(
                f"{place}: differs from {match[1]}: {match[2]}."
            )
            text = f"{header.rstrip()}\n{wanted}"
            cell["source"] = text.splitlines(keepends=True)
    return differences


def remember(match: re.Match, place: str, seen: dict[str, str]) -> None:
    """Note that an object is woven at ``place``; it must be new."""
    name = f"{match[1]}.{match[2]}"
    for old, where in seen.items():
        if f"{name}.".startswith(f"{old}.") or old.startswith(f"{name}."):
            raise WeaveError(
                f"{place}: {match[2]} of {match[1]} is already woven in "
                f"{where}. Import it here instead."
            )
    seen[name] = place


def write_notebook(path: Path, notebook: dict) -> None:
    """Write ``notebook`` the way the repository keeps notebooks."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text + "\n")


def weave(paths: list[Path], code: Path, check: bool) -> list[str]:
    """Weave or compare every notebook; return what differed.

    With ``check`` no file changes.
    """
    seen: dict[str, str] = {}
    differences = []
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        found = weave_notebook(path, notebook, code, seen)
        if found and not check:
            write_notebook(path, notebook)
        differences += found
    return differences


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--code", type=Path, default=ROOT / "code")
    parser.add_argument("notebooks", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted((ROOT / "book").glob("*.ipynb"))
    try:
        differences = weave(paths, options.code, options.check)
    except WeaveError as error:
        print(f"weave: {error}", file=sys.stderr)
        return 1
    for line in differences:
        print(f"weave: {line}" if options.check else f"wove {line}")
    if options.check and differences:
        print("weave: `python tools/weave.py` mends this.", file=sys.stderr)
        return 1
    print(f"weave: {len(paths)} notebooks agree with the package.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
