"""What every tool needs: where things lie, and how to run a program."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
BOOK = ROOT / "book"
HTML = BUILD / "html"
PDF = BUILD / "pdf" / "llmbook.pdf"
NODE_MODULES = ROOT / "node_modules"
VENV = ROOT / ".venv"


class Stop(Exception):
    """Ends a target: the message is the last thing that is printed."""


def venv_python() -> Path:
    """The interpreter of ``.venv``."""
    if os.name == "nt":
        return VENV / "Scripts" / "python.exe"
    return VENV / "bin" / "python"


def wanted(variable: str) -> bool:
    """Whether ``BROWSER`` or ``PDF`` is not switched off with ``none``."""
    return os.environ.get(variable, "").strip().lower() != "none"


def run(
    *command: object,
    quiet: bool = False,
    speaks: bool = False,
    **options: object,
) -> None:
    """Run a program in the repository's root.

    Args:
        command: the program and its arguments.
        quiet: show its output only when it fails.
        speaks: it explains its failures itself; nothing is added then.
        options: passed on to :func:`subprocess.run`.

    Raises:
        Stop: it ended with another status than 0.
    """
    words = [str(word) for word in command]
    options.setdefault("cwd", ROOT)
    if quiet:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    sys.stdout.flush()
    done = subprocess.run(words, **options)
    if done.returncode:
        if quiet:
            sys.stdout.buffer.write(done.stdout)
            sys.stdout.flush()
        said = f"`{' '.join(words)}` ended with {done.returncode}."
        raise Stop("" if speaks else said)


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """SHA-256 of values and of the contents of files, in order.

    >>> digest(["a", b"b"]) == digest(["a", "b"]) != digest(["ab"])
    True
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes() if part.is_file() else b"missing"
        if isinstance(part, str):
            part = part.encode()
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Every file in ``folder``, sorted, without caches and hidden ones."""
    skip = {"__pycache__", "_build", "node_modules"}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(
            part in skip or part.startswith(".") or part.endswith(".egg-info")
            for part in path.relative_to(folder).parts
        )
    ]


def tree_digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in ``folder``."""
    parts: list[str | Path] = []
    for path in files_below(folder):
        parts += [path.relative_to(folder).as_posix(), path]
    return digest(parts)


def read_json(path: Path, default: object = None) -> object:
    """The value in a JSON file; ``default`` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return default


def write_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path`` and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    part.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON that people can read."""
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
    write_text(path, text + "\n")


def clock(seconds: float) -> str:
    """A time for people.

    >>> clock(4.21), clock(75), clock(3700)
    ('4.2 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Steps:
    """Announces the steps of a target and remembers how long each took."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []

    def run(self, name: str, work, *arguments: object) -> object:
        """Call ``work`` as a step called ``name``."""
        say(f"== {name}")
        start = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self.times.append((name, time.perf_counter() - start))

    def table(self) -> str:
        """The steps and their times, one a line."""
        rows = [*self.times, ("together", sum(t for _, t in self.times))]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"  {n:<{width}}  {clock(t):>12}" for n, t in rows)
