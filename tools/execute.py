"""Execute the chapters, each only when something that it uses has changed.

``python -m tools.execute`` runs every chapter of ``_toc.yml`` whose inputs
differ from the last run's, on a fresh kernel in the folder ``book``, and
keeps the executed copy in ``_build/executed``. What is committed stays as
it is.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
import threading
import time
from pathlib import Path

import nbclient
import nbformat
import psutil
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tools import reach
from tools.chapters import chapters, number_of
from tools.common import (
    BOOK,
    BUILD,
    ROOT,
    Stop,
    clock,
    digest,
    files_below,
    read_json,
    say,
    write_json,
    write_text,
)

EXECUTED = BUILD / "executed"
RECORD = BUILD / "chapters.json"
CELL_TIMEOUT = 3600  # seconds; a hanging cell should not hold CI for ever
WATCH_EVERY = 0.1  # seconds between two looks at the kernel's memory
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
PACKAGES = (  # whose versions a stored output may depend on
    "anywidget",
    "ipykernel",
    "ipywidgets",
    "matplotlib",
    "nbclient",
    "numpy",
    "regex",
    "sentencepiece",
    "tiktoken",
    "torch",
    "transformers",
)


class CellFailed(Exception):
    """A cell of a chapter raised; the message is what the reader needs."""


def code_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """The sources of the code cells."""
    return [c.source for c in notebook.cells if c.cell_type == "code"]


def versions() -> dict[str, str]:
    """The installed versions that outputs may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def listing(folder: str | None) -> list[list]:
    """Names, sizes and times of the files in a data folder; [] without."""
    if not folder or not (BOOK / folder).is_dir():
        return []
    base = BOOK / folder
    rows = []
    for path in files_below(base):
        state = path.stat()
        name = path.relative_to(base).as_posix()
        rows.append([name, state.st_size, state.st_mtime_ns])
    return rows


def key_of(path: Path, notebook: nbformat.NotebookNode) -> str:
    """What a chapter's outputs depend on, as one hash.

    The cells; the sources of the modules that their imports reach (the
    running model's identity among them, since it is a hash of its own
    sources); the book's environment variables that these name, and the
    data they point to; the versions of what computes and draws.
    """
    cells = code_cells(notebook)
    files = reach.module_files(reach.reached(cells, number_of(path)))
    texts = [file.read_text("utf-8") for file in files if file.suffix == ".py"]
    variables = reach.variables(cells + texts)
    data = {k: listing(v) for k, v in variables.items() if v and os.sep in v}
    settings = [variables, data, versions(), platform.machine()]
    names = [file.relative_to(ROOT).as_posix() for file in files]
    everything = [c.source + c.cell_type for c in notebook.cells]
    metadata = [json.dumps(c.metadata, sort_keys=True) for c in notebook.cells]
    return digest(
        [*everything, *metadata, *names, *files, json.dumps(settings)]
    )


class Bar:
    """One line that says how far a chapter is; plain lines in a pipe."""

    WIDTH = 24

    def __init__(self, name: str, cells: int) -> None:
        self.name, self.cells, self.done = name, cells, 0
        self.live = sys.stdout.isatty()
        self.start = time.perf_counter()
        self.draw()

    def draw(self) -> None:
        """Draw the line anew, where lines can be drawn over."""
        if not self.live:
            return
        full = self.WIDTH * self.done // max(self.cells, 1)
        bar = "█" * full + "░" * (self.WIDTH - full)
        passed = clock(time.perf_counter() - self.start)
        line = f"  {self.name:<18} {bar} {self.done}/{self.cells}  {passed}"
        print(f"\r{line:<78}", end="", flush=True)

    def end(self, text: str) -> None:
        """Replace the line by what came out."""
        if self.live:
            print(f"\r{' ' * 78}\r", end="")
        say(f"  {self.name:<18} {text}")


class Watch(threading.Thread):
    """Follows a running kernel: its memory, and the bar's clock."""

    def __init__(self, bar: Bar) -> None:
        super().__init__(daemon=True)
        self.bar = bar
        self.pid: int | None = None
        self.cell: nbformat.NotebookNode | None = None
        self.highest = 0  # bytes held by the kernel and its children
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(WATCH_EVERY):
            self.bar.draw()
            if self.pid is None:
                continue
            try:
                kernel = psutil.Process(self.pid)
                family = [kernel, *kernel.children(recursive=True)]
                now = sum(one.memory_info().rss for one in family)
            except psutil.Error:
                continue
            self.highest = max(self.highest, now)


