"""Run Jupyter Book's Sphinx once: SOURCE OUTPUT DOCTREES BUILDER [flags].

A process of its own, since Sphinx and its extensions keep state in modules.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from jupyter_book.sphinx import build_sphinx


def main() -> int:
    """Run the command; return Sphinx's status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("doctrees", type=Path)
    parser.add_argument("builder")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    os.chdir(options.source)  # local extensions are named relative to it
    status = build_sphinx(
        options.source,
        options.output,
        noconfig=True,
        path_config=options.source / "_config.yml",
        doctreedir=options.doctrees,
        builder=options.builder,
        freshenv=options.fresh,
        warningiserror=options.strict,
        keep_going=True,
        quiet=True,
        confoverrides={
            "external_toc_path": (options.source / "_toc.yml").as_posix(),
            "latex_individualpages": False,
            "nb_execution_mode": "off",
            "nitpicky": True,
        },
    )
    return status if isinstance(status, int) else 1


if __name__ == "__main__":
    sys.exit(main())
