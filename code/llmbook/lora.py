"""Low-rank adapters: a model tuned by a small part of its numbers.

A trained matrix W stays as it is, and the product of two thin ones is
learned beside it: y = W x + (alpha / rank) B A x. Source: Hu et al. 2021,
https://arxiv.org/abs/2106.09685, section 4.1.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook.hashing import tensors_hash

# The matrices of a block: SwiGLU has a gate, and each expert all of its own.
# The paper adapts those of attention alone; Dettmers et al. 2023 (section 4,
# figure 2) find that it takes all of them to come up to full fine-tuning.
TARGETS = ("attention.qkv", "attention.output", "gate", "up", "down")
OPTIONAL = ("gate",)  # a feed-forward layer without one is whole too
VOCABULARY = ("token_embedding", "head")  # modules with a row for each token
FORMAT = "llmbook-lora"
VERSION = 1


class LoRALinear(nn.Module):
    """A linear layer that stays, and a low-rank one that learns beside it.

    (..., in) to (..., out). ``A`` (rank, in) is drawn from a normal
    distribution and ``B`` (out, rank) is zero, so that at first the layer
    computes what it did before. The width of A is left open by the paper;
    1 / sqrt(in) makes the entries of A x as large as those of x.

    Args:
        base: the layer; its weights get no gradients any more.
        rank: numbers between A and B.
        alpha: the product counts alpha / rank times, so that another rank
            does not ask for another learning rate.
        dropout: share of the inputs that A does not see while training.
        generator: draws A; None uses torch's own.

    Source: Hu et al. 2021, section 4.1.

    >>> layer = LoRALinear(nn.Linear(6, 4), rank=2, alpha=4)
    >>> [tuple(p.shape) for p in layer.parameters() if p.requires_grad]
    [(2, 6), (4, 2)]
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features = base.in_features  # attention asks for it
        self.rank, self.alpha, self.scale = rank, alpha, alpha / rank
        self.on = True
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        A = torch.randn(rank, base.in_features, generator=generator)
        self.A = nn.Parameter(A.to(**like) / math.sqrt(base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return self.base(x)
        thin = F.linear(self.dropout(x), self.A)  # (..., rank)
        return self.base(x) + self.scale * F.linear(thin, self.B)

    def merged(self) -> nn.Linear:
        """The base layer, with the product added to its matrix."""
        self.base.weight += self.scale * (self.B @ self.A)  # (out, in)
        return self.base


class TrainedRows(nn.Module):
    """An embedding that stays but for a few rows, which learn.

    A token that is new to a model has a vector that says nothing yet, and
    the matrices around it cannot make up for that: two new tokens look the
    same to them. Stands in for an ``nn.Embedding`` (V, C), or for the head
    that scores tokens, of the same shape.

    >>> table = TrainedRows(nn.Embedding(5, 2), rows=[3, 4])
    >>> [tuple(p.shape) for p in table.parameters() if p.requires_grad]
    [(2, 2)]
    """

    def __init__(
        self, base: nn.Embedding | nn.Linear, rows: Sequence[int]
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.rows, self.on = list(rows), True
        self.new = nn.Parameter(base.weight.detach()[self.rows].clone())

    @property
    def weight(self) -> Tensor:
        """The whole matrix (V, C), with the rows that learn in place."""
        if not self.on:
            return self.base.weight
        index = torch.tensor(self.rows, device=self.new.device)
        return self.base.weight.index_copy(0, index, self.new)

    def forward(self, idx: Tensor) -> Tensor:
        return F.embedding(idx, self.weight)

    def merged(self) -> nn.Embedding | nn.Linear:
        """The base, with its rows replaced."""
        self.base.weight[self.rows] = self.new
        return self.base


def apply(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = TARGETS,
    *,
    dropout: float = 0.0,
    rows: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Freeze ``model`` and put adapters on its linear layers, in place.

    Args:
        targets: the layers' names, or the ends of them; a gate is adapted
            where there is one.
        rows: ids of tokens whose vectors are learned too; the new ones of
            a vocabulary that has grown.
        rank, alpha, dropout, generator: as in :class:`LoRALinear`.

    Raises:
        ValueError: a value is out of range, a target names no linear layer,
            or the model has adapters already.

    >>> model = apply(nn.Sequential(nn.Linear(9, 9)), rank=1, targets=["0"])
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    18
    """
    _check_bare(model)
    _check_settings(rank, alpha, dropout)
    names = _layers(model, targets)
    tables = _tables(model, rows)
    model.requires_grad_(False)
    for name in names:
        base = model.get_submodule(name)
        layer = LoRALinear(base, rank, alpha, dropout, generator)
        model.set_submodule(name, layer.train(base.training))
    for name in tables:
        base = model.get_submodule(name)
        model.set_submodule(name, TrainedRows(base, rows))
    return model


def _check_bare(model: nn.Module) -> None:
    if adapters(model):
        raise ValueError(
            "the model has adapters already. Merge them with merge(model), "
            "or start from the model without."
        )


def adapters(model: nn.Module) -> dict[str, LoRALinear | TrainedRows]:
    """The adapted layers of ``model``, by name.

    >>> adapters(nn.Linear(2, 2))
    {}
    """
    kinds = (LoRALinear, TrainedRows)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds)}


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the adapters to the matrices beside them, in place.

    The model is then one without adapters again, at no cost when it runs,
    and all of it can be trained.
    """
    for name, layer in adapters(model).items():
        model.set_submodule(name, layer.merged())
    return model.requires_grad_(True)


@contextlib.contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """For a while the model that was there before the adapters.

    It is a reference to compare with that takes no second copy in memory.
    """
    layers = adapters(model).values()
    before = [layer.on for layer in layers]
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer, on in zip(layers, before, strict=True):
            layer.on = on


def save(path: str | os.PathLike[str], model: nn.Module) -> Path:
    """Write the adapters alone, beside ``path``, and rename into place.

    A safetensors file: the matrices, the settings, and a fingerprint of the
    model that they belong to.

    Raises:
        ValueError: the model has no adapters.
    """
    path, layers = Path(path), adapters(model)
    if not layers:
        raise ValueError(
            "the model has no adapters to save. Put some on with apply(), "
            "and save before merge()."
        )
    header = {"version": VERSION, "base": fingerprint(model)}
    header["settings"] = _settings(layers)
    tensors = {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if _is_learned(name, layers)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, beside, metadata={FORMAT: json.dumps(header)})
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def load(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Put the adapters that :func:`save` wrote on ``model``, in place.

    Raises:
        ValueError: the file is missing, damaged or something else, or it
            belongs to a model with other weights.
    """
    header, tensors = _read(Path(path))
    if header["base"] != fingerprint(model):
        raise ValueError(
            f"{path} was trained beside other weights than this model has; "
            "on these it would compute nonsense. Load the model that it was "
            "trained from, without adapters and not merged."
        )
    apply(model, **header["settings"])
    learned = {n for n, p in model.named_parameters() if p.requires_grad}
    if learned != tensors.keys():
        raise ValueError(
            f"{path} lacks some of the adapters that it says it has, or has "
            "others. Copy it again."
        )
    model.load_state_dict(tensors, strict=False)
    return model


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hexadecimal) of a model's own weights, adapters left out."""
    layers = adapters(model)
    return tensors_hash(
        {
            name.replace(".base.", "."): tensor
            for name, tensor in model.state_dict().items()
            if not _is_learned(name, layers)
        }
    )


def _check_settings(rank: int, alpha: float, dropout: float) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank is {rank!r}; expected a whole number from 1.")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha!r}; expected a number above 0.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}; expected 0 or up to 1.")


def _layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The linear layers whose names are, or end with, one of ``targets``."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in VOCABULARY
    ]
    for target in targets:
        found = any(f".{name}".endswith(f".{target}") for name in names)
        if not found and target not in OPTIONAL:
            raise ValueError(
                f"no linear layer's name is {target!r} or ends with it; "
                f"expected some of {', '.join(names)}."
            )
    ends = tuple(f".{target}" for target in targets)
    return [name for name in names if f".{name}".endswith(ends)]


def _tables(model: nn.Module, rows: Sequence[int]) -> list[str]:
    """The modules with a row for each token, where some are to learn."""
    if not rows:
        return []
    names = [name for name in VOCABULARY if hasattr(model, name)]
    if not names:
        raise ValueError(
            f"the model has no {' and no '.join(VOCABULARY)}, so there are "
            "no rows to train. Leave rows empty."
        )
    for name in names:
        V = len(model.get_submodule(name).weight)
        if min(rows) < 0 or max(rows) >= V or len(set(rows)) < len(rows):
            raise ValueError(
                f"rows are {list(rows)}; expected ids of different tokens "
                f"from 0 to {V - 1}. Grow the vocabulary first?"
            )
    return names


def _settings(layers: dict[str, Any]) -> dict[str, Any]:
    """What :func:`apply` has to be called with for the same adapters."""
    linear = {n: m for n, m in layers.items() if isinstance(m, LoRALinear)}
    tables = [m for m in layers.values() if isinstance(m, TrainedRows)]
    settings = {
        "targets": list(linear),
        "rows": tables[0].rows if tables else [],
    }
    for one in islice(linear.values(), 1):  # all have the same
        settings |= {"rank": one.rank, "alpha": one.alpha}
        settings["dropout"] = one.dropout.p
    return settings


def _is_learned(name: str, layers: dict[str, Any]) -> bool:
    """Whether a parameter is an adapter's own: A, B, or new rows."""
    owner, _, part = name.rpartition(".")
    return owner in layers and part in ("A", "B", "new")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an adapter's file says, and its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}). Give a file "
            "that lora.save wrote, or copy it again."
        ) from None
    if text is None:
        raise ValueError(
            f"{path} holds tensors, but no adapters: lora.save did not write "
            "it. For a checkpoint use llmbook.checkpoint.load."
        )
    header = json.loads(text)
    if header["version"] > VERSION:
        raise ValueError(
            f"{path} has version {header['version']}; this llmbook reads up "
            f"to {VERSION}. Install a newer one."
        )
    return header, tensors
