"""The folder of a run: begun once, gone on with, finished whole."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import llmbook
from llmbook import checkpoint
from llmbook.alignment.reinforcing import MEASURED_NAME
from llmbook.hub import TOKENIZER, WEIGHTS, tokenizer_to_hub
from llmbook.hub.files import read_json
from llmbook.model import GPT
from llmbook.tokenizer import BPETokenizer, Tokenizer
from llmbook.tokenizer.files import write_atomically
from llmbook.train import CHECKPOINT_NAME, METRICS_NAME

RECORD, ADAPTERS, EXPORT = "run.json", "adapters.safetensors", "huggingface"
NAMES = {
    RECORD,
    CHECKPOINT_NAME,
    checkpoint.previous_of(Path(CHECKPOINT_NAME)).name,
    checkpoint.damaged_of(Path(CHECKPOINT_NAME)).name,
    METRICS_NAME,
    MEASURED_NAME,
    ADAPTERS,
    TOKENIZER,
    WEIGHTS,
    EXPORT,
}
BESIDE = (".part", ".tmp")  # what was being written when a run was stopped
PACKAGES = ("torch", "numpy", "safetensors")


def check_folder(out: Path, resume: bool, more: Sequence[str] = ()) -> None:
    """Refuse a folder that a run must not write to.

    ``more`` are patterns of the names that runs of its kind also write.

    Raises:
        ValueError: it holds a finished model, or files of something else,
            or a stopped run that nobody asked to resume.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a folder.")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    own = [*(f"*{end}" for end in BESIDE), *more]
    foreign = sorted(
        name
        for name in names - NAMES
        if not any(fnmatchcase(name, pattern) for pattern in own)
    )
    if foreign:
        raise ValueError(
            f"{out} holds {', '.join(foreign[:3])}, which no run of this "
            "kind wrote. Give a new or an empty folder."
        )
    check_stopped(out, resume)


def check_stopped(out: Path, resume: bool) -> None:
    """Refuse to write over a finished model, or over a stopped run.

    Raises:
        ValueError: there is one, and it is not to be gone on with.
    """
    stopped = checkpoint.is_kept(out / CHECKPOINT_NAME)
    if (out / WEIGHTS).is_file() and not (resume and stopped):
        raise ValueError(
            f"{out} holds a finished model, which no run writes over. Give "
            "another folder; to go on from this model give it as --model."
        )
    if stopped and not resume:
        raise ValueError(
            f"{out} holds a run that was stopped. Go on with it by --resume, "
            "or give another folder."
        )


def begin(out: Path, settings: dict[str, Any], names: dict[str, Any]) -> None:
    """Write down what the run is; or see that the stopped one was the same.

    Args:
        settings: what has to be the same when the run is gone on with.
        names: of model and data, which may have been moved.

    Raises:
        ValueError: the folder's run had other settings.
    """
    if checkpoint.is_kept(out / CHECKPOINT_NAME):
        before = flat(read_json(out / RECORD)["settings"])
        now = flat(json.loads(json.dumps(settings)))
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                raise ValueError(
                    f"the run in {out} had {name}={old!r} and this one has "
                    f"{new!r}; a resumed run must be the same run. Keep the "
                    "old value, or start anew in another folder."
                )
    write_record(out, {**names, "settings": settings})


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that the command line has for them.

    >>> flat({"beta": 0.1, "training": {"steps": 5}})
    {'beta': 0.1, 'training.steps': 5}
    """
    named: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            named |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            named[name] = value
    return named


def finish(
    out: Path, model: GPT, tokenizer: Tokenizer, outcome: dict[str, Any]
) -> None:
    """Write the model, its tokenizer and what came out; the record last."""
    save_tokenizer(tokenizer, out / TOKENIZER)
    checkpoint.save(out / WEIGHTS, model)
    write_record(out, {**read_json(out / RECORD), **outcome})
    checkpoint.remove(out / CHECKPOINT_NAME)
    (out / MEASURED_NAME).unlink(missing_ok=True)


def write_record(out: Path, content: dict[str, Any]) -> None:
    """Write ``run.json``, with the versions of what computed it."""
    versions = {
        "llmbook": llmbook.__version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }
    text = json.dumps({**content, "versions": versions}, indent=1)
    write_atomically(out / RECORD, text + "\n")


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer; GPT-2's own in the format of Hugging Face."""
    if isinstance(tokenizer, BPETokenizer):
        tokenizer.save(path)
        return
    text = json.dumps(tokenizer_to_hub(tokenizer), ensure_ascii=False)
    write_atomically(path, text + "\n")
