"""Models that no single device holds: each process keeps a slice of them.

Every weight is cut along its first dimension into as many slices as there
are processes, and its gradient and moments with it. A block's weights are
gathered when the block computes, and let go of again (Zhao et al. 2023,
https://arxiv.org/abs/2304.11277; stage 3 of Rajbhandari et al. 2020,
https://arxiv.org/abs/1910.02054, section 5). The work is torch's
``fully_shard``; here stands what it is applied to, and what must see whole
matrices all the same.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate

from llmbook.checkpoint import MODEL, OPTIMIZER, Checkpoint
from llmbook.model import GPT, Block
from llmbook.optim import Muon, orthogonalise
from llmbook.parallel import Team, TeamLoss


def cut(model: nn.Module, team: Team) -> None:
    """Leave this process its slices of ``model``, in place.

    Each block is sent to the device, given the first process's weights and
    cut, one after the other, so that the device never holds two whole ones.
    Embeddings, last norm and head are cut together, as the model's rest.
    """
    mesh = init_device_mesh(team.device.type, (team.size,))
    blocks = [part for part in model.modules() if isinstance(part, Block)]
    for part in (*blocks, model):
        part.to(team.device)
        for parameter in part.parameters():
            if not isinstance(parameter, DTensor):
                dist.broadcast(parameter.data, 0)
        fully_shard(part, mesh=mesh)


class SlicedLoss(TeamLoss):
    """The loss of a model that :func:`cut` has cut.

    Gradients are averaged and cut in one exchange, block by block, while
    the backward pass goes on. The rest is as in
    :class:`~llmbook.parallel.TeamLoss`.
    """

    def spread(self, model: nn.Module) -> None:
        """Nothing is left to do: the model's own hooks exchange."""

    def compute(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of this process's rows."""
        return self.loss_function(model, x, y)

    def exchange(self, model: nn.Module, now: bool) -> None:
        """Whether the coming backward pass exchanges gradients."""
        model.set_requires_gradient_sync(now)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        loss = super().__call__(model, x, y)
        if not torch.is_grad_enabled():  # no backward pass will let go
            model.reshard()
        return loss


def whole_direction(
    ahead: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """:func:`~llmbook.optim.orthogonalise` for a matrix in slices.

    A slice's singular values say nothing of the matrix's, so each process
    gathers the matrix, orthogonalises all of it, and keeps its own slice.
    Source: Liu et al. 2025, https://arxiv.org/abs/2502.16982, algorithm 1.
    """
    full = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
    return slice_of(orthogonalise(full.to(dtype)).float(), ahead)


def slice_of(whole: Tensor, like: Tensor) -> Tensor:
    """``whole``, which every process has, cut as ``like`` is cut."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    same = DTensor.from_local(
        whole.to(like.device), like.device_mesh, [Replicate()], run_check=False
    )
    return same.redistribute(placements=like.placements)


def fit_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Let Muon see whole matrices; AdamW goes number by number."""
    if isinstance(optimizer, Muon):
        optimizer.directions = lambda ahead: [
            whole_direction(matrix, optimizer.dtype) for matrix in ahead
        ]


def slices_of(saved: Checkpoint, model: nn.Module) -> Checkpoint:
    """A whole checkpoint, cut as ``model`` is: weights and moments."""
    own = dict(model.named_parameters())

    def cut_as_own(name: str, tensor: Tensor) -> Tensor:
        like = own.get(name.partition(":")[0])  # a moment is name:mean
        return tensor if like is None else slice_of(tensor, like)

    parts = {
        part.removesuffix("."): {
            name: cut_as_own(name, tensor)
            for name, tensor in getattr(saved, part.removesuffix(".")).items()
        }
        for part in (MODEL, OPTIMIZER)
    }
    return replace(saved, **parts)


@torch.no_grad()
def whole(model: GPT, team: Team) -> GPT | None:
    """The model in one piece, on the first process's processor.

    Every process has to call it, and all but the first get None. One tensor
    is gathered at a time, so no device ever holds the whole model. A model
    that is not cut is given back as it is.
    """
    state = model.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return model
    gathered = {}
    for name, tensor in state.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if team.speaks:
            gathered[name] = full.cpu()
    if not team.speaks:
        return None
    with torch.random.fork_rng(devices=[]):
        found = GPT(model.config)
    found.load_state_dict(gathered)
    return found.train(model.training)
