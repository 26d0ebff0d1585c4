"""Linear layers in 32 bits by oneDNN, where it is the quicker library.

PyTorch holds two libraries of matrix products for processors, Intel's MKL
and oneDNN, and sends 32-bit products to the first. On AMD's processors with
512-bit units the second was measured to be quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from llmbook import accounting, processor, runtime
from llmbook.config import GPTConfig, TrainConfig

ONEDNN_VARIABLE = "LLMBOOK_ONEDNN"  # auto, on or off, for all runs
LEAST_WORK = 1e9  # operations a step; below, calling takes what is won
PLAIN_TENSORS = (Tensor, nn.Parameter)  # and none that is cut or wrapped


@torch.library.custom_op("llmbook::product", mutates_args=())
def product(x: Tensor, weight: Tensor) -> Tensor:
    """``F.linear(x, weight)`` of two 32-bit matrices, by oneDNN.

    ``x`` is (N, A) and ``weight`` (B, A), on a processor; the result is
    (N, B). It can be differentiated, and compiled.
    """
    both = _dense(x), _dense(weight)
    if not all(one.numel() for one in both):
        return x.new_zeros(len(x), len(weight))
    return torch.ops.mkldnn._linear_pointwise(*both, None, "none", [], "")


def _dense(x: Tensor) -> Tensor:
    """``x`` itself where its rows or its columns lie one after the other."""
    return x if x.t().is_contiguous() else x.contiguous()


@product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    x, weight = inputs
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The two products of the way back, the wider side as columns."""
    x, weight = ctx.saved_tensors
    to_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
    if not ctx.needs_input_grad[1]:
        return to_x, None
    if grad.shape[1] > x.shape[1]:
        return to_x, product(x.t(), grad.t()).t()
    return to_x, product(grad.t(), x.t())


product.register_autograd(_backward, setup_context=_keep)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` by :func:`product`: ``x`` is (..., A), at least (N, A)."""
    found = torch.ops.llmbook.product(x.flatten(0, -2), weight)
    found = found.unflatten(0, x.shape[:-1])
    return found if bias is None else found + bias


def by_onednn() -> bool:
    """Whether linear layers in 32 bits are to be computed by oneDNN.

    ``LLMBOOK_ONEDNN`` says; ``auto``, the default, takes it on AMD's
    processors with 512-bit units.

    Raises:
        ValueError: the variable holds something else than its three values.
    """
    wanted = runtime.switch(ONEDNN_VARIABLE)
    if wanted == "off" or not torch.backends.mkldnn.is_available():
        return False
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wanted == "on" or (wide and "AuthenticAMD" in processor.maker())


def repays(model: nn.Module, config: TrainConfig) -> bool:
    """Whether a run is in 32 bits, on a processor, and not very small.

    Experts are left alone: how many tokens one gets changes from step to
    step, and oneDNN prepares itself for each number anew.
    """
    shape = getattr(model, "config", None)
    if not isinstance(shape, GPTConfig) or shape.n_expert:
        return False
    device = next(model.parameters()).device
    if device.type != "cpu":
        return False
    T = shape.context_length
    work = accounting.flops_per_token(shape, T, training=True)
    step = work * config.batch_size * T  # forward and backward, one batch
    dtype = runtime.best_dtype(device, config.dtype)
    return dtype == torch.float32 and step >= LEAST_WORK and by_onednn()


class LinearByOneDNN(TorchFunctionMode):
    """A context in which ``F.linear`` of plain 32-bit tensors is ours."""

    def __torch_function__(
        self,
        function: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is F.linear and len(args) > 1 and fits(*args[:2]):
            return linear(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def fits(*operands: Any) -> bool:
    """Whether all are plain matrices, or rows of them, of 32 bits.

    >>> fits(torch.ones(1, 2)), fits(torch.ones(1, 2).double())
    (True, False)
    """
    return not torch.is_autocast_enabled("cpu") and all(
        type(one) in PLAIN_TENSORS
        and one.dim() > 1
        and one.dtype == torch.float32
        and one.device.type == "cpu"
        for one in operands
    )
