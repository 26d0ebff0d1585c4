"""Build the site and the PDF from the executed chapters.

The book's files and the executed copies of its notebooks are gathered in
``_build/source``, and Jupyter Book's Sphinx runs there with execution off
and with warnings as errors. Nothing is built when no input has changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tools.chapters import chapters, toc_files
from tools.common import (
    BOOK,
    BUILD,
    HTML,
    NODE_MODULES,
    PDF,
    ROOT,
    digest,
    files_below,
    read_json,
    say,
    tree_digest,
    write_json,
)

SOURCE = BUILD / "source"
LATEX = BUILD / "latex"
EXECUTED = BUILD / "executed"
LOG_LINES = 40  # of TeX's log, shown when it fails
CONFIGURATION = ("_config.yml", "_toc.yml")


def gather() -> None:
    """Bring ``_build/source`` up to date; touch only what differs.

    Sphinx reads a page again when its file is newer, so a file that says
    the same keeps its time.
    """
    pairs = {SOURCE / name: ROOT / name for name in CONFIGURATION}
    notebooks = {path.name for path in chapters()}
    for path in files_below(BOOK):
        if path.suffix == ".ipynb":
            if path.name not in notebooks:
                continue
            source = EXECUTED / path.name
            if not source.is_file():  # only other chapters were executed
                source = path
        else:
            source = path
        pairs[SOURCE / "book" / path.relative_to(BOOK)] = source
    for old in files_below(SOURCE) if SOURCE.is_dir() else []:
        if old not in pairs:
            old.unlink()
    for target, source in pairs.items():
        content = source.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def surroundings() -> str:
    """A hash of everything but the pages that the output depends on."""
    names = ["requirements.txt", "package-lock.json", *CONFIGURATION]
    pages = (".ipynb", ".md")
    parts: list[str | Path] = [ROOT / name for name in names]
    parts += [p for p in files_below(SOURCE) if p.suffix not in pages]
    parts += [tree_digest(ROOT / "code"), Path(__file__)]
    return digest([*parts, repository()])


def repository() -> str:
    """The repository's address where it is not ``_config.yml``'s.

    A fork's CI passes its own, so that its launch buttons open its files.
    """
    named = os.environ.get("LLMBOOK_REPOSITORY", "").strip()
    on_github = os.environ.get("GITHUB_REPOSITORY", "").strip()
    if not named and on_github:
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        named = f"{server}/{on_github}"
    return named.rstrip("/")


def sphinx(builder: str, output: Path, fresh: bool, strict: bool) -> int:
    """Run Jupyter Book's Sphinx in ``_build/source``; return its status.

    With ``strict`` a warning is a failure.
    """
    words = [SOURCE, output, BUILD / "doctrees" / builder, builder]
    words += ["--fresh"] * fresh + ["--strict"] * strict
    environment = os.environ | {
        "LLMBOOK_ROOT": str(ROOT),
        "LLMBOOK_NODE_MODULES": str(NODE_MODULES),
        "LLMBOOK_REPOSITORY": repository(),
    }
    command = [sys.executable, "-m", "tools.run_sphinx", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def build(
    builder: str,
    output: Path,
    finish: Callable[[], int],
    result: Path,
    strict: bool = True,
) -> int:
    """Bring one kind of output up to date; return an exit status.

    Args:
        builder: Sphinx's name of it.
        output: the folder that Sphinx writes.
        finish: makes the result out of Sphinx's output.
        result: the file that exists when it is done.
        strict: whether a warning is a failure.
    """
    gather()
    around = surroundings()
    inputs = digest([around, tree_digest(SOURCE)])
    stamp = BUILD / "stamps" / f"{builder}.json"
    old = read_json(stamp, {})
    if result.is_file() and old.get("inputs") == inputs:
        say("  unchanged")
        return 0
    stamp.unlink(missing_ok=True)
    fresh = old.get("around") != around
    if fresh and output.is_dir():
        shutil.rmtree(output)
    status = sphinx(builder, output, fresh, strict) or finish()
    if status:
        print(f"{builder}: not built; the reasons stand above.")
    elif strict:
        write_json(stamp, {"inputs": inputs, "around": around})
    return status


def html(strict: bool = True) -> int:
    """Build the site."""
    return build("html", HTML, redirect, HTML / "index.html", strict)


def redirect() -> int:
    """Give the site a first page, where Sphinx wrote it elsewhere."""
    first = HTML / "index.html"
    if not first.is_file():
        page = toc_root()
        first.write_text(
            "<!doctype html><meta charset='utf-8'><title>The book</title>"
            f"<meta http-equiv='refresh' content='0; url={page}'>"
            f"<a href='{page}'>The book</a>\n",
            encoding="utf-8",
        )
    return 0


def toc_root() -> str:
    """The address of the table of contents' first page."""
    return f"{toc_files()[0].removesuffix('.md').removesuffix('.ipynb')}.html"


def pdf() -> int:
    """Build the PDF."""
    return build("latex", LATEX, typeset, PDF)


def typeset() -> int:
    """Run lualatex, by latexmk, until the references stand."""
    main = LATEX / "llmbook.tex"
    text = main.read_text(encoding="utf-8")
    # LuaTeX takes U+FFFD in a file for a sign that it could not read it.
    main.write_text(text.replace("\ufffd", '\\symbol{"FFFD}'), "utf-8")
    command = ["latexmk", "-lualatex", "-interaction=nonstopmode"]
    command += ["-halt-on-error", "-silent", main.name]
    log = main.with_suffix(".log")
    done = subprocess.run(
        command,
        cwd=LATEX,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode or not main.with_suffix(".pdf").is_file():
        text = log.read_text("utf-8", "replace") if log.is_file() else ""
        tail = text.splitlines()[-LOG_LINES:]
        tail = tail or done.stdout.decode("utf-8", "replace").splitlines()
        print("\n".join(tail))
        print(f"lualatex failed; its whole log is {log}")
        shutil.rmtree(BUILD / "doctrees" / "latex", ignore_errors=True)
        return 1
    PDF.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(main.with_suffix(".pdf"), PDF)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["html", "pdf"])
    parser.add_argument(
        "--draft",
        action="store_true",
        help="let warnings pass, as where not every chapter was executed",
    )
    options = parser.parse_args(arguments)
    return html(not options.draft) if options.what == "html" else pdf()


if __name__ == "__main__":
    sys.exit(main())
