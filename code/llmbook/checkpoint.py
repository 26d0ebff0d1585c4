"""Checkpoints: a run put down on disk whole, and taken up again to the bit.

One file holds everything: tensors in the safetensors format, and in its
header a JSON text, with a SHA-256 of all of it. Nothing is pickled, so
reading one never runs code.

A run's file has the one before it beside it. Neither is ever half written
under its own name: a new one is written under a third, brought to the disk
(``fsync``), and then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmbook.config import GPTConfig
from llmbook.hashing import tensors_hash
from llmbook.model import GPT

FORMAT = "llmbook-checkpoint"
VERSION = 2  # 1 had no checksum
DIGEST = "sha256"
FULL_WORDS = ("No space left", "not enough space", "quota exceeded")
MODEL, OPTIMIZER, EXTRA = "model.", "optimizer.", "extra."
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02")  # torch.save, new and old
LENGTH_BYTES = 8  # a safetensors file begins with its header's length, then {


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read, or fitted to a model."""


class DamagedError(CheckpointError):
    """A file that is not what was written: cut short, or changed since."""


class CheckpointWarning(UserWarning):
    """A checkpoint was not written, or an older one had to be used."""


@dataclass
class Checkpoint:
    """What a file held: tensors by name, and plain values."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


def save(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    state: dict[str, Any] | None = None,
    extra: dict[str, Tensor] | None = None,
    *,
    keep_previous: bool = False,
) -> Path:
    """Write a checkpoint beside ``path`` and rename it into place.

    A crash or a full disk leaves the older file as it was. ``state`` is
    anything JSON can hold; ``extra`` is for more tensors (generator states).
    With ``keep_previous`` the older file stays as :func:`previous_of`.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    header, tensors = _contents(model, optimizer, state or {}, extra or {})
    metadata = {FORMAT: json.dumps(header)}
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata=metadata)
        _put_in_place(beside, path, keep_previous)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise CheckpointError(why_not_written(path, error)) from error
    return path


def _contents(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    state: dict[str, Any],
    extra: dict[str, Tensor],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A file's header and its tensors."""
    tensors = _named(MODEL, unique_tensors(model))
    scalars: dict[str, Any] = {}
    if optimizer is not None:
        moments, scalars = optimizer_to_parts(optimizer, model)
        tensors |= _named(OPTIMIZER, moments)
    tensors |= _named(EXTRA, extra)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": config_of(model),
        "optimizer": scalars,
        "state": state,
    }
    return header | {DIGEST: checksum(header, tensors)}, tensors


def _put_in_place(beside: Path, path: Path, keep_previous: bool) -> None:
    """Rename a file that was written, once the disk has all of it."""
    with open(beside, "rb+") as file:
        os.fsync(file.fileno())
    if keep_previous and path.exists():
        os.replace(path, previous_of(path))
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring to the disk which files a folder has, where that can be done."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) of a header as JSON and of all tensors.

    >>> one = checksum({}, {"x": torch.zeros(2)})
    >>> one == checksum({}, {"x": torch.tensor([0.0, 1e-45])})
    False
    """
    return tensors_hash(tensors, json.dumps(header))


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` is kept.

    >>> previous_of(Path("checkpoint.safetensors")).name
    'checkpoint.previous.safetensors'
    """
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def damaged_of(path: Path) -> Path:
    """Where a checkpoint is put that could not be read."""
    return path.with_name(f"{path.stem}.damaged{path.suffix}")


def pieces_of(path: Path) -> Path:
    """Where the checkpoint lies that processes write in pieces.

    >>> pieces_of(Path("checkpoint.safetensors")).name
    'checkpoint.pieces'
    """
    return path.with_suffix(".pieces")


def is_kept(path: Path) -> bool:
    """Whether a run can go on from ``path``, or from the one before it.

    In one file, or in pieces (:mod:`llmbook.pieces`).
    """
    return max(written_at(path), written_at(pieces_of(path))) >= 0


def is_in_pieces(path: Path) -> bool:
    """Whether the newest checkpoint of a run is the one in pieces.

    There are two kinds at once only where a kill came between the writing
    of the one and the removal of the other.
    """
    return written_at(pieces_of(path)) > written_at(path)


def written_at(path: Path) -> int:
    """When ``path``, or the one before it, was written; -1 for never."""
    kept = (path, previous_of(path))
    return max((p.stat().st_mtime_ns for p in kept if p.exists()), default=-1)


def remove(path: Path) -> None:
    """Delete a run's checkpoint, the one before it, and what was cut off."""
    remove_whole(path)
    remove_pieces(path)


