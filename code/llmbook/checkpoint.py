"""Checkpoints: a run put down on disk whole, and taken up again to the bit.

One file holds everything: tensors in the safetensors format, and a JSON
text in its header. Nothing is pickled, so reading one never runs code.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmbook.config import GPTConfig
from llmbook.model import GPT

FORMAT = "llmbook-checkpoint"
VERSION = 1
MODEL, OPTIMIZER, EXTRA = "model.", "optimizer.", "extra."
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02")  # torch.save, new and old


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read, or fitted to a model."""


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
) -> Path:
    """Write a checkpoint beside ``path`` and rename it into place.

    A crash or a full disk leaves the older file as it was. ``state`` is
    anything JSON can hold; ``extra`` is for more tensors (generator states).

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    tensors = _named(MODEL, unique_tensors(model))
    scalars: dict[str, Any] = {}
    if optimizer is not None:
        moments, scalars = _optimizer_to_parts(optimizer, model)
        tensors |= _named(OPTIMIZER, moments)
    tensors |= _named(EXTRA, extra or {})
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": _config_of(model),
        "optimizer": scalars,
        "state": state or {},
    }
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata={FORMAT: json.dumps(header)})
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise CheckpointError(_why_not_written(path, error)) from error
    return path


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: there is none, or it is cut short, or another
            program's; the message has the mend.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint at {path}. Train first, or give the "
            "folder that the run was saved in."
        )
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith(PICKLE_STARTS):
        raise CheckpointError(
            f"{path} is a pickle, which can run any code when it is opened, "
            "so it is never read. Save its weights as safetensors first."
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata() or {})
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no whole safetensors file ({error}): it was cut "
            "short, or is something else. Delete it and save or copy again."
        ) from error
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
    if not checkpoint.state["config"]:
        raise CheckpointError(
            f"{path} holds no configuration, so the model cannot be built "
            "from it. Build the model yourself and use restore()."
        )
    try:
        config = GPTConfig(**checkpoint.state["config"])
    except (TypeError, ValueError) as error:  # TypeError: an unknown name
        raise CheckpointError(
            f"{path} describes a model that this package cannot build: "
            f"{error} Install the llmbook that wrote it."
        ) from error
    model = GPT(config)
    restore(checkpoint, model)
    return model.eval()


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` by name, a tensor of two names only once.

    >>> sorted(unique_tensors(nn.Linear(2, 1)))
    ['bias', 'weight']
    """
    seen: set[tuple[int, tuple[int, ...]]] = set()
    unique = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if place not in seen:
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


def _config_of(model: nn.Module) -> dict[str, Any]:
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


def _optimizer_to_parts(
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
        state.setdefault(names.index(name), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": saved["groups"]}
    )


def _header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if FORMAT not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file of another program. For a model "
            "in Hugging Face's format use llmbook.hub.from_pretrained."
        )
    header = json.loads(metadata[FORMAT])
    if header["version"] > VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {header['version']}; this "
            f"package reads up to {VERSION}. Install a newer llmbook."
        )
    return header


def _why_not_written(path: Path, error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC
    if full or "No space left" in str(error):
        return (
            f"no space left on the disk for {path}. Free some, or save to "
            "another folder; the last good checkpoint is untouched."
        )
    return (
        f"cannot write {path}: {error}. Choose a folder that you may write to."
    )
