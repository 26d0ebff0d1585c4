"""Keep the README's table of chapters equal to the recorded runs.

``python -m tools.readme_table --record`` copies what the last build
measured into ``runs/chapters.json``; without ``--record`` the table alone
is written anew; ``--check`` only compares.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import yaml

from tools.chapters import chapters, number_of
from tools.common import BUILD, ROOT, read_json, write_json, write_text

RUNS = ROOT / "runs" / "chapters.json"
README = ROOT / "README.md"
START, END = "<!-- chapters: start -->", "<!-- chapters: end -->"
HEAD = (
    "| | Chapter | Minutes | Memory | Open |\n"
    "| --: | --- | --: | --: | --- |\n"
)


def title_of(path: Path) -> str:
    """A notebook's title: its first cell's first heading."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first = "".join(notebook["cells"][0]["source"]).splitlines()
    return next(line for line in first if line.startswith("# "))[2:].strip()


def row(path: Path, measures: dict, repository: str) -> str:
    """One chapter's line of the table."""
    place = path.relative_to(ROOT).as_posix()
    name = repository.split("github.com/")[-1]
    colab = f"https://colab.research.google.com/github/{name}/blob/main"
    binder = f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree"
    return (
        f"| {int(number_of(path))} | [{title_of(path)}]({place}) "
        f"| {measures['seconds'] / 60:.1f} "
        f"| {measures['memory_mb'] / 1000:.1f} GB "
        f"| [Colab]({colab}/{place}) · [Binder]({binder}/{place}) |\n"
    )


def table(runs: dict, repository: str) -> str:
    """The table of all chapters, with the machine it was measured on."""
    paths = chapters()
    rows = [row(path, runs[path.stem], repository) for path in paths]
    last = runs[paths[-1].stem]
    total = sum(runs[path.stem]["seconds"] for path in paths) / 60
    return (
        f"{HEAD}{''.join(rows)}\n"
        f"Measured on {last['date']} at the `{last['budget']}` budget on "
        f"{last['machine']}: {total:.0f} minutes for all, beside the running "
        "model and its aligned stages, which `make book` trains first.\n"
    )


def repository_address() -> str:
    """The address that ``_config.yml`` gives the repository."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    return config["repository"]["url"].rstrip("/")


def with_table(readme: str, text: str) -> str:
    """``readme`` with ``text`` between the two markers.

    >>> old = f"a\\n{START}\\nx\\n{END}\\nb"
    >>> with_table(old, "y\\n") == old.replace("x", "y")
    True
    """
    before, _, rest = readme.partition(START + "\n")
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise ValueError(f"README.md has lost {START} or {END}; add both.")
    return f"{before}{START}\n{text}{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    if options.record:
        measured = read_json(BUILD / "chapters.json")
        if any(one["budget"] == "smoke" for one in measured.values()):
            print(
                "The chapters were executed at the smoke budget, for tests; "
                "run `make book`, then record.",
                file=sys.stderr,
            )
            return 1
        write_json(RUNS, measured)
    old = README.read_text(encoding="utf-8")
    new = with_table(old, table(read_json(RUNS), repository_address()))
    if options.check:
        if new != old:
            print(
                "README.md and runs/chapters.json differ; "
                f"`{os.path.basename(sys.executable)} -m tools.readme_table` "
                "mends it.",
                file=sys.stderr,
            )
        return int(new != old)
    write_text(README, new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
