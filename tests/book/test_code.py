"""Prose and code stay in step; the code keeps to the house's rules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tools import weave
from tools.common import ROOT, files_below

MOST_LINES = 40  # a printed page holds no more
MODULES = [
    path
    for folder in (ROOT / "code", ROOT / "tools")
    for path in files_below(folder)
    if path.suffix == ".py"
]


def call(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_woven_cells_hold_the_package_s_source():
    paths = sorted((ROOT / "book").glob("*.ipynb"))
    assert weave.weave(paths, ROOT / "code", check=True) == []


def test_ruff_finds_nothing_in_code_and_notebooks():
    done = call("ruff", "check", ".")
    assert done.returncode == 0, done.stdout


def test_ruff_would_lay_nothing_out_differently():
    done = call("ruff", "format", "--check", ".")
    assert done.returncode == 0, done.stdout


def test_modules_import_only_from_the_layers_before_them():
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(script), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "path", MODULES, ids=[str(p.relative_to(ROOT)) for p in MODULES]
)
def test_functions_fit_on_a_page(path):
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_LINES, f"{node.name}: {length} lines"


def test_nothing_of_a_machine_or_a_workplace_is_committed(root):
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("this is not a git checkout")
    for name in filter(None, done.stdout.split("\0")):
        path = root / name
        assert path.stat().st_size < 1_000_000, f"{name} is too large"
        assert not name.startswith(("_build/", "node_modules/", ".venv/"))
