"""The book's commands, the same with and without make.

python tools/make.py TARGET

  setup    make .venv, install everything that the others need
  model    train the models that the chapters share
  book     execute the chapters, build the site and the PDF
  html     the site alone; with CH=05 only that chapter is executed
  pdf      the PDF alone
  serve    show the built site at http://localhost:8000 (PORT=...)
  lab      open the chapters in JupyterLab
  test     build what is missing, then run every test
  unit     the tests that need neither the site nor the PDF
  records  measure anew everything that runs/ keeps (hours), and the README
  clean    remove what was built (.venv and node_modules stay)
  help     this text
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import setup_env
from tools.common import (
    BOOK,
    BUILD,
    HTML,
    PDF,
    Steps,
    Stop,
    read_json,
    run,
    say,
    venv_python,
    wanted,
)

# The benchmarks whose results are kept in runs/, by module.
RECORDED = (
    "tokenizer",
    "pipeline",
    "recipe",
    "attention",
    "modern",
    "training",
    "growth",
    "generation",
    "parallel",
    "kills",
    "batching",
    "evaluation",
    "sandbox",
    "tricks",
    "alignment",
    "austen",
)


def tool(name: str, *arguments: str, **options: object) -> None:
    """Run a module in ``.venv``; it explains its failures itself."""
    command = [venv_python(), "-m", name, *arguments]
    run(*command, speaks=True, **options)


def chapter() -> list[str]:
    """The chapter that ``CH`` names, if any."""
    return os.environ.get("CH", "").split()


def build(steps: Steps, pdf: bool = True) -> None:
    """The steps of the book, from set-up to the PDF.

    Raises:
        Stop: a step failed, or the PDF is missing though it was wanted.
    """
    steps.run("set-up", setup_env.setup)
    problem = None
    if pdf:
        problem = steps.run("TeX", setup_env.tex)
    steps.run("models", models)
    steps.run("chapters", tool, "tools.execute")
    steps.run("site", tool, "tools.build_site", "html")
    if pdf and not problem:
        steps.run("PDF", tool, "tools.build_site", "pdf")
    if problem:
        say(f"\nsite  {HTML / 'index.html'}")
        raise Stop(f"The PDF is missing. {problem}")


def book() -> None:
    """``make book``."""
    steps = Steps()
    pdf = wanted("PDF")
    build(steps, pdf)
    say(f"\n{steps.table()}\n")
    say(f"site  {HTML / 'index.html'}")
    say(f"PDF   {PDF if pdf else 'left out (PDF=none)'}")
    say("\nOpen either in a browser, or serve the site with `make serve`.")


def html() -> None:
    """``make html``, perhaps with a chapter alone executed anew."""
    steps = Steps()
    steps.run("set-up", setup_env.setup)
    steps.run("models", models)
    steps.run("chapters", tool, "tools.execute", *chapter())
    draft = ["--draft"] if chapter() else []
    steps.run("site", tool, "tools.build_site", "html", *draft)
    say(f"\n{steps.table()}\n\nsite  {HTML / 'index.html'}")


def pdf() -> None:
    """``make pdf``."""
    build_pdf = Steps()
    build(build_pdf)
    say(f"\n{build_pdf.table()}\n\nPDF  {PDF}")


def models() -> None:
    """The running model, and what alignment makes of it."""
    tool("llmbook.running")
    tool("llmbook.aligned")


def model() -> None:
    """``make model``."""
    setup_env.setup()
    models()


def execute() -> None:
    """``make execute``: the chapters without the site."""
    setup_env.setup()
    tool("tools.execute", *chapter())


def serve() -> None:
    """``make serve``."""
    if not HTML.is_dir():
        raise Stop("There is no site yet: run `make html` first.")
    port = os.environ.get("PORT") or "8000"
    say(f"http://localhost:{port}  (stop with Ctrl+C)")
    flags = ["--bind", "127.0.0.1", "--directory", str(HTML)]
    tool("http.server", port, *flags)


def lab() -> None:
    """``make lab``."""
    setup_env.setup()
    tool("jupyterlab", "--notebook-dir", str(BOOK))


def test() -> None:
    """``make test``: on the book as built, else on one at ``smoke``."""
    steps = Steps()
    if not built_for_readers():
        os.environ.setdefault("LLMBOOK_BUDGET", "smoke")
    found = None
    if wanted("BROWSER"):
        steps.run("set-up", setup_env.setup)
        found = steps.run("browser", setup_env.browser)
    build(steps, wanted("PDF"))
    say(f"\n{steps.table()}\n")
    environment = os.environ | {"LLMBOOK_BUDGET": "smoke"}
    if found:
        environment["LLMBOOK_CHROMIUM"] = found
    tool("tools.run_tests", env=environment)


def built_for_readers() -> bool:
    """Whether ``make book`` has executed the chapters, not a test."""
    kept = read_json(BUILD / "chapters.json", {}).values()
    return bool(kept) and all(one["budget"] != "smoke" for one in kept)


def unit() -> None:
    """``make unit``."""
    setup_env.setup()
    left_out = "not site and not pdf and not browser"
    environment = os.environ | {"LLMBOOK_BUDGET": "smoke"}
    tool("pytest", "-q", "-m", left_out, env=environment)


def records() -> None:
    """``make records``: every recorded figure of the project.

    The benchmarks come first, each on a machine that does nothing else;
    then the book is executed anew and the README takes its costs.
    """
    setup_env.setup()
    for name in RECORDED:
        tool(f"benchmarks.{name}", "--record")
    clean()
    build(Steps())
    tool("tools.readme_table", "--record")


def clean() -> None:
    """``make clean``."""
    shutil.rmtree(BUILD, ignore_errors=True)
    say(f"removed {BUILD}")


def main() -> int:
    """Run the target that the command line names."""
    targets = {
        "setup": setup_env.main,
        "model": model,
        "execute": execute,
        "book": book,
        "html": html,
        "pdf": pdf,
        "serve": serve,
        "lab": lab,
        "test": test,
        "unit": unit,
        "records": records,
        "clean": clean,
    }
    name = sys.argv[1] if len(sys.argv) == 2 else "help"
    if name in ("help", "-h", "--help"):
        print(__doc__.strip())
        return 0
    if name not in targets:
        print(__doc__.strip(), file=sys.stderr)
        print(f"\nThere is no target {name!r}.", file=sys.stderr)
        return 2
    # Threads that wait by spinning are four times slower beside one other
    # program; asleep they lose nothing (measured on two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        targets[name]()
    except Stop as stop:
        if str(stop):
            print(f"\n{stop}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
