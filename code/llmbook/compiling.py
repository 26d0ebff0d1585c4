"""Training by the quickest safe path: whether, and what, to compile."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._functorch import config as functorch_config

from llmbook import accounting, products, runtime
from llmbook.config import GPTConfig, TrainConfig
from llmbook.layers import GELU_CUBIC

COMPILE_VARIABLE = "LLMBOOK_COMPILE"  # auto, on or off, for all runs
COMPILER = "torch._inductor.compile_fx"  # what torch.compile calls
COMPILERS = ("g++", "c++", "clang++", "cl")  # those that Inductor looks for
# What "auto" reckons with. A rule that timed the run would choose anew when
# it is resumed, and the resumed run would not be the same to the bit.
ASSUMED_FLOPS = 2e11  # a second: two cores of a laptop
SAVED = 0.2  # of an eager run's time in 16 bits; 0.13 to 0.26 was measured
FIRST_SECONDS, LAYER_SECONDS = 20.0, 5.0  # what compiling takes at first

type_as = torch.ops.aten.type_as  # a method's call would not be cached
LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which ``torch.compile`` needs.

    It is ``CXX``, or one of the usual names on the path.
    """
    names = [os.environ.get("CXX", ""), *COMPILERS]
    return any(shutil.which(name) for name in names if name)


def compiling_repays(model: GPTConfig, config: TrainConfig) -> bool:
    """Whether a run is long enough to win back its first compiled step.

    Worked out from the configurations alone, so that a resumed run chooses
    as it did before.

    >>> small = GPTConfig(vocab_size=512, n_layer=2, n_embd=64)
    >>> compiling_repays(small, TrainConfig(steps=1000, batch_size=8))
    False
    """
    T = model.context_length
    work = accounting.flops_per_token(model, T, training=True)
    seconds = work * config.tokens(T) / ASSUMED_FLOPS
    cost = FIRST_SECONDS + LAYER_SECONDS * model.n_layer
    return SAVED * seconds > cost


def choice(config: TrainConfig) -> str:
    """What ``config.compile`` asks for, or ``LLMBOOK_COMPILE`` above it.

    Raises:
        ValueError: the variable holds something else than a choice.

    >>> choice(TrainConfig(compile="off"))
    'off'
    """
    return runtime.switch(COMPILE_VARIABLE, config.compile)


def should_compile(model: nn.Module, config: TrainConfig) -> bool:
    """Whether the run's loss is to be compiled.

    ``"auto"`` compiles where it can work and the run repays it. Experts
    are left alone: which tokens they take depends on values, and a graph
    ends there. So are 32 bits on a processor, where products take most
    of the time and compiled steps were no faster.
    """
    wanted = choice(config)
    if wanted != "auto":
        return wanted == "on"
    shape = getattr(model, "config", None)
    if not isinstance(shape, GPTConfig) or shape.n_expert:
        return False
    device = next(model.parameters()).device
    wide = runtime.best_dtype(device, config.dtype) == torch.float32
    if wide and device.type == "cpu":
        return False
    return has_compiler() and compiling_repays(shape, config)