def execute(path: Path, notebook: nbformat.NotebookNode) -> dict:
    """Run ``notebook`` in place on a fresh kernel; return its measures.

    Raises:
        CellFailed: a cell raised, or the kernel died.
    """
    bar = Bar(path.stem, len(code_cells(notebook)))
    watch = Watch(bar)

    def starts(cell: nbformat.NotebookNode, cell_index: int) -> None:
        watch.cell = cell
        watch.pid = client.km.provisioner.process.pid

    def ends(**_: object) -> None:
        bar.done += 1

    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=starts,
        on_cell_executed=ends,
    )
    start = time.perf_counter()
    watch.start()
    result = "failed"
    try:
        run_cells(client, path, watch)
        seconds = time.perf_counter() - start
        megabytes = watch.highest / 2**20
        result = f"{clock(seconds)}, {megabytes:,.0f} MB"
    finally:
        watch.ended.set()
        watch.join()
        bar.end(result)
    return {"seconds": round(seconds, 1), "memory_mb": round(megabytes)}


def run_cells(
    client: nbclient.NotebookClient, path: Path, watch: Watch
) -> None:
    """Run the cells in order; turn a failure into :class:`CellFailed`."""
    try:
        client.execute(env=kernel_environment())
    except CellExecutionError as error:
        raise CellFailed(failure(path, watch.cell, error)) from None
    except (DeadKernelError, TimeoutError) as error:
        why = (
            f"ran for more than {clock(CELL_TIMEOUT)}"
            if isinstance(error, TimeoutError)
            else "ended its kernel (was the memory enough?)"
        )
        raise CellFailed(
            f"{path.name}, cell {watch.cell.id} {why}:\n\n"
            f"{indent(watch.cell.source)}"
        ) from None
    drop_wiped_bars(client.nb)


def drop_wiped_bars(notebook: nbformat.NotebookNode) -> None:
    """Drop what a progress bar leaves when it wipes itself: blanks."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [
            output
            for output in cell.outputs
            if output.output_type != "stream" or output.text.strip()
        ]


def kernel_environment() -> dict[str, str]:
    """The kernel's environment: this one, without what differs by chance."""
    environment = dict(os.environ)
    environment.setdefault("PYTHONHASHSEED", "0")
    environment["JUPYTER_PREFER_ENV_PATH"] = "1"
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    return environment


def failure(
    path: Path, cell: nbformat.NotebookNode, error: CellExecutionError
) -> str:
    """The failing cell's source and its traceback."""
    outputs = [o for o in cell.outputs if o.output_type == "error"]
    lines = outputs[-1].traceback if outputs else [str(error)]
    traceback = "\n".join(lines)
    if not sys.stdout.isatty():
        traceback = ANSI.sub("", traceback)
    return (
        f"{path.name}, cell {cell.get('id')} failed:\n\n"
        f"{indent(cell.source)}\n\n{traceback}"
    )


def indent(source: str) -> str:
    """``source`` set off from what stands around it."""
    return "\n".join(f"    {line}" for line in source.splitlines())


def process(path: Path, again: bool, record: dict) -> bool:
    """Bring one chapter's executed copy up to date; say if it ran."""
    notebook = nbformat.read(path, as_version=4)
    key = key_of(path, notebook)
    copy = EXECUTED / path.name
    stamp = copy.with_suffix(".json")
    old = read_json(stamp, {})
    if not again and copy.is_file() and old.get("key") == key:
        say(f"  {path.stem:<18} unchanged")
        record[path.stem] = old["measures"]
        return False
    stamp.unlink(missing_ok=True)
    measures = execute(path, notebook)
    measures |= {
        "budget": os.environ.get("LLMBOOK_BUDGET", "quick"),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
    }
    write_text(copy, nbformat.writes(notebook) + "\n")
    write_json(stamp, {"key": key, "measures": measures})
    record[path.stem] = measures
    return True


def machine() -> str:
    """The computer in a few words, without its name."""
    memory = psutil.virtual_memory().total / 2**30
    cores = (
        len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count()
    )
    return (
        f"{platform.system()} {platform.machine()}, {cores} cores, "
        f"{memory:.0f} GB"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--again", action="store_true", help="run them all")
    parser.add_argument("numbers", nargs="*", help="chapters, such as 05")
    options = parser.parse_args(arguments)
    record = read_json(RECORD, {})
    try:
        for path in chapters(options.numbers):
            process(path, options.again, record)
    except (CellFailed, Stop) as error:
        sys.stdout.flush()
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    names = {path.stem for path in chapters()}
    write_json(RECORD, {k: v for k, v in record.items() if k in names})
    return 0


if __name__ == "__main__":
    sys.exit(main())