def remove_whole(path: Path) -> None:
    """Delete what lies in one file at ``path``, and before and beside it."""
    sweep(path)
    for file in (path, previous_of(path), damaged_of(path)):
        file.unlink(missing_ok=True)


def remove_pieces(path: Path) -> None:
    """Delete what lies in pieces beside ``path``."""
    folder = pieces_of(path)
    part = folder.with_name(f"{folder.name}.part")
    for each in (folder, previous_of(folder), damaged_of(folder), part):
        shutil.rmtree(each, ignore_errors=True)


def sweep(path: Path) -> None:
    """Delete what killed processes left half written beside ``path``."""
    for part in path.parent.glob(f"{path.name}.*.part"):
        part.unlink(missing_ok=True)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedError: it is cut short, or its checksum is wrong.
        CheckpointError: there is none, or it is another program's, or a
            newer version's; the message has the mend.
    """
    path = Path(path)
    _check_kind(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = _header(path, metadata)
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise DamagedError(
            f"{path} is no whole safetensors file ({error}): it was cut "
            "short, or is something else. Delete it and save or copy again."
        ) from error
    _check_sum(path, header, tensors)
    return Checkpoint(
        model=_unnamed(MODEL, tensors),
        optimizer=_unnamed(OPTIMIZER, tensors),
        extra=_unnamed(EXTRA, tensors),
        state={
            **header["state"],
            "config": header["config"],
            "optimizer": header["optimizer"],
        },
    )


def _check_kind(path: Path) -> None:
    """Refuse what is no file, and what only looks like a checkpoint."""
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint at {path}. Train first, or give the "
            "folder that the run was saved in."
        )
    with open(path, "rb") as file:
        start, then = file.read(LENGTH_BYTES), file.read(1)
    # A header's length can have the bytes with which a pickle starts.
    if start.startswith(PICKLE_STARTS) and then != b"{":
        raise CheckpointError(
            f"{path} is a pickle, which can run any code when it is opened, "
            "so it is never read. Save its weights as safetensors first."
        )


def load_newest(path: str | Path) -> Checkpoint:
    """Read a run's checkpoint, or the one before it if that is damaged.

    Then the damaged file is put aside, the one before it takes its place,
    and a :class:`CheckpointWarning` says so. A file that is whole but does
    not fit (another program's, a newer version's) is never passed over.

    Raises:
        CheckpointError: as in :func:`load`; neither file can be read.
    """
    path = Path(path)
    before = previous_of(path)
    if path.is_file() or not before.is_file():
        try:
            return load(path)
        except DamagedError as error:
            if not before.is_file():
                raise
            why = str(error)
    else:
        why = f"{path} is missing: a kill came while it was being renamed."
    try:
        found = load(before)
    except DamagedError as error:
        raise DamagedError(
            f"{why} The one before it cannot be read either: {error} Start "
            "anew in another folder."
        ) from error
    if path.is_file():
        os.replace(path, damaged_of(path))
    os.replace(before, path)
    warnings.warn(
        f"{why} The run goes on from the checkpoint before it.",
        CheckpointWarning,
        stacklevel=2,
    )
    return found


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Put a checkpoint's weights, and optimizer's moments, back in place.

    Raises:
        CheckpointError: it belongs to a model of another shape, or holds
            no optimizer although one is given.
    """
    own = unique_tensors(model)
    for name in sorted(own.keys() ^ checkpoint.model.keys()):
        side = "only in the model" if name in own else "only in the file"
        raise CheckpointError(
            f"the checkpoint is of another model: {name} is {side}. Build "
            "the model from the checkpoint's own configuration."
        )
    for name, tensor in own.items():
        other = checkpoint.model[name]
        if tensor.shape != other.shape:
            raise CheckpointError(
                f"the checkpoint is of another model: {name} has shape "
                f"{tuple(other.shape)} in the file and "
                f"{tuple(tensor.shape)} in the model. Build the model from "
                "the checkpoint's own configuration."
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(checkpoint.model[name])
    if optimizer is not None:
        _optimizer_from_parts(optimizer, model, checkpoint)


def load_model(path: str | Path) -> GPT:
    """Build the model that a checkpoint describes, with its weights.

    Raises:
        CheckpointError: it describes none, or none that can be built here.
    """
    checkpoint = load(path)
    model = model_of(checkpoint.state["config"], path)
    restore(checkpoint, model)
    return model.eval()


def model_of(values: dict[str, Any], path: str | Path) -> GPT:
    """A new model of the configuration in the checkpoint at ``path``.

    Raises:
        CheckpointError: there is none, or none that can be built here.
    """
    if not values:
        raise CheckpointError(
            f"{path} holds no configuration, so the model cannot be built "
            "from it. Build the model yourself and use restore()."
        )
    try:
        return GPT(GPTConfig(**values))
    except (TypeError, ValueError) as error:  # TypeError: an unknown name
        raise CheckpointError(
            f"{path} describes a model that this package cannot build: "
            f"{error} Install the llmbook that wrote it."
        ) from error


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` by name, a tensor of two names only once.

    >>> sorted(unique_tensors(nn.Linear(2, 1)))
    ['bias', 'weight']
    """
    seen: set[tuple[int, tuple[int, ...]]] = set()
    unique = {}
    for name, tensor in model.state_dict().items():
        # Of a tensor that is cut into slices, only the slices have a place.
        held = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        place = (held.data_ptr(), tuple(tensor.shape))
        if not held.numel() or place not in seen:  # an empty slice has none
            unique[name] = tensor
            seen.add(place)
    return unique


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        prefix + name: tensor.detach().contiguous()
        for name, tensor in tensors.items()
    }


def _unnamed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def config_of(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return config.to_dict() if isinstance(config, GPTConfig) else {}


def _names_in_order(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> list[str]:
    """The name of each parameter, in the order the optimizer keeps them."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        names[id(p)]
        for group in optimizer.param_groups
        for p in group["params"]
    ]


def optimizer_to_parts(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into named tensors and plain values."""
    names = _names_in_order(optimizer, model)
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{names[index]}:{key}"] = value
            else:
                values.setdefault(names[index], {})[key] = value
    return tensors, {"groups": state["param_groups"], "values": values}


def _optimizer_from_parts(
    optimizer: torch.optim.Optimizer, model: nn.Module, checkpoint: Checkpoint
) -> None:
    saved = checkpoint.state["optimizer"]
    if not saved:
        raise CheckpointError(
            "the checkpoint holds weights without an optimizer, so training "
            "cannot go on from it to the bit. Start a new run from them."
        )
    names = _names_in_order(optimizer, model)
    state: dict[int, dict[str, Any]] = {
        index: dict(saved["values"][name])
        for index, name in enumerate(names)
        if name in saved["values"]
    }
    for full_name, tensor in checkpoint.optimizer.items():
        name, _, key = full_name.rpartition(":")
        if name not in names:
            raise CheckpointError(
                f"the checkpoint's optimizer trains {name}, and this one "
                "does not. Train the same parameters as before "
                "(requires_grad), or start anew in another folder."
            )
        # A copy, for the file's own pages would keep it from being replaced.
        state.setdefault(names.index(name), {})[key] = tensor.clone()
    _check_groups(optimizer, saved["groups"])
    optimizer.load_state_dict(
        {"state": state, "param_groups": saved["groups"]}
    )


def _check_groups(
    optimizer: torch.optim.Optimizer, saved: list[dict[str, Any]]
) -> None:
    """Refuse an optimizer that trains more, or in other groups."""
    before = [len(group["params"]) for group in saved]
    now = [len(group["params"]) for group in optimizer.param_groups]
    if before != now:
        raise CheckpointError(
            f"the checkpoint's optimizer trains {before} parameters, a "
            f"number for each group, and this one {now}. Train the same "
            "parameters as before (requires_grad), or start anew in another "
            "folder."
        )


def _header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if FORMAT not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file of another program. For a model "
            "in Hugging Face's format use llmbook.hub.from_pretrained."
        )
    try:
        header = json.loads(metadata[FORMAT])
        version = header["version"] = int(header["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise _changed(path) from error
    if version > VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {version}; this "
            f"package reads up to {VERSION}. Install a newer llmbook."
        )
    return header


def _check_sum(
    path: Path, header: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Refuse what is not, to the bit, what was written."""
    digest = header.pop(DIGEST, None)
    if header["version"] > 1 and digest != checksum(header, tensors):
        raise _changed(path)


def _changed(path: Path) -> DamagedError:
    return DamagedError(
        f"{path} has a wrong checksum: the file was changed or damaged after "
        "it was written. Copy it again, or use an older checkpoint."
    )


def why_not_written(path: Path, error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC
    if full or any(words in str(error) for words in FULL_WORDS):
        return (
            f"no space left on the disk for {path}. Free some, or save to "
            "another folder; the last good checkpoint is untouched."
        )
    return (
        f"cannot write {path}: {error}. Choose a folder that you may write to."
    )
