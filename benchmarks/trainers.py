"""Who trains in benchmarks/training.py: llmbook, and three peers.

Each makes a model of the same shape and a function that takes one step as
that project's own training loop does: forward pass, loss, gradient,
clipping, AdamW.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmbook import compiling
from llmbook.config import GPTConfig, TrainConfig
from llmbook.model import GPT
from llmbook.train import make_optimizer, next_token_loss, training_step

RATE, DECAY, CLIP = 1e-4, 0.1, 1.0
Step = Callable[[], float]  # one step, and its loss
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """A model and its batch: L layers of width C, B sequences of T tokens."""

    name: str
    L: int
    C: int
    H: int
    V: int
    T: int
    B: int

    @property
    def matmul_parameters(self) -> int:
        """N in 6 N operations a token: the blocks' matrices and the head."""
        return 12 * self.L * self.C**2 + self.V * self.C

    @property
    def config(self) -> GPTConfig:
        """The shape as our model takes it, without the batch."""
        return GPTConfig(
            vocab_size=self.V,
            context_length=self.T,
            n_layer=self.L,
            n_head=self.H,
            n_embd=self.C,
        )

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.B * self.T

    def batch(self) -> tuple[Tensor, Tensor]:
        """Ids and targets, (B, T) each, drawn evenly."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(self.V, (self.B, self.T + 1), generator=generator)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


@dataclass(frozen=True)
class Mode:
    """A number format, and whether the model is compiled."""

    dtype: str
    compiled: bool

    @property
    def name(self) -> str:
        return f"{self.dtype} {'compiled' if self.compiled else 'eager'}"


MODES = [
    Mode("bfloat16", True),
    Mode("bfloat16", False),
    Mode("float32", True),
    Mode("float32", False),
]


class Always:
    """The same batch at every step."""

    def __init__(self, shape: Shape) -> None:
        self.batch = shape.batch()

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        return self.batch


def ours(shape: Shape, mode: Mode, folder: Path | None = None) -> Step:
    """llmbook: the training step that ``train()`` takes."""
    run = TrainConfig(
        steps=1_000_000,
        learning_rate=RATE,
        min_learning_rate=RATE,
        dtype=mode.dtype,
        compile="on" if mode.compiled else "off",
    )
    model = GPT(shape.config)
    loss = compiling.prepare(model, run, next_token_loss)
    optimizer, batches = make_optimizer(model, run), Always(shape)
    return lambda: training_step(model, optimizer, batches, 0, run, loss)[0]


def stepping(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    shape: Shape,
    mode: Mode,
) -> Step:
    """The step that the peers' loops have in common."""
    x, y = shape.batch()
    narrow = mode.dtype == "bfloat16"

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            found = loss(x, y)
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return found.item()

    return step


def compiled(model: nn.Module, mode: Mode) -> Any:
    """As the peers compile: the model, with the loss inside if it has it."""
    return torch.compile(model) if mode.compiled else model


def transformers_shape(c: GPTConfig) -> dict[str, Any]:
    """``c`` as transformers' ``GPT2Config`` takes it."""
    return {
        "vocab_size": c.vocab_size,
        "n_positions": c.context_length,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 0,
    }


def nanogpt_shape(c: GPTConfig) -> dict[str, Any]:
    """``c`` as nanoGPT's ``GPTConfig`` takes it."""
    return {
        "block_size": c.context_length,
        "vocab_size": c.vocab_size,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "dropout": 0.0,
        "bias": True,
    }


def raschka_shape(c: GPTConfig) -> dict[str, Any]:
    """``c`` as the settings of Raschka's models."""
    return {
        "vocab_size": c.vocab_size,
        "context_length": c.context_length,
        "emb_dim": c.n_embd,
        "n_heads": c.n_head,
        "n_layers": c.n_layer,
        "drop_rate": 0.0,
        "qkv_bias": True,
    }


def transformers_gpt2(
    shape: Shape, mode: Mode, folder: Path | None = None
) -> Step:
    """Hugging Face's GPT-2, with the Trainer's optimizer (fused AdamW)."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        **transformers_shape(shape.config),
        use_cache=False,
        eos_token_id=0,
        loss_type="ForCausalLM",
    )
    model = transformers.GPT2LMHeadModel(config).train()
    quick = compiled(model, mode)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=DECAY, fused=True
    )

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return quick(input_ids=x, labels=x).loss

    return stepping(model, loss, optimizer, shape, mode)


def load_file(path: Path, name: str) -> ModuleType:
    """The Python file ``path`` as a module.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; give the folder of a clone of the project."
        )
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def nanogpt(shape: Shape, mode: Mode, folder: Path | None = None) -> Step:
    """nanoGPT: ``model.py`` of its folder, and its own optimizer."""
    module = load_file(folder / "model.py", "nanogpt_model")
    config = module.GPTConfig(**nanogpt_shape(shape.config))
    model = module.GPT(config).train()
    quick = compiled(model, mode)
    betas = 0.9, 0.95
    optimizer = model.configure_optimizers(DECAY, RATE, betas, "cpu")
    return stepping(model, lambda x, y: quick(x, y)[1], optimizer, shape, mode)


def raschka(shape: Shape, mode: Mode, folder: Path | None = None) -> Step:
    """Raschka's GPTModelFast: the package from PyPI, or its folder."""
    if folder is not None:
        inner = [folder, folder / "pkg"]
        found = [f for f in inner if (f / "llms_from_scratch").is_dir()]
        if not found:
            raise FileNotFoundError(
                f"{folder} holds no llms_from_scratch; give the folder of a "
                "clone of LLMs-from-scratch."
            )
        sys.path.insert(0, str(found[0]))
    chapter = importlib.import_module("llms_from_scratch.ch04")
    model = chapter.GPTModelFast(raschka_shape(shape.config)).train()
    quick = compiled(model, mode)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=DECAY
    )

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(quick(x).flatten(0, 1), y.flatten())

    return stepping(model, loss, optimizer, shape, mode)


TRAINERS: dict[str, Callable[[Shape, Mode, Path | None], Step]] = {
    "llmbook": ours,
    "transformers": transformers_gpt2,
    "nanoGPT": nanogpt,
    "Raschka": raschka,
}