def linear_in_parts(
    x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """``F.linear`` as a product and a sum, which a compiler fuses further.

    A product in 16 bits gets its bias in the bias' own 32.

    >>> linear_in_parts(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1))
    tensor([[3.]])
    """
    product = F.linear(x, weight)
    return product if bias is None else type_as(product + bias, product)


def gelu_by_sigmoid(x: Tensor, approximate: str = "none") -> Tensor:
    """``F.gelu``; its tanh form by (1 + tanh u) / 2 = sigmoid(2 u).

    A compiled loop takes an exponential in less time than a tanh.

    >>> gelu_by_sigmoid(torch.tensor([-50.0, 50.0]), "tanh").abs().tolist()
    [0.0, 50.0]
    """
    if approximate != "tanh":
        return F.gelu(x, approximate=approximate)
    z = x.float()
    u = math.sqrt(2 / math.pi) * (z + GELU_CUBIC * z**3)
    return type_as(z * torch.sigmoid(2 * u), x)


IN_OTHER_WORDS = {F.linear: linear_in_parts, F.gelu: gelu_by_sigmoid}


def reworded(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable:
    """A backend of ``torch.compile``: torch's own, after a change of words.

    On a processor, and up to 32 bits, two operations are put so that their
    loops are quick, or become one with those around them. What is computed
    stays the same.
    """
    if all(
        part.device.type == "cpu" and part.dtype != torch.float64
        for part in inputs
    ):
        for node in list(module.graph.nodes):
            if node.target in IN_OTHER_WORDS:
                reword(module.graph, node)
        module.recompile()
    return torch._dynamo.lookup_backend("inductor")(module, inputs)


def reword(graph: fx.Graph, node: fx.Node) -> None:
    """Put what :data:`IN_OTHER_WORDS` has in the place of ``node``."""
    tracer = fx.proxy.GraphAppendingTracer(graph)
    given = fx.node.map_arg(
        (node.args, node.kwargs), lambda one: fx.Proxy(one, tracer)
    )
    with graph.inserting_before(node):
        result = words_for(node)(*given[0], **given[1])
    result.node.meta = dict(node.meta)  # same shape, same format
    node.replace_all_uses_with(result.node)
    graph.erase_node(node)


def words_for(node: fx.Node) -> Callable:
    """What stands for ``node``: a 32-bit linear layer may be oneDNN's."""
    value = node.meta["example_value"]
    wide = value.dtype == torch.float32 and value.dim() > 1
    if node.target is F.linear and wide and products.by_onednn():
        return products.linear
    return IN_OTHER_WORDS[node.target]


class ByOneDNN:
    """A loss function whose 32-bit linear layers oneDNN computes."""

    def __init__(self, loss_function: LossFunction) -> None:
        self.plain = loss_function

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with products.LinearByOneDNN():
            return self.plain(model, x, y)


class CompiledLoss:
    """A loss function compiled as one graph: the forward pass and the loss.

    Called as ``(model, x, y)``. It does not wrap the model, so parameters
    keep their names. When compilation fails it warns once and goes on
    without, by ``plain`` where that is given.
    """

    def __init__(
        self,
        loss_function: LossFunction,
        plain: LossFunction | None = None,
    ) -> None:
        self.plain = plain or loss_function
        import_module(COMPILER)  # what it warns of is no failed compilation
        self.quick = torch.compile(
            loss_function, backend=reworded, dynamic=False
        )
        self.proven = False  # a first call has come through

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.quick is None:
            return self.plain(model, x, y)
        try:
            with contextlib.nullcontext() if self.proven else _both_ways():
                loss = self.quick(model, x, y)
        except Exception as error:
            if self.proven:
                raise
            self.give_up(error)
            return self.plain(model, x, y)
        self.proven = True
        return loss

    def give_up(self, error: Exception) -> None:
        """Say that training goes on uncompiled, and why."""
        self.quick = None
        reason = str(error).strip().split("\n")[0]
        warnings.warn(
            f"torch.compile failed ({type(error).__name__}: {reason}); "
            "training goes on without it, somewhat slower. Set "
            f"compile='off' or {COMPILE_VARIABLE}=off to leave it out.",
            stacklevel=3,
        )


def _both_ways() -> contextlib.AbstractContextManager:
    """Compile the backward pass with the forward pass, and not when it runs.

    So both can fail in the same place. Where torch has no such switch the
    backward pass is compiled later, and what it raises ends the training.
    """
    switch = "force_non_lazy_backward_lowering"
    if not hasattr(functorch_config, switch):
        return contextlib.nullcontext()
    return functorch_config.patch({switch: True})


def prepare(
    model: nn.Module, config: TrainConfig, loss_function: LossFunction
) -> LossFunction:
    """The quickest safe form of ``loss_function`` for this run.

    Compiled where :func:`should_compile`; otherwise as it came, but that
    where :func:`llmbook.products.repays` the linear layers are oneDNN's.
    The number format is :func:`llmbook.runtime.best_dtype`'s, and how tokens
    attend to each other :func:`llmbook.attention.training_attention`'s.

    Args:
        model: what is trained; it is not changed or wrapped.
        config: the run; its ``compile`` is ``"auto"``, ``"on"`` or
            ``"off"``, and ``LLMBOOK_COMPILE`` overrides it.
        loss_function: ``(model, x, y)`` to a mean loss.

    >>> prepare(nn.Linear(2, 2), TrainConfig(), max) is max
    True
    """
    plain = loss_function
    if products.repays(model, config):
        plain = ByOneDNN(loss_function)
    if should_compile(model, config):
        return CompiledLoss(loss_function, plain)
    return plain
